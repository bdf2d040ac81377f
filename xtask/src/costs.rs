//! What a message costs in instructions and allocations, held against the targets: the short forms of
//! `bench/instructions` and `bench/allocations`, and what they need.

use std::process::Command;

use crate::{Outcome, Repository, apt, step};

pub(crate) fn run(repository: &Repository) -> Outcome {
    if !has_valgrind() {
        apt::install(&["valgrind"], "instructions are counted by valgrind, which is missing")?;
        if !has_valgrind() {
            return Err("valgrind is installed, and still `valgrind --version` fails; look at why".to_owned());
        }
    }
    step::run(&mut repository.script("bench/allocations", &["--quick"]))?;
    step::run(&mut repository.script("bench/instructions", &["--quick"]))
}

fn has_valgrind() -> bool {
    step::succeeds(Command::new("valgrind").arg("--version"))
}
