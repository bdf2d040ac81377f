//! What goes down the tree and comes back: [`Relay`] and [`RelayAnswer`].

use std::borrow::Cow;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::answer::{Encoded, RelayMode};
use super::words::Octets;
use crate::api::call_error::{CallError, CallInfo, Refusal};
use crate::api::client::Peer;
use crate::api::codec::Raw;
use crate::wire::codes::{Codec, NackCode};

/// A call for several ranks. The first target is the receiver.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Relay<'a> {
    pub(crate) token: Cow<'a, str>,
    pub(crate) handler: Cow<'a, str>,
    pub(crate) mode: RelayMode,
    /// The leader's number for it.
    pub(crate) call: u64,
    /// The leader is done with all numbers before this one.
    pub(crate) done_before: u64,
    /// The request of all, where all have the same.
    pub(crate) shared: Option<RequestWord>,
    pub(crate) targets: Vec<Target<'a>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RequestWord {
    pub(crate) codec: u8,
    pub(crate) octets: Octets,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Target<'a> {
    pub(crate) rank: usize,
    /// The octets of its instance id.
    pub(crate) worker: Octets,
    /// With spaces between.
    pub(crate) endpoints: Cow<'a, str>,
    pub(crate) request: Option<RequestWord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RelayAnswer {
    pub(crate) slots: Vec<SlotWord>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SlotWord {
    pub(crate) rank: usize,
    /// The value and its codec.
    pub(crate) value: Option<RequestWord>,
    pub(crate) error: Option<ErrorWord>,
}

/// A [`CallError`] on its way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ErrorWord {
    kind: String,
    text: String,
    code: u8,
    flag: bool,
    /// The target was not reached because of those who hand on.
    pub(crate) is_of_the_way: bool,
}

impl ErrorWord {
    pub(crate) fn new(error: &CallError, is_of_the_way: bool) -> Self {
        let (kind, text, code, flag) = match error {
            CallError::NotSent { reason, transient, .. } => ("not_sent", reason.clone(), 0, *transient),
            CallError::Refused { reason, message, .. } => {
                ("refused", message.clone(), code_of(*reason), false)
            }
            CallError::HandlerError { message, .. } => ("handler", message.clone(), 0, false),
            CallError::HandlerPanicked { message, .. } => ("panicked", message.clone(), 0, false),
            CallError::BadResponse { reason, .. } => ("bad_response", reason.clone(), 0, false),
            CallError::PeerLost { maybe_executed, .. } => ("lost", String::new(), 0, *maybe_executed),
            CallError::DeadlineExceeded { maybe_executed, .. } => ("late", String::new(), 0, *maybe_executed),
            CallError::Overloaded { maybe_executed, .. } => ("no_room", String::new(), 0, *maybe_executed),
            CallError::Cancelled { maybe_executed, .. } => ("cancelled", String::new(), 0, *maybe_executed),
            CallError::Protocol { reason, .. } => ("protocol", reason.clone(), 0, false),
        };
        Self { kind: kind.to_owned(), text, code, flag, is_of_the_way }
    }

    pub(crate) fn into_error(self, call: Box<CallInfo>) -> CallError {
        let maybe_executed = self.flag;
        match self.kind.as_str() {
            "not_sent" => CallError::NotSent { call, reason: self.text, transient: self.flag },
            "refused" => {
                let reason =
                    Refusal::from_code(NackCode::from_u8(self.code)).unwrap_or(Refusal::Other(self.code));
                CallError::Refused { call, reason, message: self.text }
            }
            "handler" => CallError::HandlerError { call, message: self.text },
            "panicked" => CallError::HandlerPanicked { call, message: self.text },
            "bad_response" => CallError::BadResponse { call, expected: "a response", reason: self.text },
            "lost" => CallError::PeerLost { call, maybe_executed },
            "late" => CallError::DeadlineExceeded { call, maybe_executed },
            "no_room" => CallError::Overloaded { call, maybe_executed },
            "cancelled" => CallError::Cancelled { call, maybe_executed },
            _ => CallError::Protocol { call, reason: self.text },
        }
    }
}

fn code_of(refusal: Refusal) -> u8 {
    let known = (1..=31).map(NackCode::from_u8).find(|code| Refusal::from_code(*code) == Some(refusal));
    known.map_or(NackCode::Protocol.as_u8(), NackCode::as_u8)
}

impl From<&Encoded> for RequestWord {
    fn from(request: &Encoded) -> Self {
        Self { codec: request.codec.as_u8(), octets: Octets(request.payload.0.clone()) }
    }
}

impl RequestWord {
    pub(crate) fn decoded(&self) -> Option<Encoded> {
        Some(Encoded { payload: Raw(self.octets.0.clone()), codec: Codec::from_u8(self.codec)? })
    }
}

/// Sends it as its mode has it; one-way ones have no answers to wait for.
pub(crate) async fn send_relay(
    peer: &Peer,
    name: &str,
    relay: &Relay<'_>,
    left: Duration,
) -> Result<RelayAnswer, CallError> {
    let client = peer.client();
    let message = client.active_message(name).payload(relay).deadline(left);
    match relay.mode {
        RelayMode::OneWay => message.send(peer).await.map(|_| {
            let slot = |target: &Target<'_>| SlotWord { rank: target.rank, value: None, error: None };
            RelayAnswer { slots: relay.targets.iter().map(slot).collect() }
        }),
        RelayMode::Confirmed | RelayMode::Response => {
            let answer = message.expect_response::<RelayAnswer>().send(peer).await?.response().await;
            answer.map_err(|error| match error {
                // The relay's own error: it has run nobody's handler.
                CallError::HandlerError { call, message } => {
                    CallError::Refused { call, reason: Refusal::Unauthorized, message }
                }
                other => other,
            })
        }
    }
}
