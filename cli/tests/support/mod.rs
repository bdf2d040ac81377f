//! Runs `am` as a process, with a limit on everything that is waited for, and kills what a test leaves behind.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Longer than anything here takes on a busy machine; reached only when something hangs.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);

/// What a finished `am` left.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).expect("the output is text")
    }

    /// Each line of the output as JSON.
    pub(crate) fn json(&self) -> Vec<Value> {
        let lines = self.text().lines();
        lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"))).collect()
    }

    /// The error that was asked for as JSON.
    pub(crate) fn error(&self) -> Value {
        serde_json::from_str(&self.stderr).unwrap_or_else(|e| panic!("{e}: {}", self.stderr))
    }

    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {:?}\nstderr: {}", self.text(), self.stderr);
        self
    }
}

/// A running `am`.
pub(crate) struct Running {
    pub(crate) child: Child,
    stdout: Receiver<Vec<u8>>,
    stderr: Receiver<Vec<u8>>,
    /// What was taken of the output by [`next_line`](Self::next_line).
    taken: Vec<u8>,
}

impl Running {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Self::start_with_input(arguments, Vec::new())
    }

    /// Starts it with `input` on its standard input, which then ends.
    pub(crate) fn start_with_input(arguments: &[&str], input: Vec<u8>) -> Self {
        let mut child = am(arguments).stdin(Stdio::piped()).spawn().expect("am starts");
        let mut stdin = child.stdin.take().expect("it is piped");
        // It may end without reading its input.
        thread::spawn(move || drop(stdin.write_all(&input)));
        Self::of(child)
    }

    pub(crate) fn of(mut child: Child) -> Self {
        let stdout = child.stdout.take().map_or_else(|| channel().1, read_lines);
        let stderr = child.stderr.take().map_or_else(|| channel().1, read_lines);
        Self { child, stdout, stderr, taken: Vec::new() }
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Ended {
        let status = wait(&mut self.child);
        let rest = |pipe: &Receiver<Vec<u8>>| -> Vec<u8> {
            std::iter::from_fn(|| pipe.recv_timeout(LIMIT).ok()).flatten().collect()
        };
        let mut stdout = std::mem::take(&mut self.taken);
        stdout.extend(rest(&self.stdout));
        let stderr = rest(&self.stderr);
        Ended { code: status.code(), stdout, stderr: String::from_utf8_lossy(&stderr).into_owned() }
    }

    /// The next line of its output, as soon as it is there.
    #[track_caller]
    pub(crate) fn next_line(&mut self) -> String {
        let line = self.stdout.recv_timeout(LIMIT).expect("it says more");
        self.taken.extend(&line);
        String::from_utf8(line).expect("it is text").trim_end().to_owned()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running `am serve --json`.
pub(crate) struct Server {
    child: Child,
    pub(crate) announced: Value,
}

impl Server {
    pub(crate) fn start(arguments: &[&str]) -> Self {
        let all = [&["serve", "--json"], arguments].concat();
        let mut child = am(&all).stderr(Stdio::null()).spawn().expect("am starts");
        let line = child.stdout.take().map(read_lines).expect("it is piped");
        let line = line.recv_timeout(LIMIT).expect("it says where it listens");
        Self { child, announced: serde_json::from_slice(&line).expect("it says so in JSON") }
    }

    pub(crate) fn endpoints(&self) -> Vec<String> {
        let endpoints = self.announced["listening"].as_array().expect("it lists endpoints");
        endpoints.iter().map(|endpoint| endpoint.as_str().expect("as text").to_owned()).collect()
    }

    pub(crate) fn endpoint(&self) -> String {
        self.endpoints().remove(0)
    }

    pub(crate) fn instance(&self) -> &str {
        self.announced["instance"].as_str().expect("it has an id")
    }

    /// `am VERB ENDPOINT ARGUMENTS`, finished.
    pub(crate) fn am(&self, verb: &str, arguments: &[&str]) -> Ended {
        self.start_am(verb, arguments).finish()
    }

    pub(crate) fn start_am(&self, verb: &str, arguments: &[&str]) -> Running {
        let endpoint = self.endpoint();
        Running::start(&[&[verb, endpoint.as_str()], arguments].concat())
    }

    /// The number of messages that it has counted.
    pub(crate) fn counted(&self) -> u64 {
        let ended = self.am("call", &["count"]).expect(0);
        ended.text().trim().parse().expect("it answers a number")
    }

    /// Waits until `count` requests run there.
    pub(crate) fn wait_for_running(&self, count: u64) {
        let start = Instant::now();
        while self.am("health", &["--json"]).expect(0).json()[0]["running"] != count {
            assert!(start.elapsed() < LIMIT, "{count} requests never ran at once");
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        send_signal(&self.child, signal);
    }

    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn run(arguments: &[&str]) -> Ended {
    Running::start(arguments).finish()
}

/// `am` with its output piped and nothing on its standard input.
pub(crate) fn am(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_am"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn send_signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).expect("it still runs");
}

/// Waits for the end in a loop that yields: std has no wait with a limit.
#[track_caller]
fn wait(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("it can be waited for") {
            return status;
        }
        assert!(start.elapsed() < LIMIT, "am did not end");
        thread::park_timeout(Duration::from_millis(1));
    }
}

/// Reads to the end, handing on each line when it has come.
fn read_lines(pipe: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (send, receive) = channel();
    let mut pipe = BufReader::new(pipe);
    thread::spawn(move || {
        loop {
            let mut line = Vec::new();
            let len = pipe.read_until(b'\n', &mut line).unwrap_or(0);
            if len == 0 || send.send(line).is_err() {
                return;
            }
        }
    });
    receive
}
