//! Debian packages that the chores need and a bare machine lacks.

use std::os::unix::fs::MetadataExt;
use std::process::Command;

use crate::{Outcome, step};

/// Installs `packages`. `why` says what lacks them, for whoever has to do it by hand.
pub(crate) fn install(packages: &[&str], why: &str) -> Outcome {
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !is_root() || !step::succeeds(Command::new("apt-get").arg("--version")) {
        return Err(format!("{why}; on Debian run `{by_hand}` as root"));
    }
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("-qq");
        command
    };
    step::run(apt().arg("update"))?;
    step::run(apt().args(["install", "-y", "--no-install-recommends"]).args(packages))
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
