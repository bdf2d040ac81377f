//! What both sides write down, in the order in which it happened: [`Log`].

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::message::{Kind, Mode, Plan};

/// A message's number; never used twice in a run.
pub type Number = u64;

/// A node in one of its lives: the slot it was started in, and how often that had been started before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Life {
    /// Its place in the network.
    pub slot: u8,
    /// Counts from 0.
    pub life: u32,
}

/// How a call ended, as its caller saw it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum End {
    /// A one-way message is in the send buffer.
    Sent,
    /// The handler has finished without error.
    Ack,
    /// The handler's value; whether it is the one that belongs to this message.
    Reply(bool),
    /// The message is accepted.
    Receipt,
    /// It never left.
    NotSent(String),
    /// The peer refused it, with this reason and text.
    Refused(String, String),
    /// The handler returned an error.
    HandlerError(String),
    /// The handler panicked.
    Panicked,
    /// The link ended first; whether the handler may have run.
    PeerLost(bool),
    /// The deadline passed first, likewise.
    Expired(bool),
    /// It was cancelled, likewise.
    Cancelled(bool),
    /// The peer broke the protocol, or its answer did not decode.
    Broken(String),
    /// `try_send` had no credit.
    Full,
    /// `try_send` had no link.
    NotConnected,
    /// The caller dropped the call.
    Dropped,
}

/// How a handler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Done {
    /// With a value, or well.
    Well,
    /// With an error.
    Failed,
    /// With a panic.
    Panicked,
    /// Its future was dropped.
    Dropped,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Event {
    /// A caller is about to send.
    Call {
        /// Which message.
        number: Number,
        /// Who calls.
        by: Life,
        /// The task that calls; its messages have an order.
        task: u64,
        /// The instance that is called, as text.
        to: String,
        /// Which handler.
        kind: Kind,
        /// What is waited for.
        mode: Mode,
        /// What the handler is told to do.
        plan: Plan,
        /// How long it may take.
        deadline: Duration,
        /// Made within a handler.
        is_nested: bool,
    },
    /// It is in the send buffer.
    Accepted(Number),
    /// A receipt came, with the response still to come.
    Receipt(Number),
    /// The call's one end.
    Ended(Number, End),
    /// A handler begins.
    Start {
        /// Which message.
        number: Number,
        /// Where.
        at: Life,
        /// Which handler.
        kind: Kind,
        /// Who sent it, as the context says.
        sender: String,
        /// What its deadline leaves it.
        time_left: Option<Duration>,
        /// The payload is the one that was sent.
        is_intact: bool,
    },
    /// A handler has ended.
    Done(Number, Done),
    /// A node was started.
    Started(Life, String),
    /// A node begins to shut down in good order.
    Draining(Life),
    /// A node was dropped, or has shut down.
    Stopped(Life, String),
    /// A link event at a node: the peer is up.
    Up(Life, String),
    /// The last link to a peer has ended, and why.
    Down(Life, String, String),
    /// A node leaves a peer on purpose.
    Left(u8, String),
    /// A node with the identity of one slot's came to another slot's node; whether it was let in.
    Theft(u8, u8, bool),
    /// Another link event.
    Link(Life, String),
    /// Something on the network: which connection, and what.
    Net(u64, String),
    /// A connection was opened.
    Opened(u64, u8, u8),
    /// A connection was closed, or a fault ended it.
    Closed(u64),
    /// The clock jumped.
    Jump(Duration),
    /// What the run is about, and where it stands.
    Note(String),
    /// Something is wrong that the log alone would not show.
    Wrong(String),
}

/// An event and when it was.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    /// Since the run began, by its own clock.
    pub at: Duration,
    /// What.
    pub event: Event,
}

/// The log of one run.
#[derive(Debug)]
pub struct Log {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
    next_number: AtomicU64,
    /// When a handler was last seen at work.
    worked_at: Mutex<Duration>,
}

impl Log {
    /// An empty log that begins now.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let log = Arc::new(Self {
            began: Instant::now(),
            entries: Mutex::default(),
            next_number: AtomicU64::new(1),
            worked_at: Mutex::default(),
        });
        CURRENT.set(Some(log.clone()));
        log
    }

    /// Writes down what happens now.
    pub fn push(&self, event: Event) {
        let at = self.began.elapsed();
        // Inline handlers have no backlog, and probes are inline.
        if matches!(event, Event::Start { kind, .. } if !matches!(kind, Kind::Inline | Kind::InlineToo)) {
            *self.worked_at.lock() = at;
        }
        self.entries.lock().push(Entry { at, event });
    }

    /// A note for whoever reads the trace.
    pub fn note(&self, text: impl Into<String>) {
        self.push(Event::Note(text.into()));
    }

    /// Something that must not be.
    pub fn wrong(&self, text: impl Into<String>) {
        self.push(Event::Wrong(text.into()));
    }

    /// A number for a new message.
    pub fn number(&self) -> Number {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// When a handler that can have a backlog last began.
    #[must_use]
    pub fn worked_at(&self) -> Duration {
        *self.worked_at.lock()
    }

    /// Since the run began.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// All that was written down.
    #[must_use]
    pub fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries.lock())
    }
}

thread_local! {
    /// The log of the run that goes on in this thread.
    static CURRENT: std::cell::RefCell<Option<Arc<Log>>> = const { std::cell::RefCell::new(None) };
}

/// A note in the log of this thread's run, if one goes on.
pub(crate) fn say(text: &str) {
    let log = CURRENT.with_borrow(Clone::clone);
    if let Some(log) = log {
        log.note(text);
    }
}

/// A number that two runs share only if their logs are the same.
#[must_use]
pub fn hash(entries: &[Entry]) -> u64 {
    let mut hasher = DefaultHasher::new();
    entries.hash(&mut hasher);
    hasher.finish()
}
