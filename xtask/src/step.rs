//! Running other programs: what is run is printed first, and every wait for an example has a limit.
//!
//! Output of a limited program goes to a file, not a pipe: nothing can then block on a full or forgotten pipe.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::Outcome;

/// How often a running program is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

pub(crate) fn heading(text: &str) {
    println!("\n$ {text}");
}

/// Runs a command to its end, with our own output. An exit code other than 0 is an error.
pub(crate) fn run(command: &mut Command) -> Outcome {
    let shown = shown(command);
    heading(&shown);
    let status = command.status().map_err(|error| format!("cannot start `{shown}`: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed: {status}")) }
}

/// Whether a command ends well; says nothing.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A program that runs beside us and is killed when this is dropped.
pub(crate) struct Program {
    shown: String,
    child: Child,
    log: PathBuf,
}

impl Program {
    /// Starts `command` with both of its outputs in the file `log`.
    pub(crate) fn start(command: &mut Command, log: &Path) -> Outcome<Self> {
        let shown = shown(command);
        heading(&shown);
        let broken = |error| format!("cannot write {}: {error}", log.display());
        if let Some(directory) = log.parent() {
            fs::create_dir_all(directory).map_err(broken)?;
        }
        let output = File::create(log).map_err(broken)?;
        let errors = output.try_clone().map_err(broken)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .map_err(|error| format!("cannot start `{shown}`: {error}"))?;
        Ok(Self { shown, child, log: log.to_owned() })
    }

    /// Waits until the program has ended with code 0, and returns what it printed.
    pub(crate) fn finish(mut self, limit: Duration) -> Outcome<String> {
        let status = self.wait(limit)?;
        let output = self.output();
        if status.success() {
            return Ok(output);
        }
        Err(format!("`{}` failed: {status}; it printed:\n{output}", self.shown))
    }

    /// Waits until `found` finds something in what the program has printed so far.
    pub(crate) fn await_output<T>(
        &mut self,
        what: &str,
        limit: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Outcome<T> {
        let start = Instant::now();
        loop {
            let ended = self.ended()?;
            let output = self.output();
            if let Some(value) = found(&output) {
                return Ok(value);
            }
            if let Some(status) = ended {
                return Err(format!("`{}` ended before {what}: {status}; it printed:\n{output}", self.shown));
            }
            if start.elapsed() > limit {
                let seconds = limit.as_secs();
                return Err(format!("`{}`: no {what} within {seconds} s; it printed:\n{output}", self.shown));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    /// Asks the program to end, as a service manager would, and waits until it has.
    pub(crate) fn terminate(mut self, limit: Duration) -> Outcome {
        run(Command::new("sh").args(["-c", "kill -TERM \"$0\"", &self.child.id().to_string()]))?;
        self.wait(limit).map(drop).map_err(|reason| format!("asked to end by SIGTERM: {reason}"))
    }

    fn wait(&mut self, limit: Duration) -> Outcome<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                let (seconds, output) = (limit.as_secs(), self.output());
                return Err(format!(
                    "`{}` did not end within {seconds} s; it printed:\n{output}",
                    self.shown
                ));
            }
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    fn ended(&mut self) -> Outcome<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| format!("cannot wait for `{}`: {error}", self.shown))
    }

    fn output(&self) -> String {
        fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command as one would type it.
fn shown(command: &Command) -> String {
    let variables = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()))
    });
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
    variables.chain([program]).chain(arguments).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    fn start(script: &str, log: &str) -> Program {
        let log = std::env::current_exe().unwrap().with_file_name(format!("xtask-step-{log}.log"));
        Program::start(Command::new("sh").args(["-c", script]), &log).unwrap()
    }

    #[test]
    fn a_program_that_fails_is_an_error_with_its_output() {
        assert_eq!(start("echo well", "well").finish(LIMIT).unwrap(), "well\n");
        let error = start("echo why >&2; exit 3", "fails").finish(LIMIT).unwrap_err();
        assert!(error.contains("why") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_program_over_its_limit_is_killed() {
        let error = start("exec tail -f /dev/null", "limit").finish(Duration::ZERO).unwrap_err();
        assert!(error.contains("did not end"), "{error}");
    }

    #[test]
    fn a_server_is_waited_for_and_ended_by_a_signal() {
        let mut server = start("echo at here; exec tail -f /dev/null", "server");
        let found = server.await_output("line", LIMIT, |text| text.contains("here\n").then_some(1));
        assert_eq!(found, Ok(1));
        assert_eq!(server.terminate(LIMIT), Ok(()));
    }

    #[test]
    fn a_server_that_ends_early_is_an_error_at_once() {
        let error = start("exit 0", "early").await_output("line", LIMIT, |_| None::<()>).unwrap_err();
        assert!(error.contains("ended before"), "{error}");
    }

    #[test]
    fn a_command_is_shown_as_one_would_type_it() {
        let mut command = Command::new("a/b/cargo");
        command.args(["test", "-p", "x"]).env("NAME", "value");
        assert_eq!(shown(&command), "NAME=value cargo test -p x");
    }
}
