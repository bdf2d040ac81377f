//! What happens to links, as a stream: [`LinkEvents`].

use tokio::sync::broadcast;

use crate::id::InstanceId;

/// Something that happened to a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkEvent {
    /// A handshake is done: the peer is known and can be called.
    Up {
        /// Who.
        peer: InstanceId,
        /// Whether it is one of our own nodes.
        is_own: bool,
    },
    /// A link has ended.
    Down {
        /// Who.
        peer: InstanceId,
        /// Why, in words.
        reason: String,
        /// Calls that were waiting for an answer.
        pending_calls: u64,
        /// Octets that had surely not left; what the socket was taking at that moment may have.
        unsent_len: u64,
        /// One-way messages of which nothing had left.
        one_way_unsent: u64,
        /// One-way messages that had left and may not have been handled, at most. `None` for foreign peers, which do
        /// not say what they have handled.
        one_way_maybe_lost: Option<u64>,
    },
    /// A redial reached another instance: calls for the old one fail.
    Replaced {
        /// Who was there before.
        old: InstanceId,
        /// Who is there now.
        new: InstanceId,
    },
    /// A process was turned away that says it is this peer, or this node itself, while that one is alive.
    Refused {
        /// Whose id it claims.
        peer: InstanceId,
        /// Why, in words.
        reason: String,
    },
    /// Dialling again failed; it goes on.
    RedialFailed {
        /// Who.
        peer: InstanceId,
        /// Why, in words.
        reason: String,
    },
    /// This reader was too slow and missed so many events.
    Missed(u64),
}

/// Link events since it was made; see `Client::link_events`.
#[derive(Debug)]
pub struct LinkEvents(pub(crate) broadcast::Receiver<LinkEvent>);

impl LinkEvents {
    /// The next event; `None` after the node's end.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<LinkEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => Some(LinkEvent::Missed(missed)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}
