//! Two links over an in-process stream that takes little at a time, in any order of sending, answering, cancelling,
//! waiting, saying goodbye and breaking off. Held against what each end did:
//!
//! a message arrives at most once and in order; a call ends exactly once, and how it ends is true; an honest end
//! never finds the other in breach of credit; and when both have come to rest, nothing is pending, owed or held.

mod ear;
mod end;

use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use dynamo_am::proto::budget::Budget;
use dynamo_am::proto::credit::Totals;
use dynamo_am::transport::inproc;
use dynamo_am::transport::link::{LinkEnd, LinkSettings, SendError, Ticks};
use dynamo_am::wire::codes::DeliveryMode;

use end::{Answering, End, Message};

/// Most operations of one input.
const OPERATIONS_MAX: usize = 200;
/// Rounds in which both ends must come to rest.
const ROUNDS_MAX: u32 = 2000;
/// After so many ticks, even a little credit is told.
const CREDIT_TICKS: u64 = 10;
/// A payload may take so many turns of the pipe.
const TURNS_MAX: u16 = 256;
/// A node's memory: more than anything here needs.
const BUDGET_LEN: u64 = 256 << 20;
/// Payloads that the ends take at most.
const PAYLOAD_LEN_MAX: u64 = 48 * 1024;

#[derive(Debug, Arbitrary)]
enum Operation {
    Send {
        by: bool,
        message: Description,
    },
    /// Sends in turn with others, waiting for credit.
    SendWaiting {
        by: bool,
        message: Description,
    },
    /// A waiting sender looks again, or gives up.
    AskWaiting {
        by: bool,
        which: u8,
    },
    LeaveWaiting {
        by: bool,
        which: u8,
    },
    Answer {
        by: bool,
        which: u8,
        how: Answering,
        len: u16,
    },
    AskOutcome {
        by: bool,
        which: u8,
    },
    AskReceipt {
        by: bool,
        which: u8,
    },
    Abandon {
        by: bool,
        which: u8,
    },
    Sweep {
        by: bool,
    },
    /// A sweep after all deadlines.
    SweepLate {
        by: bool,
    },
    Tick,
    Ping {
        by: bool,
    },
    Grow {
        by: bool,
        messages: u8,
        bytes: u16,
    },
    ReleaseBuffers {
        by: bool,
    },
    Bye {
        by: bool,
    },
    End {
        by: bool,
    },
    Run(u8),
}

/// A message to send.
#[derive(Debug, Clone, Copy, Arbitrary)]
struct Description {
    mode: u8,
    is_system: bool,
    len: u16,
    has_trace: bool,
}

impl Description {
    fn message(self, tag: u64) -> Message {
        let modes = DeliveryMode::ALL;
        Message {
            tag,
            mode: modes[usize::from(self.mode) % modes.len()],
            is_system: self.is_system,
            len: usize::from(self.len).max(8),
            has_trace: self.has_trace,
        }
    }
}

#[derive(Debug, Arbitrary)]
struct Setup {
    capacity: u16,
    /// What each end grants the other.
    messages: u8,
    bytes: u16,
    calls_max: u8,
    system_calls_max: u8,
    send_buffer_len_max: u16,
    output_len_max: u16,
}

/// Runs the operations that the input stands for.
pub fn link(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setup) = input.arbitrary::<Setup>() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built").block_on(run(&setup, &mut input));
}

struct World {
    ends: [End; 2],
    ticks: Arc<Ticks>,
    budget: Arc<Budget>,
    next_tag: u64,
    /// Payloads that take more turns of the pipe than this allows are cut short.
    len_max: u16,
}

