//! The rules that concern the repository as a whole.

use super::Finding;

/// The change log has a place for what is not released yet.
pub(crate) fn changelog(text: Option<&str>, findings: &mut Vec<Finding>) {
    if !text.is_some_and(|text| text.lines().any(|line| line.trim_end() == "## [Unreleased]")) {
        findings.push(finding(
            "CHANGELOG.md",
            1,
            "has no `## [Unreleased]`; add it, and under it what users will see",
        ));
    }
}

/// The oldest compiler that the README names is the one that Cargo.toml demands.
pub(crate) fn rust_version(manifest: &str, readme: Option<&str>, findings: &mut Vec<Finding>) {
    let Some(version) = manifest.lines().find_map(|line| line.strip_prefix("rust-version = ")) else {
        findings.push(finding(
            "Cargo.toml",
            1,
            "has no `rust-version`; name the oldest compiler that we build with",
        ));
        return;
    };
    let version = version.trim().trim_matches('"');
    for (number, line) in readme.unwrap_or_default().lines().enumerate() {
        for named in versions(line) {
            if named != version {
                let text = format!(
                    "names Rust {named}, Cargo.toml says rust-version {version}; correct the wrong one"
                );
                findings.push(finding("README.md", number + 1, &text));
            }
        }
    }
}

/// The versions in "Rust 1.95", "rustc 1.95" and the like.
fn versions(line: &str) -> Vec<String> {
    let lower = line.to_ascii_lowercase();
    let behind_words = ["rust ", "rustc ", "msrv ", "rust-version = \"", "rust-"].into_iter();
    behind_words
        .flat_map(|word| lower.match_indices(word).map(|(at, word)| at + word.len()).collect::<Vec<_>>())
        .filter_map(|at| {
            let version = lower.get(at..)?.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
            let version = version.trim_end_matches('.');
            (version.contains('.') && version.starts_with(|c: char| c.is_ascii_digit()))
                .then(|| version.to_owned())
        })
        .collect()
}

fn finding(path: &str, line: usize, text: &str) -> Finding {
    Finding { path: path.to_owned(), line, text: text.to_owned() }
}
