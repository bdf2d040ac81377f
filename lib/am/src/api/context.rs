//! What a handler knows of the message it runs for: [`ActiveMessageContext`] and [`InlineContext`].

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use super::client::{Client, Scope};
use super::control::MessageId;
use super::port::NodePort;
use crate::clock;
use crate::endpoint::Endpoint;
use crate::id::{Incarnation, InstanceId};
use crate::wire::codes::{Codec, DeliveryMode};
use crate::wire::extras::Extras;
use crate::wire::header::{Header, Trace};

/// Who sent a message: proved by its link, never by the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) is_own: bool,
    pub(crate) label: String,
    pub(crate) is_local: bool,
    pub(crate) endpoints: Vec<Endpoint>,
}

impl Sender {
    /// Its instance. A foreign peer has a fresh one for each link.
    #[must_use]
    pub const fn instance_id(&self) -> InstanceId {
        self.instance
    }

    /// Which start of the instance it is.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Whether it is a plain ZeroMQ client rather than one of our own nodes.
    #[must_use]
    pub const fn is_foreign(&self) -> bool {
        !self.is_own
    }

    /// Whether it is linked by `ipc`, `inproc` or a loopback address: on this machine.
    #[must_use]
    pub const fn is_local(&self) -> bool {
        self.is_local
    }

    /// Where it listens, as it says itself; empty when it listens nowhere.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// The Identity that a foreign client gave itself; proves nothing.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }
}

/// Where the messages of one link come from, and where their handlers find a client: one reference count for both.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) sender: Arc<Sender>,
    pub(crate) node: Arc<dyn NodePort>,
}

impl Origin {
    pub(crate) fn message_id(&self, number: u64) -> MessageId {
        MessageId::new(self.sender.instance, self.sender.incarnation, number)
    }
}

/// What a message says of itself beside its handler and payload.
#[derive(Debug)]
pub(crate) struct Facts {
    pub(crate) number: u64,
    pub(crate) mode: DeliveryMode,
    pub(crate) codec: Codec,
    pub(crate) depth: u8,
    pub(crate) deadline: Instant,
    pub(crate) trace: Option<Trace>,
    pub(crate) extras: Option<Box<[u8]>>,
}

impl Facts {
    pub(crate) fn new(header: &Header<'_>, mode: DeliveryMode, deadline: Instant) -> Self {
        Self {
            number: header.id,
            mode,
            codec: header.codec,
            depth: header.depth,
            deadline,
            trace: header.trace,
            extras: header.extras.map(Box::from),
        }
    }

    /// Takes out what has to be moved, and copies the rest.
    pub(crate) fn take(&mut self) -> Self {
        Self { extras: self.extras.take(), ..*self }
    }
}

/// What one running message is: shared by its context, its cancellation and its answer.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) facts: Facts,
    pub(crate) handler: Arc<str>,
    pub(crate) origin: Arc<Origin>,
    cancelled: AtomicBool,
    token: OnceLock<CancellationToken>,
}

impl Request {
    pub(crate) fn new(facts: Facts, handler: &Arc<str>, origin: &Arc<Origin>) -> Self {
        Self {
            facts,
            handler: handler.clone(),
            origin: origin.clone(),
            cancelled: AtomicBool::new(false),
            token: OnceLock::new(),
        }
    }

    /// As [`new`](Self::new), in the memory of the `last` one if nobody else has that any more.
    pub(crate) fn made_of(
        last: Option<Arc<Self>>,
        facts: Facts,
        handler: &Arc<str>,
        origin: &Arc<Origin>,
    ) -> Arc<Self> {
        if let Some(mut request) = last
            && let Some(place) = Arc::get_mut(&mut request)
        {
            place.renew(facts, handler, origin);
            return request;
        }
        Arc::new(Self::new(facts, handler, origin))
    }

    /// What both share is not counted anew.
    fn renew(&mut self, facts: Facts, handler: &Arc<str>, origin: &Arc<Origin>) {
        self.facts = facts;
        if !Arc::ptr_eq(&self.handler, handler) {
            self.handler = handler.clone();
        }
        if !Arc::ptr_eq(&self.origin, origin) {
            self.origin = origin.clone();
        }
        *self.cancelled.get_mut() = false;
        self.token.take();
    }

