//! One measured process as its conductor holds it: lines out, lines in, every wait bounded, and the
//! process killed and reaped whenever its holder goes away.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

use crate::error::BenchError;
use crate::role::ROLE_COMMAND;
use crate::spec::{Role, RoleSpec};

/// Longest line that is taken from a process, in bytes; its longest real one lists a hundred addresses.
const LINE_LEN_MAX: u64 = 64 << 10;
/// Lines that may wait to be read; a process that says more is held back by its pipe.
const LINES_MAX: usize = 16;
/// How much of the end of an error stream is kept, in bytes.
const ERRORS_LEN_MAX: usize = 2 << 10;
/// Characters of a wrong line that an error quotes.
const QUOTE_LEN_MAX: usize = 200;
/// How long a process may take to end once it was told to.
const EXIT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long to wait for the end of a dead process's error stream.
const ERRORS_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a process that was told to end is looked at: std has no wait with a limit.
const EXIT_POLL_INTERVAL: Duration = Duration::from_millis(2);

/// How a role is started: a program, with another one in front of it where it is to run under that.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    /// Programs and arguments in front, such as those of valgrind.
    pub(crate) under: Vec<String>,
    /// A program that plays roles.
    pub(crate) exe: PathBuf,
    /// How long it may take to end, once it was told to.
    pub(crate) exit_timeout: Duration,
}

impl Launch {
    /// The program itself.
    pub(crate) fn plain(exe: &Path) -> Self {
        Self { under: Vec::new(), exe: exe.to_owned(), exit_timeout: EXIT_TIMEOUT }
    }

    fn command(&self) -> Command {
        let Some((first, rest)) = self.under.split_first() else { return Command::new(&self.exe) };
        let mut command = Command::new(first);
        command.args(rest).arg(&self.exe);
        command
    }
}

/// A running role. Dropping it kills the process and waits for it.
#[derive(Debug)]
pub(crate) struct RoleProcess {
    role: &'static str,
    case: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
    errors: Receiver<String>,
    exit_timeout: Duration,
}

impl RoleProcess {
    /// Starts `exe bench-role SPEC`.
    pub(crate) fn start(launch: &Launch, spec: &RoleSpec) -> Result<Self, BenchError> {
        let role = match spec.role {
            Role::Server => "server",
            Role::Client { .. } => "client",
            Role::Both => "process",
        };
        let mut command = launch.command();
        let exe = command.get_program().to_string_lossy().into_owned();
        let spawn_error = |source| BenchError::Spawn { role, exe, source };
        let json = match serde_json::to_string(spec) {
            Ok(json) => json,
            Err(error) => return Err(spawn_error(error.into())),
        };
        let mut child = command
            .args([ROLE_COMMAND, &json])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(spawn_error)?;
        let (line_sender, lines) = sync_channel(LINES_MAX);
        let (error_sender, errors) = sync_channel(1);
        let (input, output, error_stream) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let case = format!("{} {}", spec.system, spec.case);
        let process = Self { role, case, child, input, lines, errors, exit_timeout: launch.exit_timeout };
        // Both threads end when the process's streams do, at the latest when this value is dropped.
        if let Some(output) = output {
            thread::spawn(move || forward_lines(output, &line_sender));
        }
        if let Some(error_stream) = error_stream {
            thread::spawn(move || keep_tail(error_stream, &error_sender));
        }
        Ok(process)
    }

    /// Gives an order. A process that can no longer hear it is found out at its next line.
    pub(crate) fn order(&mut self, order: &str) {
        if let Some(input) = &mut self.input {
            // A broken pipe means the process has ended, and its error stream knows better why.
            let _ = writeln!(input, "{order}");
        }
    }

    /// The next line.
    pub(crate) fn line(&mut self, expected: &'static str, limit: Duration) -> Result<String, BenchError> {
        let (role, case) = (self.role, self.case.clone());
        match self.lines.recv_timeout(limit) {
            Ok(line) => Ok(line),
            Err(RecvTimeoutError::Timeout) => {
                let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
                Err(BenchError::Silent { role, case, expected, limit_ms })
            }
            Err(RecvTimeoutError::Disconnected) => {
                let said = self.errors.recv_timeout(ERRORS_TIMEOUT).unwrap_or_default();
                let said = if said.is_empty() { "it gave no reason".to_owned() } else { said };
                Err(BenchError::Ended { role, case, expected, said })
            }
        }
    }

    /// The next line, decoded.
    pub(crate) fn json<T: DeserializeOwned>(
        &mut self,
        expected: &'static str,
        limit: Duration,
    ) -> Result<T, BenchError> {
        let line = self.line(expected, limit)?;
        serde_json::from_str(&line).map_err(|_| self.unexpected(expected, &line))
    }

    /// The error for a line that is not what was due.
    pub(crate) fn unexpected(&self, expected: &'static str, line: &str) -> BenchError {
        let line = line.chars().take(QUOTE_LEN_MAX).collect();
        BenchError::Unexpected { role: self.role, case: self.case.clone(), expected, line }
    }

    /// Lets a process that has said its last line end by itself; one that doesn't is killed by the drop.
    pub(crate) fn finish(mut self) {
        self.input = None;
        let deadline = Instant::now() + self.exit_timeout;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            thread::sleep(EXIT_POLL_INTERVAL);
        }
    }
}

impl Drop for RoleProcess {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn forward_lines(output: impl Read, lines: &SyncSender<String>) {
    let mut output = BufReader::new(output);
    loop {
        let mut line = Vec::new();
        match output.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line) {
            Ok(read) if read > 0 => {}
            _ => return,
        }
        let line = String::from_utf8_lossy(&line).trim_end().to_owned();
        if lines.send(line).is_err() {
            return;
        }
    }
}

fn keep_tail(mut stream: impl Read, tail_sender: &SyncSender<String>) {
    let (mut tail, mut chunk) = (VecDeque::new(), [0; 1024]);
    while let Ok(read) = stream.read(&mut chunk) {
        if read == 0 {
            break;
        }
        tail.extend(chunk.iter().take(read));
        let excess = tail.len().saturating_sub(ERRORS_LEN_MAX);
        tail.drain(..excess);
    }
    let text = String::from_utf8_lossy(tail.make_contiguous()).trim().to_owned();
    // The holder is gone when nobody asks for the reason.
    let _ = tail_sender.send(text);
}
