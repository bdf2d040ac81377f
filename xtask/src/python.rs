//! A Python with pyzmq, below `target/py`: the tests of interoperation talk to the real libzmq through it.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Outcome, Repository, apt, step};

/// Tells the tests which Python to use. If it is set already, that Python is used as it is.
pub(crate) const VARIABLE: &str = "DYNAMO_AM_PYTHON";

/// The release line whose libzmq the tests were written against.
const REQUIREMENT: &str = "pyzmq==27.*";
const CHECK: &str = "import sys, zmq; sys.exit(zmq.__version__.split('.')[0] != '27')";
const PACKAGES: [&str; 2] = ["python3", "python3-venv"];

/// The path of a Python that can import pyzmq; makes one if there is none yet.
pub(crate) fn with_pyzmq(repository: &Repository) -> Outcome<PathBuf> {
    if let Some(chosen) = std::env::var_os(VARIABLE) {
        let chosen = PathBuf::from(chosen);
        return if has_pyzmq(&chosen) {
            Ok(chosen)
        } else {
            Err(format!(
                "{VARIABLE}={} cannot import {REQUIREMENT}; install it or unset {VARIABLE}",
                chosen.display()
            ))
        };
    }
    let home = repository.target("py");
    let python = home.join("bin").join("python");
    if has_pyzmq(&python) {
        return Ok(python);
    }
    if !can_make_environments() {
        install_packages()?;
    }
    step::run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&home))?;
    step::run(Command::new(&python).args(["-m", "pip", "install", "--no-input", "--quiet", REQUIREMENT]))?;
    if has_pyzmq(&python) {
        return Ok(python);
    }
    Err(format!("{} cannot import {REQUIREMENT} though pip has installed it", python.display()))
}

fn has_pyzmq(python: &Path) -> bool {
    step::succeeds(Command::new(python).args(["-c", CHECK]))
}

/// Debian splits `ensurepip` off, and without it `python3 -m venv` fails half-way.
fn can_make_environments() -> bool {
    step::succeeds(Command::new("python3").args(["-c", "import ensurepip, venv"]))
}

fn install_packages() -> Outcome {
    let why = format!(
        "the tests need a Python that can make virtual environments (`venv` with `ensurepip`), or {VARIABLE} set to \
         one that has {REQUIREMENT}"
    );
    apt::install(&PACKAGES, &why)?;
    if can_make_environments() {
        return Ok(());
    }
    Err("the packages are installed, and still `python3 -c 'import ensurepip, venv'` fails; look at why"
        .to_owned())
}
