//! Helper processes: this program again, in a role, with lines in and lines out.
//!
//! A process ends with its scenario whatever becomes of that: it is killed when its [`Process`] is dropped; the
//! kernel kills it when the thread that started it is gone (even while it is stopped by a signal); and it ends
//! by itself when its standard input does.

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::failure::{Failure, Result};

/// The first argument of a helper process: `chaos role NAME JSON`.
pub const ROLE_COMMAND: &str = "role";

/// Lines that may wait to be read; a process that says more is held back by its pipe.
const LINES_MAX: usize = 256;
/// The longest line that is taken, in bytes.
const LINE_LEN_MAX: u64 = 1 << 20;
/// How often a process that is ending is looked at: the standard library has no wait with a limit.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// What a helper process can be.
#[derive(Debug, Clone, Copy)]
pub struct Role {
    /// Unique among all groups.
    pub name: &'static str,
    /// Plays it, with its arguments as JSON; called on the main thread, outside of any runtime.
    pub play: fn(&str) -> Result<()>,
}

/// A running helper. Killed and waited for when dropped.
#[derive(Debug)]
pub struct Process {
    role: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts this program in a role. Its standard error is ours.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start(role: &str, arguments: &impl Serialize) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([ROLE_COMMAND, role, &serde_json::to_string(arguments)?]);
        Self::spawn(role, command)
    }

    /// The same inside of a network namespace, by `ip netns exec`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_in(namespace: &str, role: &str, arguments: &impl Serialize) -> Result<Self> {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace]).arg(std::env::current_exe()?);
        command.args([ROLE_COMMAND, role, &serde_json::to_string(arguments)?]);
        Self::spawn(role, command)
    }

    /// Starts another program in the same way: it must end when its standard input does.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_program(program: &str, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(program);
        command.args(arguments);
        Self::spawn(program, command)
    }

    fn spawn(role: &str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| Failure::from(error).during(format!("starting `{role}`")))?;
        let (sender, lines) = mpsc::channel(LINES_MAX);
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let process = Self { role: role.to_owned(), child, input, lines };
        if let Some(output) = output {
            // Ends with the process's output, at the latest when the process is dropped.
            thread::spawn(move || forward_lines(output, &sender));
        }
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its next line.
    ///
    /// # Errors
    ///
    /// When none comes within `limit`, or the process has ended.
    pub async fn line(&mut self, expected: &str, limit: Duration) -> Result<String> {
        match tokio::time::timeout(limit, self.lines.recv()).await {
            Ok(Some(line)) => Ok(line),
            Ok(None) => Err(self.failure(format!("ended before it said {expected}"))),
            Err(_) => Err(self.failure(format!("did not say {expected} within {limit:?}"))),
        }
    }

    /// Its next line, decoded.
    ///
    /// # Errors
    ///
    /// As [`line`](Self::line), and when the line is something else.
    pub async fn json<T: DeserializeOwned>(&mut self, expected: &str, limit: Duration) -> Result<T> {
        let line = self.line(expected, limit).await?;
        serde_json::from_str(&line)
            .map_err(|error| self.failure(format!("said `{line}` instead of {expected}: {error}")))
    }

    /// Gives an order: one line.
    ///
    /// # Errors
    ///
    /// When the process cannot hear it any more.
    pub fn order(&mut self, order: &str) -> Result<()> {
        let written = match &mut self.input {
            Some(input) => writeln!(input, "{order}").and_then(|()| input.flush()),
            None => Err(std::io::ErrorKind::BrokenPipe.into()),
        };
        written.map_err(|error| self.failure(format!("cannot be told `{order}`: {error}")))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| self.failure("has no process id"))?;
        kill_process(pid, signal).map_err(|error| self.failure(format!("takes no signal: {error}")))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    ///
    /// When it has not within `limit`.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(self.failure(format!("has not ended within {limit:?}")));
            }
            tokio::time::sleep(EXIT_POLL_INTERVAL).await;
        }
    }

    /// As `kill -9`, and waits until the kernel has taken it away.
    ///
    /// # Errors
    ///
    /// When it cannot be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn failure(&self, what: impl std::fmt::Display) -> Failure {
        Failure::new(format!("the process `{}` ({}) {what}", self.role, self.pid()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a process that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward_lines(output: impl Read, lines: &mpsc::Sender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.blocking_send(line).is_err() {
            return;
        }
    }
}

/// The role's side of its standard streams: orders in, lines out.
#[derive(Debug)]
pub struct Orders(mpsc::Receiver<String>);

impl Orders {
    /// Begins to listen. From now on this process ends when its standard input does.
    #[must_use]
    pub fn listen() -> Self {
        let (sender, orders) = mpsc::channel(LINES_MAX);
        thread::spawn(move || {
            forward_lines(std::io::stdin().lock(), &sender);
            // Whoever started this process is gone.
            std::process::exit(1);
        });
        Self(orders)
    }

    /// The next order. Waits for ever when none comes: the process ends with its input.
    pub async fn next(&mut self) -> String {
        match self.0.recv().await {
            Some(order) => order,
            None => std::future::pending().await,
        }
    }

    /// The next order, which must be `expected`.
    ///
    /// # Errors
    ///
    /// When it is another.
    pub async fn expect(&mut self, expected: &str) -> Result<()> {
        let order = self.next().await;
        crate::ensure!(order == expected, "was told `{order}` instead of `{expected}`");
        Ok(())
    }
}

/// Says a line to whoever started this process.
///
/// # Errors
///
/// When nobody listens.
pub fn say(line: impl std::fmt::Display) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// Says a value as a line of JSON.
///
/// # Errors
///
/// When nobody listens.
pub fn say_json(value: &impl Serialize) -> Result<()> {
    say(serde_json::to_string(value)?)
}

/// Plays the role `name` in this process.
///
/// # Errors
///
/// When there is no such role, or it fails.
pub fn play(name: &str, arguments: &str) -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let role = crate::scenario::find_role(name);
    let role = role.ok_or_else(|| Failure::new(format!("there is no role `{name}`")))?;
    (role.play)(arguments).map_err(|failure| failure.during(format!("in the role `{name}`")))
}
