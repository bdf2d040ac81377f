//! Plays the roles of every workload in this process, over pipes instead of standard streams, for both systems and
//! all transports, and checks what they say: every message answered and counted, at both ends.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking; clippy exempts only test functions")]

use std::io::{BufRead, BufReader, PipeReader, PipeWriter, Write, pipe};
use std::thread::{self, JoinHandle};

use dynamo_am_bench::role::play;
use dynamo_am_bench::{
    Amount, Callers, Case, Dispatch, Flood, Outcome, Place, Role, RoleError, RoleSpec, Route, System,
    Transport, Usage, Workload,
};

const WARM_UP: u64 = 10;
const SYSTEMS: [System; 2] = [System::Raw, System::DynamoAm];

fn spec(role: Role, system: System, case: Case, amount: Amount) -> RoleSpec {
    RoleSpec { role, system, case, workers: 2, warm_up: Amount::Messages(WARM_UP), amount, limit_ms: 20_000 }
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

    fn addresses(&mut self) -> Vec<String> {
        let line = self.line();
        line.strip_prefix("listening ").unwrap().split(' ').map(str::to_owned).collect()
    }
}

/// Conducts one measurement and checks the books: what was sent, done and handled is the same number.
fn measure(system: System, case: Case, amount: Amount) -> Outcome {
    if case.transport == Transport::Inproc {
        return measure_in_one_process(system, case, amount);
    }
    let mut server = Played::start(spec(Role::Server, system, case, amount));
    let addresses = server.addresses();
    let mut client = Played::start(spec(Role::Client { addresses }, system, case, amount));
    assert_eq!(client.line(), "ready");
    let before = server.usage("mark");
    client.order("go");
    let outcome: Outcome = serde_json::from_str(&client.line()).unwrap();
    let after = server.usage("stop");
    client.thread.join().unwrap().unwrap();
    server.thread.join().unwrap().unwrap();
    check(&outcome, after.handled - before.handled, system, case);
    assert!(after.cpu_ns > before.cpu_ns, "{before:?} {after:?}");
    outcome
}

fn measure_in_one_process(system: System, case: Case, amount: Amount) -> Outcome {
    let mut both = Played::start(spec(Role::Both, system, case, amount));
    assert_eq!(both.line(), "ready");
    both.order("go");
    let outcome: Outcome = serde_json::from_str(&both.line()).unwrap();
    both.thread.join().unwrap().unwrap();
    check(&outcome, outcome.handled.unwrap(), system, case);
    outcome
}

fn check(outcome: &Outcome, handled: u64, system: System, case: Case) {
    let handlers = outcome.done * case.handlers_per_message() as u64;
    assert_eq!((outcome.sent, handled), (outcome.done, handlers), "{system} {case}");
    assert!(outcome.elapsed_ns > 0 && outcome.cpu_ns > 0, "{outcome:?}");
    let has_latencies = !matches!(case.workload, Workload::Oneway { .. });
    assert_eq!(outcome.p50_us.is_some(), has_latencies, "{system} {case}");
}

/// One of each kind.
fn cases() -> Vec<Case> {
    vec![
        Case::rtt(Place::Task),
        Case::rtt(Place::Main),
        Case::concurrent(8),
        Case::new(Workload::Concurrent { outstanding: 8, callers: Callers::One }),
        Case::oneway(Dispatch::Inline),
        Case::oneway(Dispatch::Ordered),
        Case::oneway(Dispatch::Spawned),
        Case::bulk(),
        Case::new(Workload::Links { links: 1, outstanding: 6 }),
        Case::new(Workload::Links { links: 6, outstanding: 6 }),
        Case::new(Workload::Links { links: 6, outstanding: 18 }),
    ]
}

#[test]
fn every_workload_counts_every_message_for_both_systems_over_all_transports() {
    for transport in [Transport::Tcp, Transport::Ipc, Transport::Inproc] {
        for system in SYSTEMS {
            for case in cases() {
                // Not divisible by the callers, so that the shares differ.
                let count = if matches!(case.workload, Workload::Bulk { .. }) { 21 } else { 1_003 };
                let outcome = measure(system, Case { transport, ..case }, Amount::Messages(count));
                assert_eq!(outcome.done, count, "{system} {case} {transport}");
            }
        }
    }
}