async fn run(setup: &Setup, input: &mut Unstructured<'_>) {
    let ticks = Arc::new(Ticks::default());
    let budget = Arc::new(Budget::new(BUDGET_LEN));
    let (here, there) = inproc::pair_with_capacity(usize::from(setup.capacity));
    let settings = |dialled| settings(setup, dialled, &budget);
    let ends = [End::new(here, settings(true), &ticks), End::new(there, settings(false), &ticks)];
    let mut world =
        World { ends, ticks, budget, next_tag: 1, len_max: setup.capacity.max(1).saturating_mul(TURNS_MAX) };
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(operation) = input.arbitrary() else { break };
        world.apply(&operation).await;
        world.check();
    }
    world.settle().await;
    world.probe(setup).await;
    world.close().await;
}

fn settings(setup: &Setup, dialled: bool, budget: &Arc<Budget>) -> LinkSettings {
    let window = Totals { messages: u64::from(setup.messages).max(1), bytes: u64::from(setup.bytes).max(1) };
    let limits = dynamo_am::Limits::default();
    LinkSettings {
        own_peer: true,
        dialled,
        wants_envelope: false,
        never_answers: false,
        takes_no_messages: false,
        peer_payload_len_max: PAYLOAD_LEN_MAX,
        payload_len_max: PAYLOAD_LEN_MAX,
        granted_by_peer: [window, Totals::one(1 << 20)],
        granted_to_peer: [window, Totals::one(1 << 20)],
        system_calls_max: u32::from(setup.system_calls_max).max(1),
        pending_calls_max: usize::from(setup.calls_max).max(1),
        send_buffer_len_max: usize::from(setup.send_buffer_len_max).max(1),
        output_len_max: usize::from(setup.output_len_max).max(1),
        skipped_len_max: limits.skipped_len_max,
        pings_per_second_max: limits.pings_per_second_max,
        unknown_commands_per_second_max: limits.unknown_commands_per_second_max,
        useless_messages_per_second_max: limits.useless_messages_per_second_max,
        slow_consumer_len: limits.slow_consumer_len,
        budget: Arc::clone(budget),
    }
}

