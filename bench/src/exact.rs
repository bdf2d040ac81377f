//! What a message costs in instructions and allocations: figures that noise cannot touch, held against targets.
//!
//! Each is measured with two counts of messages, and the difference divided by that of the counts: so what a process
//! costs to start, to connect and to end is in neither. Both processes have one runtime thread, since where threads
//! meet is chance.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::case::{Case, Dispatch, Place};
use crate::error::BenchError;
use crate::harness::{Measured, measure};
use crate::options::BenchOptions;
use crate::process::Launch;
use crate::role::{ROLE_COMMAND, run_role};
use crate::spec::{Amount, System};

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Instructions in user space, by callgrind.
    Instructions,
    /// Allocations and reallocations, by the program's own allocator, which must be the counting one.
    Allocations,
}

/// Which of the two processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Sender,
    Receiver,
}

/// A path of messages whose cost is looked at.
struct Way {
    name: &'static str,
    sides: [&'static str; 2],
    case: Case,
    /// Of how many one-way messages one of these takes the time.
    weight: u64,
    /// At most so many instructions at the sender and at the receiver, and so many allocations at each.
    instructions_max: Option<[f64; 2]>,
    allocations_max: Option<f64>,
}

/// Allocations of a buffer that grows now and then are no allocations of a message: fewer than one in so many.
const NONE: f64 = 0.005;

fn ways() -> [Way; 4] {
    [
        Way {
            name: "one-way, inline handler",
            sides: ["sender", "receiver"],
            case: Case::oneway(Dispatch::Inline),
            weight: 1,
            instructions_max: Some([400.0, 500.0]),
            allocations_max: Some(NONE),
        },
        Way {
            name: "one-way, spawned handler",
            sides: ["sender", "receiver"],
            case: Case::oneway(Dispatch::Spawned),
            weight: 2,
            instructions_max: None,
            allocations_max: None,
        },
        Way {
            name: "echo, 64 outstanding",
            sides: ["caller", "server"],
            case: Case::concurrent(64),
            weight: 4,
            instructions_max: None,
            allocations_max: None,
        },
        Way {
            name: "echo, one at a time",
            sides: ["caller", "server"],
            case: Case::rtt(Place::Task),
            weight: 10,
            instructions_max: None,
            allocations_max: None,
        },
    ]
}

/// One figure and what it should be at most.
struct Figure {
    name: String,
    each: f64,
    at_most: Option<f64>,
}

impl Figure {
    fn is_missed(&self) -> bool {
        self.at_most.is_some_and(|at_most| self.each > at_most)
    }
}

/// The `main` of a program that measures one of them: plays a role when it is told to, else measures, prints, and
/// ends with 1 if a target is missed, and with 2 if it could not measure.
pub fn main(counted: Counted) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (is_quick, only) = match arguments.as_slice() {
        [ROLE_COMMAND, spec] => return run_role(spec),
        [] => (false, ""),
        ["--quick"] => (true, ""),
        ["--only", only] => (false, *only),
        ["--quick", "--only", only] => (true, *only),
        _ => {
            tell_error(
                "usage: [--quick] [--only PART]: a form that ends in 3 minutes; ways whose name has PART",
            );
            return ExitCode::from(2);
        }
    };
    match figures(counted, is_quick, only) {
        Ok(figures) if figures.is_empty() => {
            tell_error(&format!("no way of a message has `{only}` in its name"));
            ExitCode::from(2)
        }
        Ok(figures) => report(counted, &figures),
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            tell_error(&format!("{error}{cause}"));
            ExitCode::from(2)
        }
    }
}

fn tell_error(text: &str) {
    // Nobody is left to be told when the error stream itself is gone.
    let _ = writeln!(std::io::stderr(), "{text}");
}

fn report(counted: Counted, figures: &[Figure]) -> ExitCode {
    let (what, digits) = match counted {
        Counted::Instructions => ("instructions in user space (callgrind)", 0),
        Counted::Allocations => ("allocations", 3),
    };
    let mut text = format!("{what} per message: 64 octets over tcp, one runtime thread in each process\n\n");
    text.push_str(&format!("{:<36}  {:>10}  {:>10}\n", "", "measured", "at most"));
    for figure in figures {
        let at_most = figure.at_most.map_or_else(|| "-".to_owned(), |most| format!("{most:.digits$}"));
        let verdict = if figure.is_missed() { "  missed" } else { "" };
        text.push_str(&format!("{:<36}  {:>10.digits$}  {at_most:>10}{verdict}\n", figure.name, figure.each));
    }
    let missed = figures.iter().filter(|figure| figure.is_missed()).count();
    text.push_str(&match missed {
        0 => "\nall targets are met\n".to_owned(),
        _ => format!("\n{missed} missed\n"),
    });
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) if missed == 0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn figures(counted: Counted, is_quick: bool, only: &str) -> Result<Vec<Figure>, BenchError> {
    let exe = std::env::current_exe().map_err(|error| BenchError::NotCounted {
        what: "anything",
        reason: format!("this program can't find itself to start it again: {error}"),
    })?;
    let mut figures = Vec::new();
    for way in ways().into_iter().filter(|way| way.name.contains(only)) {
        // Counting allocations takes no time, so there is no need for fewer of them.
        let few = if is_quick && counted == Counted::Instructions { 20_000 } else { 100_000 };
        let counts = [few / way.weight, 3 * few / way.weight];
        let each = match counted {
            Counted::Instructions => [
                instructions(&exe, &way, Side::Sender, counts)?,
                instructions(&exe, &way, Side::Receiver, counts)?,
            ],
            Counted::Allocations => allocations(&exe, &way, counts)?,
        };
        let at_most = match counted {
            Counted::Instructions => way.instructions_max.map(|most| most.map(Some)).unwrap_or_default(),
            Counted::Allocations => [way.allocations_max; 2],
        };
        for ((side, each), at_most) in way.sides.into_iter().zip(each).zip(at_most) {
            figures.push(Figure { name: format!("{}: {side}", way.name), each, at_most });
        }
    }
    Ok(figures)
}

