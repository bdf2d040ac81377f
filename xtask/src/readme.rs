//! What README.md shows is what runs: its full programs must be examples of the library, word for word.

/// A full program of a README: the line of its fence, counted from 1, and its text.
#[derive(Debug, PartialEq, Eq)]
struct Program {
    line: usize,
    text: String,
}

/// Compares the README's programs with the examples, given as (file name, text). The first one must be
/// `hello.rs`, each other one any of them. Returns what differs.
pub(crate) fn differences(readme: &str, examples: &[(String, String)]) -> Vec<String> {
    let mut found = Vec::new();
    for (number, program) in programs(readme).iter().enumerate() {
        let text = without_header(&program.text);
        let wanted = |name: &str| number > 0 || name == "hello.rs";
        if examples.iter().any(|(name, example)| wanted(name) && without_header(example) == text) {
            continue;
        }
        let which =
            if number == 0 { "is not lib/am/examples/hello.rs" } else { "is none of lib/am/examples" };
        found.push(format!("README.md:{}: the program {which}; copy the example's text", program.line));
    }
    if found.is_empty() && programs(readme).is_empty() {
        found.push("README.md: shows no full program; show lib/am/examples/hello.rs".to_owned());
    }
    found
}

/// The ```` ```rust ```` blocks that have a `main`.
fn programs(readme: &str) -> Vec<Program> {
    let mut found = Vec::new();
    let mut open: Option<(bool, Program)> = None;
    for (index, line) in readme.lines().enumerate() {
        let fence = line.trim_start().strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                let is_rust = language.split(',').next().is_some_and(|word| word.trim() == "rust");
                open = Some((is_rust, Program { line: index + 1, text: String::new() }));
            }
            (Some(_), Some(_)) => {
                found.extend(open.take().filter(|(is_rust, _)| *is_rust).map(|(_, program)| program));
            }
            (Some((_, program)), None) => {
                program.text.push_str(line);
                program.text.push('\n');
            }
            (None, None) => {}
        }
    }
    found.retain(|program| program.text.contains("fn main("));
    found
}

/// A program's lines without the `//!` header and the empty lines around.
fn without_header(program: &str) -> Vec<&str> {
    let lines = program.trim_end().lines().map(str::trim_end);
    lines.skip_while(|line| line.starts_with("//!") || line.is_empty()).collect()
}

/// The lines that a program's `//!` header promises: each `` `…` `` in a sentence that begins with "Prints".
pub(crate) fn promised_lines(program: &str) -> Vec<String> {
    let header: Vec<&str> =
        program.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim).collect();
    let header = header.join(" ");
    let mut lines = Vec::new();
    let mut promised = false;
    for (number, part) in header.split('`').enumerate() {
        if number % 2 == 1 {
            lines.extend(promised.then(|| part.to_owned()));
            continue;
        }
        // Outside of quotes: follow the sentences, whose last one the next quote stands in.
        for (position, sentence) in part.split_inclusive(". ").enumerate() {
            promised = (promised && position == 0) || sentence.trim_start().starts_with("Prints ");
            if sentence.trim_end().ends_with('.') {
                promised = false;
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn examples() -> Vec<(String, String)> {
        let named = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        vec![
            named("hello.rs", "//! The first one.\n\nfn main() {\n    one();\n}\n"),
            named("modes.rs", "//! Modes.\n\nfn main() {}\n"),
        ]
    }

    #[test]
    fn the_readmes_programs_are_the_examples() {
        let readme = "```rust\nfn main() {\n    one();\n}\n```\n\
                      ```rust,no_run\nfn main() {}\n```\n```rust\npart();\n```\n";
        assert_eq!(differences(readme, &examples()), Vec::<String>::new());
    }

    #[test]
    fn a_readme_program_that_differs_is_found_at_its_line() {
        let found = differences("Hello\n\n```rust\nfn main() {\n    two();\n}\n```\n", &examples());
        assert!(found.len() == 1 && found.iter().all(|text| text.starts_with("README.md:3:")), "{found:?}");
        let second = "```rust\nfn main() {\n    one();\n}\n```\n```rust\nfn main() { x }\n```\n";
        assert_eq!(differences(second, &examples()).len(), 1);
    }

    #[test]
    fn the_readmes_first_program_is_hello() {
        assert_eq!(differences("```rust\nfn main() {}\n```\n", &examples()).len(), 1);
        assert_eq!(differences("no program\n", &examples()).len(), 1);
    }

    #[test]
    fn only_a_sentence_that_begins_with_prints_promises_lines() {
        assert_eq!(promised_lines("//! Two nodes. Prints `2 + 3 = 5`.\n"), ["2 + 3 = 5"]);
        assert_eq!(promised_lines("//! Prints what `x` saw, then\n//! `a. b`. And `c`.\n"), ["x", "a. b"]);
        assert_eq!(
            promised_lines("//! Tells (`is_safe`) whether.\n\n//! Prints `no`.\n"),
            Vec::<String>::new()
        );
        assert_eq!(promised_lines("//! Of `a`. Prints `b`, and\n//! Prints `c` too.\n"), ["b", "c"]);
    }
}