impl World {
    async fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Send { by, message } => {
                let message = self.message(message);
                let _refused = self.of(by).try_send(message);
            }
            Operation::SendWaiting { by, message } => {
                let message = self.message(message);
                self.of(by).begin_send(message);
            }
            Operation::AskWaiting { by, which } => self.of(by).ask_waiting(which.into()),
            Operation::LeaveWaiting { by, which } => self.of(by).leave_waiting(which.into()),
            Operation::Answer { by, which, how, len } => {
                let len = len.min(self.len_max).into();
                self.of(by).answer(which.into(), how, len);
            }
            Operation::AskOutcome { by, which } => {
                let (asks, other) = self.pair(by);
                asks.ask_outcome(which.into(), other);
            }
            Operation::AskReceipt { by, which } => {
                let (asks, other) = self.pair(by);
                asks.ask_receipt(which.into(), other);
            }
            Operation::Abandon { by, which } => self.of(by).abandon(which.into()),
            Operation::Sweep { by } => self.of(by).sweep(Duration::ZERO),
            Operation::SweepLate { by } => self.of(by).sweep(end::DEADLINE),
            Operation::Tick => self.ticks.advance(1),
            Operation::Ping { by } => self.of(by).link.ping(),
            Operation::Grow { by, messages, bytes } => {
                let window = Totals { messages: messages.into(), bytes: bytes.into() };
                self.of(by).link.grow_window(window);
            }
            Operation::ReleaseBuffers { by } => self.of(by).link.release_buffers(),
            Operation::Bye { by } => self.of(by).link.say_bye(false),
            Operation::End { by } => self.of(by).link.end(LinkEnd::Disconnected),
            Operation::Run(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    fn of(&mut self, by: bool) -> &mut End {
        &mut self.ends[usize::from(by)]
    }

    fn pair(&mut self, by: bool) -> (&mut End, &End) {
        let [first, second] = &mut self.ends;
        if by { (second, first) } else { (first, second) }
    }

    fn message(&mut self, description: Description) -> Message {
        let len = description.len.min(self.len_max);
        Description { len, ..description }.message(self.tag())
    }

    fn tag(&mut self) -> u64 {
        self.next_tag += 1;
        self.next_tag
    }

    fn check(&self) {
        for (end, other) in [(&self.ends[0], &self.ends[1]), (&self.ends[1], &self.ends[0])] {
            end.check(other);
        }
    }

    /// All is answered, asked and swept, until nobody waits for anything.
    async fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            self.ticks.advance(1);
            for by in [false, true] {
                let (end, other) = self.pair(by);
                end.answer_all();
                end.ask_all(other);
                end.sweep(Duration::ZERO);
            }
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
            self.check();
            let [first, second] = &self.ends;
            if first.is_at_rest(second) && second.is_at_rest(first) {
                return;
            }
        }
        let states: Vec<_> = self.ends.iter().map(End::describe).collect();
        panic!("the ends do not come to rest: {states:#?}");
    }

    /// Whatever has been, the whole window is there again, and so are all places for system calls.
    async fn probe(&mut self, setup: &Setup) {
        if self.ends.iter().any(|end| end.has_ended() || end.link.is_retired()) {
            return;
        }
        for by in [false, true] {
            let places = setup.system_calls_max.min(setup.calls_max).clamp(1, 4);
            for _ in 0..places {
                let description = Description { mode: 2, is_system: true, len: 8, has_trace: false };
                let message = description.message(self.tag());
                let sent = self.of(by).try_send(message);
                let waits = self.of(by).link.waiting_len() >= usize::from(setup.output_len_max);
                assert!(sent.is_ok() || waits, "places for system calls have leaked: {sent:?}");
            }
            self.settle().await;
        }
        for by in [false, true] {
            let mut sent = 0;
            let wanted = u64::from(setup.messages).clamp(1, 8);
            for _ in 0..wanted {
                let description = Description { mode: 0, is_system: false, len: 8, has_trace: false };
                let message = description.message(self.tag());
                match self.of(by).try_send(message) {
                    Ok(()) => sent += 1,
                    Err(SendError::Full) => break,
                    Err(error) => panic!("{error:?} at rest"),
                }
            }
            // Bytes, or what is queued, may stop the later ones, but never the first.
            let is_short = u64::from(setup.bytes) <= sent * end::CHARGE_MIN;
            let is_stopped = usize::from(setup.output_len_max) <= self.of(by).link.waiting_len();
            assert!(
                sent == wanted || (sent > 0 && (is_short || is_stopped)),
                "credit has leaked: {sent} of {wanted}"
            );
            self.settle().await;
        }
        self.is_unwatched().await;
    }

    /// After the deadlines of all that is over, and with all credit given back, no sweep has anything to watch.
    async fn is_unwatched(&mut self) {
        for _ in 0..4 {
            self.ticks.advance(CREDIT_TICKS);
            self.ends.iter_mut().for_each(|end| end.sweep(end::DEADLINE));
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
        }
        for end in &self.ends {
            assert!(!end.link.needs_sweep(), "a sweep finds work for ever: {}", end.describe());
        }
    }

    /// One end breaks off: both stop, and nobody is left waiting.
    async fn close(mut self) {
        self.ends[0].link.end(LinkEnd::Disconnected);
        for _ in 0..ROUNDS_MAX {
            if self.ends.iter().all(End::has_stopped) {
                break;
            }
            tokio::task::yield_now().await;
        }
        for by in [false, true] {
            let (end, other) = self.pair(by);
            assert!(end.has_stopped(), "a reader goes on: {}", end.describe());
            end.ask_all(other);
            assert!(end.is_at_rest(other), "a call has no end: {}", end.describe());
            let mut cx = Context::from_waker(Waker::noop());
            assert!(std::pin::pin!(end.link.drained()).as_mut().poll(&mut cx).is_ready());
        }
        let Self { ends, budget, .. } = self;
        drop(ends);
        assert_eq!(budget.used(), 0, "memory that nobody holds is charged");
    }
}
