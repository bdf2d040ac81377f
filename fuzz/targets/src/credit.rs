//! Credit between two honest ends, in any order of sending, finishing and telling, with frames on their way; and
//! forged totals. Held against plain sums in 128 bits.

use std::collections::VecDeque;

use arbitrary::{Arbitrary, Unstructured};
use dynamo_am::proto::credit::{
    Charge, CreditViolation, MESSAGE_OVERHEAD_LEN, ReceiveCredit, ReceiveMeter, SendCredit, Totals,
};

/// Most operations of one input.
const OPERATIONS_MAX: usize = 512;

#[derive(Debug, Arbitrary)]
enum Operation {
    /// Sends a message of a usual length, if credit allows.
    Send(u16),
    /// Sends one whose length a peer has made up.
    SendClaimed(u64),
    /// The receiver is done with the oldest messages.
    Finish(u8),
    /// The receiver has room for more, or means to have less.
    Grow { messages: u16, bytes: u32 },
    /// A Credit frame leaves.
    Tell,
    /// The oldest Credit frame arrives.
    Hear,
    /// Totals arrive that nobody has sent.
    Forge { finished: (u64, u64), granted: (u64, u64) },
    /// The same, but close to the true ones.
    ForgeNear { finished: (i8, i8), granted: (i8, i8) },
    /// What a message is charged.
    Charge { header_len: u16, payload_len: u32, total_len: u64 },
}

#[derive(Debug, Arbitrary)]
struct Window {
    messages: u8,
    bytes: u16,
    is_endless: bool,
}

/// Runs the operations that the input stands for.
pub fn credit(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(window) = input.arbitrary::<Window>() else { return };
    let mut world = World::new(&window);
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(operation) = input.arbitrary() else { break };
        world.apply(&operation);
        world.check();
    }
    world.settle();
}

/// Messages and bytes, without a largest number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Sum {
    messages: u128,
    bytes: u128,
}

impl Sum {
    fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes += u128::from(bytes);
    }

    /// As the totals that travel, which stay at their largest number.
    fn totals(self) -> Totals {
        let cut = |sum: u128| u64::try_from(sum).unwrap_or(u64::MAX);
        Totals { messages: cut(self.messages), bytes: cut(self.bytes) }
    }
}

struct World {
    sender: SendCredit,
    receiver: ReceiveCredit,
    meter: ReceiveMeter,
    /// What may be unfinished, and what of that the frames so far have told.
    window: Totals,
    told_window: Totals,
    /// Lengths of messages that have come and are not finished.
    running: VecDeque<u64>,
    /// Credit frames on their way.
    frames: VecDeque<(Totals, Totals)>,
    sent: Sum,
    finished: Sum,
    told: Sum,
    /// What the sender knows.
    heard: (Totals, Totals),
}

impl World {
    fn new(window: &Window) -> Self {
        let window = match window.is_endless {
            true => Totals { messages: u64::MAX, bytes: u64::MAX },
            false => Totals { messages: window.messages.into(), bytes: window.bytes.into() },
        };
        Self {
            sender: SendCredit::new(window),
            receiver: ReceiveCredit::new(window),
            meter: ReceiveMeter::new(window),
            window,
            told_window: window,
            running: VecDeque::new(),
            frames: VecDeque::new(),
            sent: Sum::default(),
            finished: Sum::default(),
            told: Sum::default(),
            heard: (Totals::default(), window),
        }
    }

    fn apply(&mut self, operation: &Operation) {
        match *operation {
            Operation::Send(bytes) => self.send(bytes.into()),
            Operation::SendClaimed(bytes) => self.send(bytes),
            Operation::Finish(count) => {
                let count = usize::from(count).min(self.running.len());
                let mut done = Totals::default();
                for bytes in self.running.drain(..count) {
                    done.add(Totals::one(bytes));
                    self.finished.add(bytes);
                }
                self.receiver.finish(done);
            }
            Operation::Grow { messages, bytes } => {
                let wanted = Totals { messages: messages.into(), bytes: bytes.into() };
                self.receiver.grow(wanted);
                self.window.messages = self.window.messages.max(wanted.messages);
                self.window.bytes = self.window.bytes.max(wanted.bytes);
            }
            Operation::Tell => {
                self.frames.push_back(self.receiver.take_frame());
                (self.told, self.told_window) = (self.finished, self.window);
            }
            Operation::Hear => self.hear(),
            Operation::Forge { finished, granted } => {
                let totals = |(messages, bytes)| Totals { messages, bytes };
                self.forge(totals(finished), totals(granted));
            }
            Operation::ForgeNear { finished, granted } => {
                let near = |true_ones: Totals, (messages, bytes): (i8, i8)| Totals {
                    messages: true_ones.messages.saturating_add_signed(messages.into()),
                    bytes: true_ones.bytes.saturating_add_signed(bytes.into()),
                };
                self.forge(near(self.heard.0, finished), near(self.heard.1, granted));
            }
            Operation::Charge { header_len, payload_len, total_len } => {
                charges_add_up(header_len.into(), payload_len as usize, total_len);
            }
        }
    }