    /// Nobody waits for the answer any more.
    pub(crate) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(token) = self.token.get() {
            token.cancel();
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::SeqCst)
    }

    /// Made when it is asked for: most handlers never look, and a token costs more than many a handler.
    pub(crate) fn token(&self) -> &CancellationToken {
        let token = self.token.get_or_init(CancellationToken::new);
        // A cancel that came while the token was made has not seen it.
        if self.is_cancelled() {
            token.cancel();
        }
        token
    }

    pub(crate) fn id(&self) -> MessageId {
        self.origin.message_id(self.facts.number)
    }
}

/// The context of a handler that runs in a task or thread of its own. Cheap to clone.
#[derive(Clone)]
pub struct ActiveMessageContext(pub(crate) Arc<Request>);

impl fmt::Debug for ActiveMessageContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ActiveMessageContext({} for `{}`)", self.id(), self.handler())
    }
}

impl ActiveMessageContext {
    /// The message's id, which prints as the sender's `status.id()` does.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.0.id()
    }

    /// Who sent the message.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.0.origin.sender
    }

    /// The handler's name.
    #[must_use]
    pub fn handler(&self) -> &str {
        &self.0.handler
    }

    /// What the sender waits for.
    #[must_use]
    pub fn mode(&self) -> DeliveryMode {
        self.0.facts.mode
    }

    /// The payload's codec.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.0.facts.codec
    }

    /// The codec of the value that the sender waits for, if it waits for one.
    pub(crate) fn wanted_codec(&self) -> Option<Codec> {
        self.mode().wants_response().then(|| self.codec())
    }

    /// How many calls this one is nested in.
    #[must_use]
    pub fn depth(&self) -> u8 {
        self.0.facts.depth
    }

    /// When the caller stops waiting.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.0.facts.deadline
    }

    /// How long the caller still waits; zero when it does no more.
    #[must_use]
    pub fn time_left(&self) -> Duration {
        self.0.facts.deadline.saturating_duration_since(clock::now())
    }

    /// The sender's trace context, if it gave one.
    #[must_use]
    pub fn trace(&self) -> Option<Trace> {
        self.0.facts.trace
    }

    /// The value of an extra of the message.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&str> {
        extra(self.0.facts.extras.as_deref(), key)
    }

    /// A client whose calls inherit this call's deadline and cancellation.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.0.origin.node.clone(), Scope::Nested(self.0.clone()))
    }

    /// Resolves when nobody waits for the answer any more: the caller has dropped its call, or its link is lost.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn cancelled(&self) {
        self.0.token().cancelled().await;
    }

    /// Whether nobody waits for the answer any more.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_cancelled()
    }

    /// A token that fires when [`cancelled`](Self::cancelled) would resolve.
    #[must_use]
    pub fn cancellation_token(&self) -> CancellationToken {
        self.0.token().clone()
    }
}

/// The context of an inline handler, lent for the time of its call.
pub struct InlineContext<'a> {
    pub(crate) header: &'a Header<'a>,
    pub(crate) origin: &'a Origin,
    pub(crate) deadline: Option<Instant>,
}

impl fmt::Debug for InlineContext<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "InlineContext({} for `{}`)", self.id(), self.handler())
    }
}

impl InlineContext<'_> {
    /// The message's id, which prints as the sender's `status.id()` does.
    #[must_use]
    pub fn id(&self) -> MessageId {
        self.origin.message_id(self.header.id)
    }

    /// Who sent the message.
    #[must_use]
    pub fn sender(&self) -> &Sender {
        &self.origin.sender
    }

    /// The handler's name.
    #[must_use]
    pub fn handler(&self) -> &str {
        std::str::from_utf8(self.header.handler).unwrap_or_default()
    }

    /// What the sender waits for.
    #[must_use]
    pub fn mode(&self) -> DeliveryMode {
        self.header.mode().unwrap_or(DeliveryMode::FireAndForget)
    }

    /// The payload's codec.
    #[must_use]
    pub fn codec(&self) -> Codec {
        self.header.codec
    }

    /// The value of an extra of the message.
    #[must_use]
    pub fn extra(&self, key: &str) -> Option<&str> {
        extra(self.header.extras, key)
    }

    /// How long the caller still waits; `None` when it did not say.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        self.deadline.map(|deadline| deadline.saturating_duration_since(clock::now()))
    }

    /// A client. An inline handler runs on the link's reading task, so it may only `try_send`.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.origin.node.clone(), Scope::Root)
    }
}

fn extra<'a>(extras: Option<&'a [u8]>, key: &str) -> Option<&'a str> {
    Extras::decode(extras?).ok()?.get(key)
}
