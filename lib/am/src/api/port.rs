//! What clients and contexts need of the runtime, as traits that it implements.

use std::any::Any;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::handler::Handler;
use super::link_event::LinkEvents;
use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::{ConnectError, RegisterError};
use crate::id::{Incarnation, InstanceId};
use crate::proto::outgoing::{Outgoing, PayloadSource};
use crate::proto::pending::{Outcome, ReceiptReply};
use crate::wire::codes::{Codec, DeliveryMode};
use crate::wire::header::Trace;

/// A future on the heap, for what is rare.
pub(crate) type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where the answers of a link arrive.
pub(crate) trait Calls: Send + Sync + fmt::Debug {
    /// Asks for the end of a call.
    fn poll_outcome(&self, id: u64, cx: &Context<'_>) -> Poll<Outcome>;
    /// Asks for its receipt.
    fn poll_receipt(&self, id: u64, cx: &Context<'_>) -> Poll<Result<ReceiptReply, Outcome>>;
    /// Gives up on it.
    fn abandon(&self, id: u64);
}

/// A message that is in the send buffer.
#[derive(Debug)]
pub(crate) struct Ticket {
    pub(crate) id: u64,
    /// Where its answer will arrive; `None` for one-way messages.
    pub(crate) calls: Option<Arc<dyn Calls>>,
}

/// Why a message is not in the send buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortError {
    /// The peer grants no more right now.
    Full,
    /// There is no link right now, but one may come.
    NotConnected,
    /// There is no link, and none will come.
    Gone(String),
    /// This node itself has stopped, or is about to.
    Stopped(&'static str),
    /// Too many calls wait already.
    PendingFull { limit: usize },
    /// The peer takes no payload of this length.
    TooLarge { limit: u64 },
    /// The peer's kind of socket answers nothing.
    NeverAnswers,
    /// The peer's kind of socket takes no messages.
    TakesNoMessages,
    /// The deadline passed while the message waited for credit or for a link.
    Expired,
    /// A nested call waited too long for credit.
    Overloaded,
}

/// A message that waits, with everything it needs.
#[derive(Debug, Clone)]
pub(crate) struct Waiting {
    pub(crate) handler: String,
    pub(crate) mode: DeliveryMode,
    pub(crate) codec: Codec,
    pub(crate) depth: u8,
    pub(crate) deadline: Instant,
    pub(crate) tell_deadline: bool,
    pub(crate) trace: Option<Trace>,
    pub(crate) extras: Option<Vec<u8>>,
    pub(crate) payload: Bytes,
}

impl Waiting {
    /// `timeout` is for messages without a deadline.
    pub(crate) fn new(message: &Outgoing<'_>, timeout: Duration) -> Self {
        Self {
            handler: message.handler.to_owned(),
            mode: message.mode,
            codec: message.codec,
            depth: message.depth,
            deadline: message.deadline.unwrap_or_else(|| clock::now() + timeout),
            tell_deadline: message.time_left_ms.is_some(),
            trace: message.trace,
            extras: message.extras.map(<[u8]>::to_vec),
            payload: message.payload.to_bytes(),
        }
    }

    pub(crate) fn as_outgoing(&self, now: Instant) -> Outgoing<'_> {
        let time_left_ms = self.tell_deadline.then(|| millis(self.deadline.saturating_duration_since(now)));
        Outgoing {
            handler: &self.handler,
            mode: self.mode,
            codec: self.codec,
            depth: self.depth,
            deadline: Some(self.deadline),
            time_left_ms,
            trace: self.trace,
            extras: self.extras.as_deref(),
            payload: PayloadSource::Shared(&self.payload),
        }
    }
}

/// Whole milliseconds, as they travel.
pub(crate) fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

/// The sending side of one peer, whatever link it has at the moment.
pub(crate) trait Port: Send + Sync + fmt::Debug {
    /// Which peer.
    fn instance(&self) -> InstanceId;
    /// Which start of it.
    fn incarnation(&self) -> Incarnation;
    /// Puts a message into the send buffer, or says why not. `watcher` is woken by the answer as if it had asked for
    /// it.
    fn try_send(&self, message: &Outgoing<'_>, watcher: Option<&Waker>) -> Result<Ticket, PortError>;

    /// The short way of a one-way message: whether it was sent. If not, nothing was, and `try_send` says why.
    fn try_notify(&self, handler: &str, codec: Codec, payload: &[u8]) -> bool;
    /// The same, waiting for credit or a link up to the message's deadline. Dropped, it has sent nothing.
    fn send(self: Arc<Self>, message: Waiting) -> BoxFuture<'static, Result<Ticket, PortError>>;
    /// Where the peer listens, as it says itself.
    fn endpoints(&self) -> Vec<Endpoint>;
    /// Whether it has a link right now.
    fn is_connected(&self) -> bool;
}

/// What `probe` learns.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Probe {
    /// Who answered.
    pub instance: InstanceId,
    /// This start of it.
    pub incarnation: Incarnation,
    /// Where it listens, as it says itself.
    pub endpoints: Vec<String>,
    /// The version of the protocol that both speak.
    pub version: u16,
    /// From dialling to the end of the handshake.
    pub connect_time: Duration,
    /// One PING to its PONG.
    pub round_trip: Duration,
}

/// What each message says of the node that sends it, or goes by.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeFacts {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) request_timeout: Duration,
}

/// What a client needs of its node.
pub(crate) trait NodePort: Send + Sync + fmt::Debug {
    fn facts(&self) -> &NodeFacts;
    fn connect(
        &self,
        endpoints: Vec<Endpoint>,
        expected: Option<InstanceId>,
    ) -> BoxFuture<'static, Result<Arc<dyn Port>, ConnectError>>;
    fn connect_foreign(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Port>, ConnectError>>;
    fn probe(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Probe, ConnectError>>;
    fn myself(&self) -> Arc<dyn Port>;
    fn peers(&self) -> Vec<Arc<dyn Port>>;
    fn peer(&self, instance: InstanceId) -> Option<Arc<dyn Port>>;
    fn disconnect(&self, instance: InstanceId) -> BoxFuture<'static, ()>;
    fn link_events(&self) -> LinkEvents;
    fn register(&self, handler: Handler) -> Result<(), RegisterError>;
    fn unregister(&self, name: &str) -> bool;
    fn spawn(&self, task: BoxFuture<'static, ()>);
    fn shared(&self, key: &str) -> Option<Arc<dyn Any + Send + Sync>>;
    fn share(&self, key: String, value: &Arc<dyn Any + Send + Sync>);
}
