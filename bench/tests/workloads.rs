//! Plays both roles of every raw workload in this process, over pipes instead of standard streams, and
//! checks what they say: every message answered and counted, at both ends.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking; clippy exempts only test functions")]

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::thread::{self, JoinHandle};

use dynamo_am_bench::role::play;
use dynamo_am_bench::{Amount, Case, Outcome, Place, Role, RoleError, RoleSpec, System, Usage, Workload};

const WARM_UP: u64 = 10;

fn spec(role: Role, case: Case, amount: Amount) -> RoleSpec {
    let warm_up = Amount::Messages(WARM_UP);
    RoleSpec { role, system: System::Raw, case, workers: 2, warm_up, amount, limit_ms: 20_000 }
}

/// A role on a thread of its own, and the conductor's ends of its streams.
struct Played {
    orders: PipeWriter,
    lines: BufReader<PipeReader>,
    thread: JoinHandle<Result<(), RoleError>>,
}

impl Played {
    fn start(spec: RoleSpec) -> Self {
        let (order_reader, orders) = pipe().unwrap();
        let (line_reader, line_writer) = pipe().unwrap();
        let thread = thread::spawn(move || play(&spec, BufReader::new(order_reader), line_writer));
        Self { orders, lines: BufReader::new(line_reader), thread }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    fn usage(&mut self, order: &str) -> Usage {
        self.order(order);
        serde_json::from_str(&self.line()).unwrap()
    }
}

/// Conducts one measurement and checks the books: what was sent, done and handled is the same number.
fn measure(case: Case, amount: Amount) -> Outcome {
    let mut server = Played::start(spec(Role::Server, case, amount));
    let address = server.line().strip_prefix("listening ").unwrap().to_owned();
    let mut client = Played::start(spec(Role::Client { address }, case, amount));
    assert_eq!(client.line(), "ready");
    let before = server.usage("mark");
    assert_eq!(before.handled, WARM_UP, "the warm-up of {case} is counted apart");
    client.order("go");
    let outcome: Outcome = serde_json::from_str(&client.line()).unwrap();
    let after = server.usage("stop");
    client.thread.join().unwrap().unwrap();
    server.thread.join().unwrap().unwrap();
    assert_eq!(outcome.sent, outcome.done, "{case}");
    assert_eq!(after.handled - before.handled, outcome.done, "{case}");
    assert!(outcome.elapsed_ns > 0 && outcome.cpu_ns > 0 && after.cpu_ns > before.cpu_ns, "{outcome:?}");
    assert_eq!(outcome.p50_us.is_some(), case.workload != Workload::Oneway, "{case}");
    outcome
}

#[test]
fn rtt_answers_every_call_from_both_places() {
    for place in [Place::Task, Place::Main] {
        assert_eq!(measure(Case::rtt(place), Amount::Messages(500)).done, 500);
    }
}

#[test]
fn concurrent_answers_every_callers_share() {
    // Not divisible by the callers, so that the shares differ.
    assert_eq!(measure(Case::concurrent(64), Amount::Messages(5_003)).done, 5_003);
    assert_eq!(measure(Case::concurrent(256), Amount::Messages(300)).done, 300);
}

#[test]
fn oneway_counts_every_message_at_the_receiver() {
    assert_eq!(measure(Case::oneway(), Amount::Messages(100_001)).done, 100_001);
}

#[test]
fn bulk_acknowledges_every_payload() {
    assert_eq!(measure(Case::bulk(), Amount::Messages(40)).done, 40);
}

#[test]
fn a_phase_of_fixed_time_ends_with_everything_it_began() {
    for case in [Case::rtt(Place::Main), Case::concurrent(8), Case::oneway(), Case::bulk()] {
        let outcome = measure(case, Amount::Millis(20));
        assert!(outcome.done > 0 && outcome.elapsed_ns >= 20_000_000, "{case}: {outcome:?}");
    }
}

#[test]
fn payloads_of_every_size_class_pass() {
    for payload_bytes in [0, 1, 65_524, 200_000] {
        for case in [Case::rtt(Place::Task), Case::concurrent(4), Case::oneway(), Case::bulk()] {
            assert_eq!(measure(Case { payload_bytes, ..case }, Amount::Messages(20)).done, 20);
        }
    }
}

#[test]
fn a_server_that_goes_away_fails_the_clients_calls() {
    for case in [Case::rtt(Place::Task), Case::concurrent(8), Case::oneway(), Case::bulk()] {
        let mut server = Played::start(spec(Role::Server, case, Amount::Messages(1)));
        let address = server.line().strip_prefix("listening ").unwrap().to_owned();
        let mut client = Played::start(spec(Role::Client { address }, case, Amount::Millis(60_000)));
        assert_eq!(client.line(), "ready");
        client.order("go");
        server.order("stop");
        server.thread.join().unwrap().unwrap();
        let error = client.thread.join().unwrap().unwrap_err();
        assert!(matches!(error, RoleError::PeerClosed | RoleError::Io { .. }), "{case}: {error:?}");
    }
}

#[test]
fn a_role_ends_when_its_conductor_does() {
    let mut server = Played::start(spec(Role::Server, Case::rtt(Place::Task), Amount::Messages(1)));
    server.line();
    drop(server.orders);
    server.thread.join().unwrap().unwrap();
}

#[test]
fn a_phase_over_its_limit_is_an_error_that_names_it() {
    let mut server = Played::start(spec(Role::Server, Case::rtt(Place::Task), Amount::Messages(1)));
    let address = server.line().strip_prefix("listening ").unwrap().to_owned();
    for place in [Place::Task, Place::Main] {
        let role = Role::Client { address: address.clone() };
        let endless = RoleSpec { limit_ms: 30, ..spec(role, Case::rtt(place), Amount::Messages(u64::MAX)) };
        let mut client = Played::start(RoleSpec { warm_up: Amount::Millis(0), ..endless });
        assert_eq!(client.line(), "ready");
        client.order("go");
        let error = client.thread.join().unwrap().unwrap_err();
        assert!(matches!(error, RoleError::TooSlow { phase: "the measurement", .. }), "{error:?}");
    }
}
