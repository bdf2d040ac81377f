//! `cargo xtask examples`: every program that we show is built, run and compared with what is said of it.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::step::Program;
use crate::{Outcome, Repository, python, readme, step};

const DIRECTORY: &str = "lib/am/examples";
/// The longest that an example, or the Python client, may run.
const RUN_LIMIT: Duration = Duration::from_secs(60);
/// The longest that `am serve` may take to listen, or to end: its drain limit is 5 s.
const SERVER_LIMIT: Duration = Duration::from_secs(15);

pub(crate) fn run(repository: &Repository) -> Outcome {
    let examples = load(repository)?;
    step::run(&mut repository.cargo(&["build", "--workspace", "--bins", "--examples"]))?;
    for (name, text) in &examples {
        run_example(repository, name, text)?;
    }
    compare_readme(repository, &examples)?;
    call_from_python(repository)
}

/// The examples in order of name, as (file name, text).
fn load(repository: &Repository) -> Outcome<Vec<(String, String)>> {
    let unreadable = |error| format!("cannot list {DIRECTORY}: {error}");
    let mut names = Vec::new();
    for entry in fs::read_dir(repository.root.join(DIRECTORY)).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".rs") {
            names.push(name);
        }
    }
    names.sort();
    if names.is_empty() {
        return Err(format!(
            "{DIRECTORY} holds no program; the README's first one belongs there as hello.rs"
        ));
    }
    names
        .into_iter()
        .map(|name| Ok((name.clone(), repository.read(&format!("{DIRECTORY}/{name}"))?)))
        .collect()
}

fn run_example(repository: &Repository, name: &str, text: &str) -> Outcome {
    let stem = name.trim_end_matches(".rs");
    let log = repository.target("xtask").join(format!("example-{stem}.log"));
    let mut command = Command::new(repository.binaries.join("examples").join(stem));
    let output = Program::start(command.current_dir(&repository.root), &log)?.finish(RUN_LIMIT)?;
    print!("{output}");
    for line in readme::promised_lines(text) {
        if !output.lines().any(|printed| printed == line) {
            return Err(format!("{DIRECTORY}/{name} says that it prints `{line}`, and did not"));
        }
    }
    Ok(())
}

fn compare_readme(repository: &Repository, examples: &[(String, String)]) -> Outcome {
    if !repository.root.join("README.md").exists() {
        println!("\nREADME.md does not exist yet: its programs are not compared");
        return Ok(());
    }
    let differences = readme::differences(&repository.read("README.md")?, examples);
    if differences.is_empty() { Ok(()) } else { Err(differences.join("\n")) }
}

/// A foreign client's whole way: libzmq against the real command.
fn call_from_python(repository: &Repository) -> Outcome {
    let python = python::with_pyzmq(repository)?;
    let log = |name: &str| repository.target("xtask").join(name);
    let mut serve = Command::new(repository.binaries.join("am"));
    serve.args(["serve", "--listen", "tcp://127.0.0.1:0"]).current_dir(&repository.root);
    let mut server = Program::start(&mut serve, &log("am-serve.log"))?;
    let endpoint = server.await_output("printed tcp endpoint", SERVER_LIMIT, printed_endpoint)?;
    let mut client = Command::new(python);
    client.args(["examples/python/client.py", &endpoint]).current_dir(&repository.root);
    print!("{}", Program::start(&mut client, &log("python-client.log"))?.finish(RUN_LIMIT)?);
    server.terminate(SERVER_LIMIT)
}

/// The first dialable tcp endpoint in complete lines of output: no port 0, as that can only be what was asked for.
fn printed_endpoint(output: &str) -> Option<String> {
    let complete = output.rsplit_once('\n')?.0;
    let words = complete.split(|c: char| c.is_whitespace() || matches!(c, '"' | '`' | '\'' | ',' | ';'));
    let mut endpoints = words.filter_map(|word| word.find("tcp://").and_then(|at| word.get(at..)));
    endpoints.find(|endpoint| !endpoint.ends_with(":0")).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_printed_endpoint_is_taken_from_complete_lines_only() {
        assert_eq!(printed_endpoint("listening on tcp://127.0.0.1:55"), None);
        assert_eq!(
            printed_endpoint("asked tcp://127.0.0.1:0\nat `tcp://[::1]:5`, ok\n"),
            Some("tcp://[::1]:5".into())
        );
        assert_eq!(
            printed_endpoint("{\"endpoint\":\"tcp://127.0.0.1:7\"}\n"),
            Some("tcp://127.0.0.1:7".into())
        );
    }
}