    fn send(&mut self, bytes: u64) {
        if !self.sender.can_start() {
            // With no frame on its way both ends know the same, and the receiver would not have it either.
            let mut meter = self.meter;
            let refused = meter.receive(bytes, || self.receiver.granted()).is_err();
            assert!(refused || !self.frames.is_empty(), "a message that nothing granted was taken");
            return;
        }
        let before = self.sent.totals();
        self.sender.start(bytes);
        self.sent.add(bytes);
        self.running.push_back(bytes);
        let granted = self.receiver.granted();
        assert!(before.messages < granted.messages && before.bytes < granted.bytes, "over by one at most");
        self.meter.receive(bytes, || granted).expect("an honest sender is never in breach");
    }

    fn hear(&mut self) {
        let Some((finished, granted)) = self.frames.pop_front() else { return };
        let was_open = self.sender.can_start();
        let opened =
            self.sender.handle_grant(finished, granted).expect("an honest receiver is never in breach");
        self.heard = (finished, granted);
        assert_eq!(opened, !was_open && self.sender.can_start(), "who waits is woken, and nobody else");
    }

    /// Hands totals to a copy of the sender: taken if, and only if, they can be true.
    fn forge(&self, finished: Totals, granted: Totals) {
        let mut sender = self.sender;
        let sent = self.sent.totals();
        let is_more = |one: Totals, other: Totals| one.messages > other.messages || one.bytes > other.bytes;
        let expected = if is_more(finished, sent) {
            Err(CreditViolation::FinishedBeyondSent)
        } else if is_more(self.heard.0, finished) || is_more(self.heard.1, granted) {
            Err(CreditViolation::Shrinking)
        } else {
            Ok(())
        };
        assert_eq!(sender.handle_grant(finished, granted).map(drop), expected);
        if expected.is_err() {
            assert_eq!(sender.unfinished(), self.sender.unfinished(), "what is refused changes nothing");
            assert_eq!(sender.can_start(), self.sender.can_start());
        }
    }

    fn check(&self) {
        let (sent, finished, told) = (self.sent.totals(), self.finished.totals(), self.told.totals());
        let (heard, granted) = self.heard;
        assert_eq!(self.sender.unfinished(), sent.since(heard));
        assert_eq!(self.sender.can_start(), sent.messages < granted.messages && sent.bytes < granted.bytes);
        assert_eq!(self.meter.received(), sent);
        assert_eq!(self.receiver.finished(), finished);
        let grows = self.window != self.told_window;
        assert_eq!(self.receiver.is_owed(), grows || finished != told);
        let mut allowed = told;
        allowed.add(self.told_window);
        assert_eq!(self.receiver.granted(), allowed);
        let owed = finished.since(told);
        let is_part = |of| {
            !owed.is_zero()
                && (owed.messages >= self.window.messages / of || owed.bytes >= self.window.bytes / of)
        };
        assert_eq!(self.receiver.is_due(), grows || is_part(16));
        assert_eq!(self.receiver.is_urgent(), grows || is_part(4));
        let left = allowed.since(sent);
        let is_used_up = u128::from(left.messages) * 8 < u128::from(self.told_window.messages)
            || u128::from(left.bytes) * 8 < u128::from(self.told_window.bytes);
        assert_eq!(self.receiver.is_used_up_by(sent), is_used_up, "less than an eighth is left");
        assert!(finished.messages <= sent.messages && finished.bytes <= sent.bytes);
    }

    /// Once all is finished, told and heard, whoever waited may go on.
    fn settle(&mut self) {
        while !self.running.is_empty() {
            self.apply(&Operation::Finish(u8::MAX));
        }
        self.apply(&Operation::Tell);
        while !self.frames.is_empty() {
            self.hear();
        }
        self.check();
        assert!(self.sender.unfinished().is_zero());
        // Bytes that no sum of real payloads reaches have no room left for more.
        let is_real = self.sent.bytes < u128::from(u64::MAX);
        let is_open = self.window.messages > 0 && self.window.bytes > 0 && is_real;
        assert!(!is_open || self.sender.can_start(), "credit has leaked");
    }
}

fn charges_add_up(header_len: usize, payload_len: usize, total_len: u64) {
    let none = Totals::default();
    let ordinary = Charge::ordinary(header_len, payload_len);
    let overhead = |len: usize| len as u64 + MESSAGE_OVERHEAD_LEN;
    assert_eq!(ordinary.accounts, [Totals::one(overhead(header_len + payload_len)), none]);
    let large = Charge::large(header_len, total_len);
    assert_eq!(large.accounts, [Totals::one(overhead(header_len)), Totals::one(total_len)]);
    let mut sum = Charge::default();
    assert!(sum.is_zero());
    for charge in [ordinary, large, Charge::system_call()] {
        assert!(!charge.is_zero());
        sum.add(charge);
    }
    assert_eq!((sum.accounts[0].messages, sum.accounts[1].messages, sum.system_calls), (2, 1, 1));
}