fn options(count: u64) -> BenchOptions {
    BenchOptions {
        systems: vec![System::DynamoAm],
        runs: 1,
        workers: 1,
        warm_up: Amount::Messages(1_000),
        amount: Amount::Messages(count),
        limit: Duration::from_secs(120),
        ..BenchOptions::default()
    }
}

/// What one more message costs, by the totals of two counts.
fn each(counts: [u64; 2], totals: [u64; 2]) -> f64 {
    let [few, many] = counts;
    let [less, more] = totals;
    more.saturating_sub(less) as f64 / many.saturating_sub(few).max(1) as f64
}

fn allocations(exe: &Path, way: &Way, counts: [u64; 2]) -> Result<[f64; 2], BenchError> {
    let launch = Launch::plain(exe);
    let total = |count| -> Result<[u64; 2], BenchError> {
        let Measured { outcome, before, after } =
            measure(&options(count), [&launch, &launch], System::DynamoAm, way.case)?;
        Ok([outcome.allocations, after.allocations.saturating_sub(before.allocations)])
    };
    let [few, many] = counts;
    let ([sender_less, receiver_less], [sender_more, receiver_more]) = (total(few)?, total(many)?);
    // A program that allocates nothing at all from its start does not count.
    if sender_more == 0 {
        return Err(BenchError::NotCounted {
            what: "allocations",
            reason: "another allocator is in use".into(),
        });
    }
    Ok([each(counts, [sender_less, sender_more]), each(counts, [receiver_less, receiver_more])])
}

fn instructions(exe: &Path, way: &Way, side: Side, counts: [u64; 2]) -> Result<f64, BenchError> {
    let [few, many] = counts;
    let totals = [total_instructions(exe, way, side, few)?, total_instructions(exe, way, side, many)?];
    Ok(each(counts, totals))
}

/// Instructions of one side from its start to its end.
fn total_instructions(exe: &Path, way: &Way, side: Side, count: u64) -> Result<u64, BenchError> {
    let not_counted = |reason: String| BenchError::NotCounted { what: "instructions", reason };
    let profile = profile_path(exe, way, side);
    if let Some(folder) = profile.parent() {
        fs::create_dir_all(folder).map_err(|error| not_counted(error.to_string()))?;
    }
    let _ = fs::remove_file(&profile);
    let plain = Launch::plain(exe);
    let counting = Launch {
        under: vec![
            "valgrind".to_owned(),
            "--tool=callgrind".to_owned(),
            format!("--callgrind-out-file={}", profile.display()),
        ],
        exit_timeout: Duration::from_secs(60),
        ..plain.clone()
    };
    let launches = match side {
        Side::Sender => [&plain, &counting],
        Side::Receiver => [&counting, &plain],
    };
    measure(&options(count), launches, System::DynamoAm, way.case)?;
    let text = fs::read_to_string(&profile).map_err(|error| not_counted(error.to_string()))?;
    parse_total(&text).ok_or_else(|| not_counted(format!("{} has no total", profile.display())))
}

/// Where callgrind leaves its profile, for `callgrind_annotate`: beside the program, the last of each kind.
fn profile_path(exe: &Path, way: &Way, side: Side) -> PathBuf {
    let [first, second] = way.sides;
    let side = if side == Side::Sender { first } else { second };
    let name: String =
        way.name.chars().filter(|c| *c != ',').map(|c| if c == ' ' { '-' } else { c }).collect();
    exe.with_file_name("callgrind").join(format!("{name}-{side}.out"))
}

fn parse_total(profile: &str) -> Option<u64> {
    let line = profile
        .lines()
        .find_map(|line| line.strip_prefix("totals:").or_else(|| line.strip_prefix("summary:")))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_message_is_that_of_one_more() {
        assert_eq!(each([100, 300], [50_000, 150_000]), 500.0);
        assert_eq!(each([100, 300], [7, 5]), 0.0);
    }

    #[test]
    fn a_total_is_read_from_a_profile() {
        let profile = "version: 1\nevents: Ir\nsummary: 81234\n\nfn=(1)\n0 5\n\ntotals: 81234\n";
        assert_eq!(parse_total(profile), Some(81_234));
        assert_eq!(parse_total("events: Ir\n"), None);
    }

    #[test]
    fn a_figure_over_its_target_is_missed_and_one_without_never() {
        let missed = |each, at_most| Figure { name: String::new(), each, at_most }.is_missed();
        assert!(missed(401.0, Some(400.0)) && missed(0.01, Some(NONE)));
        assert!(!missed(400.0, Some(400.0)) && !missed(0.001, Some(NONE)) && !missed(1e9, None));
    }

    #[test]
    fn profiles_have_names_of_their_own() {
        let mut names: Vec<_> = ways()
            .iter()
            .flat_map(|way| {
                [Side::Sender, Side::Receiver].map(|side| profile_path(Path::new("/x/exe"), way, side))
            })
            .collect();
        assert_eq!(names[0], Path::new("/x/callgrind/one-way-inline-handler-sender.out"));
        names.sort();
        names.dedup();
        assert_eq!(names.len(), 8);
    }
}
