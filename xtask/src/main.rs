//! Chores of the repository: `cargo xtask test | costs | tidy | examples`.
//!
//! `test` and `costs` are what a change must pass; the other two are steps of `test` that can be run alone. Plain
//! std, so that it builds in a second on a machine that has nothing yet.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "its output is for a person at a terminal")]

mod apt;
mod costs;
mod examples;
mod python;
mod readme;
mod step;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

/// What a chore ends with: nothing, or the text that says what failed and what to do about it.
type Outcome<T = ()> = Result<T, String>;

const USAGE: &str = "\
usage: cargo xtask CHORE

  test       all tests, the pure layers alone, tidy, examples
  costs      instructions and allocations per message, against their targets
  tidy       the rules of the house style that a program can check
  examples   runs each example program, checks the README's, calls `am serve` from Python";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let chore: fn(&Repository) -> Outcome = match *arguments.as_slice() {
        ["test"] => test,
        ["costs"] => costs::run,
        ["tidy"] => tidy::run,
        ["examples"] => examples::run,
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match Repository::find().and_then(|repository| chore(&repository)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("xtask: {reason}");
            ExitCode::FAILURE
        }
    }
}

fn test(repository: &Repository) -> Outcome {
    let python = python::with_pyzmq(repository)?;
    // The simulation has a profile of its own, or it would take minutes.
    let most = ["test", "--workspace", "--all-features", "--exclude", "dynamo-am-sim"];
    step::run(repository.cargo(&most).env(python::VARIABLE, &python))?;
    step::run(&mut repository.cargo(&["test", "--profile", "sim", "-p", "dynamo-am-sim"]))?;
    step::run(&mut repository.cargo(&["test", "-p", "dynamo-am", "--no-default-features", "--lib"]))?;
    step::heading("cargo xtask tidy");
    tidy::run(repository)?;
    step::heading("cargo xtask examples");
    examples::run(repository)
}

/// Where the repository is and where cargo puts what it builds.
struct Repository {
    root: PathBuf,
    /// The directory of the binaries, such as `target/debug`.
    binaries: PathBuf,
}

impl Repository {
    fn find() -> Outcome<Self> {
        let manifest = std::env::var_os("CARGO_MANIFEST_DIR")
            .ok_or("not started by cargo; run `cargo xtask` inside the repository")?;
        let root = Path::new(&manifest).parent().ok_or("the manifest's directory has no parent")?;
        let own = std::env::current_exe().map_err(|error| format!("cannot find the own binary: {error}"))?;
        let binaries = own.parent().ok_or("the own binary has no directory")?;
        Ok(Self { root: root.to_owned(), binaries: binaries.to_owned() })
    }

    /// A file or directory below cargo's target directory.
    fn target(&self, name: &str) -> PathBuf {
        self.binaries.parent().unwrap_or(&self.root).join(name)
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        command.args(arguments).current_dir(&self.root);
        command
    }

    /// A script of the repository.
    fn script(&self, path: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.root.join(path));
        command.args(arguments).current_dir(&self.root);
        command
    }

    fn read(&self, path: &str) -> Outcome<String> {
        std::fs::read_to_string(self.root.join(path)).map_err(|error| format!("cannot read {path}: {error}"))
    }
}