#[test]
fn calls_beside_a_flood_are_counted_with_it() {
    for system in SYSTEMS {
        for flood in [Flood::Same, Flood::Other] {
            for transport in [Transport::Tcp, Transport::Inproc] {
                let case = Case { transport, ..Case::new(Workload::Loaded { flood }) };
                let outcome = measure(system, case, Amount::Messages(100));
                assert!(outcome.done > 100 + 1_000, "{system} {case}: {outcome:?}");
            }
        }
    }
}

#[test]
fn a_cohorts_calls_reach_every_rank_once_by_the_route_of_the_row() {
    for (transport, payload_bytes) in [(Transport::Tcp, 0), (Transport::Ipc, 100), (Transport::Inproc, 0)] {
        for route in [Route::Flat, Route::Tree] {
            for ranks in [1, 2, 3, 20] {
                let case = Case::new(Workload::Cohort { ranks, route });
                let case = Case { transport, payload_bytes, ..case };
                for system in SYSTEMS {
                    assert_eq!(measure(system, case, Amount::Messages(51)).done, 51, "{system} {case}");
                }
            }
        }
    }
}

#[test]
fn idle_links_are_all_there_and_take_memory() {
    for system in SYSTEMS {
        let case = Case::new(Workload::Idle { links: 200 });
        let outcome = measure(system, case, Amount::Messages(1));
        assert_eq!(outcome.done, 200, "the count is that of links: {system}");
    }
}

#[test]
fn busy_polling_works_from_both_places() {
    for system in SYSTEMS {
        for place in [Place::Task, Place::Main] {
            let case = Case::new(Workload::Rtt { place, busy_poll: true });
            assert_eq!(measure(system, case, Amount::Messages(200)).done, 200);
        }
    }
}

#[test]
fn a_phase_of_fixed_time_ends_with_everything_it_began() {
    for system in SYSTEMS {
        for case in cases() {
            let outcome = measure(system, case, Amount::Millis(20));
            assert!(outcome.done > 0 && outcome.elapsed_ns >= 20_000_000, "{system} {case}: {outcome:?}");
        }
    }
}

#[test]
fn payloads_of_every_size_class_pass() {
    for system in SYSTEMS {
        for payload_bytes in [0, 1, 65_524, 200_000] {
            for case in cases() {
                let outcome = measure(system, Case { payload_bytes, ..case }, Amount::Messages(20));
                assert_eq!(outcome.done, 20, "{system} {case}");
            }
        }
    }
}

#[test]
fn a_server_that_goes_away_fails_the_clients_calls() {
    for case in cases() {
        let mut server = Played::start(spec(Role::Server, System::Raw, case, Amount::Messages(1)));
        let role = Role::Client { addresses: server.addresses() };
        let mut client = Played::start(spec(role, System::Raw, case, Amount::Millis(60_000)));
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
    let spec = spec(Role::Server, System::Raw, Case::rtt(Place::Task), Amount::Messages(1));
    let mut server = Played::start(spec);
    server.line();
    drop(server.orders);
    server.thread.join().unwrap().unwrap();
}

#[test]
fn a_phase_over_its_limit_is_an_error_that_names_it() {
    let raw = |role, case, amount| spec(role, System::Raw, case, amount);
    let mut server = Played::start(raw(Role::Server, Case::rtt(Place::Task), Amount::Messages(1)));
    let addresses = server.addresses();
    for place in [Place::Task, Place::Main] {
        let role = Role::Client { addresses: addresses.clone() };
        let endless = RoleSpec { limit_ms: 30, ..raw(role, Case::rtt(place), Amount::Messages(u64::MAX)) };
        let mut client = Played::start(RoleSpec { warm_up: Amount::Millis(0), ..endless });
        assert_eq!(client.line(), "ready");
        client.order("go");
        let error = client.thread.join().unwrap().unwrap_err();
        assert!(matches!(error, RoleError::TooSlow { phase: "the measurement", .. }), "{error:?}");
    }
}
