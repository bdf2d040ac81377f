//! The Python scripts beside this file, run with pyzmq.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::OnceCell;

use crate::common::soon;

/// How long a script may take: it moves hundreds of mebibytes.
const SCRIPT_PATIENCE: Duration = Duration::from_secs(120);

/// A script that runs. Killed when dropped.
pub(crate) struct Script {
    pub(crate) child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Script {
    pub(crate) async fn start(name: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(python().await)
            .arg(format!("{}/tests/interop/{name}.py", env!("CARGO_MANIFEST_DIR")))
            .args(arguments)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    pub(crate) async fn line(&mut self) -> String {
        let line = tokio::time::timeout(SCRIPT_PATIENCE, self.lines.next_line()).await;
        line.expect("the script hangs").unwrap().expect("the script has failed, as its words above say")
    }

    /// Waits until it has ended well.
    pub(crate) async fn done(mut self) {
        assert_eq!(self.line().await, "done");
        assert!(soon("the script's end", self.child.wait()).await.unwrap().success());
    }
}

/// A Python that has pyzmq. Without one these tests fail: skipped in silence, they would prove nothing.
async fn python() -> &'static str {
    static PYTHON: OnceCell<String> = OnceCell::const_new();
    PYTHON
        .get_or_init(async || {
            let python = std::env::var("DYNAMO_AM_PYTHON").unwrap_or_else(|_| "python3".to_owned());
            let check = Command::new(&python).args(["-c", "import zmq"]).stderr(Stdio::null()).status().await;
            assert!(
                check.is_ok_and(|status| status.success()),
                "`{python}` cannot import zmq: run `cargo xtask test`, which installs it, or set DYNAMO_AM_PYTHON \
                 to a Python that has pyzmq"
            );
            python
        })
        .await
}
