//! Processes of the `am` command for its tests.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

/// The command, with no terminal and a short backtrace.
pub fn am(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_am"));
    command.args(args).stdin(Stdio::null()).env("RUST_BACKTRACE", "0");
    command
}

/// Runs it to its end.
pub fn run(args: &[&str]) -> Output {
    am(args).output().unwrap()
}

/// Its exit code.
pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

/// What it printed.
pub fn text(octets: &[u8]) -> String {
    String::from_utf8_lossy(octets).into_owned()
}

/// A serving node that is killed when the test ends.
pub struct Served {
    pub child: Child,
    pub endpoint: String,
}

impl Served {
    /// Starts `am serve` and waits until it is usable.
    pub fn start(more: &[&str]) -> Self {
        let args = [&["serve"], more].concat();
        let mut child = am(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let endpoint = line.trim().strip_prefix("listening ").expect("an endpoint").to_owned();
        Self { child, endpoint }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
