//! `cargo xtask tidy`: the rules of the house style that a program can check, each finding with its place and
//! the remedy.
//!
//! It reads text, not types: a small scanner ([`source`]) blanks comments and literals and finds the test
//! modules, and each rule looks for words in what is left. So a rule can be evaded on purpose, and none fires
//! on prose. Read-only.

mod layers;
mod repository;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::process::Command;

use self::source::Source;
use crate::{Outcome, Repository};

/// A place where a rule is broken, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    path: String,
    line: usize,
    text: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.text)
    }
}

/// Checks every text file of the repository.
pub(crate) fn run(repository: &Repository) -> Outcome {
    let mut findings = Vec::new();
    let mut files = 0;
    for path in list(&repository.root)? {
        // A file that is listed but gone has been deleted and not committed yet; what is no UTF-8 is no text.
        let Ok(text) = std::fs::read_to_string(repository.root.join(&path)) else { continue };
        files += 1;
        check(&Source::new(&path, text), &mut findings);
    }
    let optional = |path: &str| std::fs::read_to_string(repository.root.join(path)).ok();
    repository::changelog(optional("CHANGELOG.md").as_deref(), &mut findings);
    repository::rust_version(
        &repository.read("Cargo.toml")?,
        optional("README.md").as_deref(),
        &mut findings,
    );
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("tidy: {files} files, nothing to mend");
            Ok(())
        }
        number => Err(format!("tidy: {number} places to mend, listed above")),
    }
}

/// Every rule over one file.
fn check(source: &Source, findings: &mut Vec<Finding>) {
    rules::machine_paths(source, findings);
    if source.is_rust() || source.path.ends_with(".md") {
        rules::whitespace(source, findings);
    }
    if source.is_rust() {
        rules::shape(source, findings);
        rules::words(source, findings);
        layers::check(source, findings);
    }
}

/// The files that git knows or would add, relative to the root; without git, all but what builds leave behind.
fn list(root: &Path) -> Outcome<BTreeSet<String>> {
    let arguments = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    if let Ok(listed) = Command::new("git").args(arguments).current_dir(root).output()
        && listed.status.success()
    {
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        return Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect());
    }
    let mut found = BTreeSet::new();
    walk(root, "", &mut found).map_err(|error| format!("cannot list the repository's files: {error}"))?;
    Ok(found)
}

fn walk(directory: &Path, prefix: &str, found: &mut BTreeSet<String>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let kind = entry.file_type()?;
        if kind.is_dir() && !matches!(name.as_str(), ".git" | "target" | "__pycache__") {
            walk(&entry.path(), &format!("{prefix}{name}/"), found)?;
        } else if kind.is_file() {
            found.insert(format!("{prefix}{name}"));
        }
    }
    Ok(())
}
