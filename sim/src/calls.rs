//! One call, from before it is sent to its one end, as its caller writes it down.

use std::sync::Arc;
use std::time::Duration;

use dynamo_am::{
    CallError, Client, Confirmed, MessageStatus, Peer, Raw, TrySendError, WithReceipt,
    WithReceiptAndResponse, WithResponse,
};
use tokio::time::timeout;

use crate::log::{End, Event, Life, Log, Number};
use crate::message::{self, Kind, Mode, Plan};

/// What is called, and how.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    /// Which handler.
    pub kind: Kind,
    /// What is waited for.
    pub mode: Mode,
    /// What the handler is told.
    pub plan: Plan,
    /// How long it may take.
    pub deadline: Duration,
    /// The task that sends; its messages have an order. 0: none.
    pub task: u64,
    /// The caller drops the call after so long.
    pub give_up_after: Option<Duration>,
    /// Made within a handler.
    pub is_nested: bool,
}

/// A call that was begun; its end is written down whatever happens to it.
#[derive(Debug)]
struct Begun {
    log: Arc<Log>,
    number: Number,
    is_over: bool,
}

impl Begun {
    fn end(&mut self, end: End) -> End {
        if !std::mem::replace(&mut self.is_over, true) {
            self.log.push(Event::Ended(self.number, end.clone()));
        }
        end
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

/// What is left to wait for.
enum Status {
    Nothing,
    Ack(MessageStatus<Confirmed>),
    Reply(MessageStatus<WithResponse<Raw>>),
    Receipt(MessageStatus<WithReceipt>),
    Both(MessageStatus<WithReceiptAndResponse<Raw>>),
}

/// A message that is in the send buffer.
pub struct Sent {
    begun: Begun,
    status: Status,
    spec: Spec,
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sent").field("number", &self.begun.number).finish_non_exhaustive()
    }
}

fn begin(log: &Arc<Log>, by: Life, peer: &Peer, spec: &Spec) -> (Begun, Raw) {
    let number = log.number();
    log.push(Event::Call {
        number,
        by,
        task: spec.task,
        to: peer.instance_id().to_string(),
        kind: spec.kind,
        mode: spec.mode,
        plan: spec.plan,
        deadline: spec.deadline,
        is_nested: spec.is_nested,
    });
    let payload = message::payload(number, &spec.plan);
    (Begun { log: log.clone(), number, is_over: false }, payload)
}

/// Sends and waits for the end.
pub async fn run(log: &Arc<Log>, by: Life, client: &Client, peer: &Peer, spec: Spec) -> End {
    let whole = async {
        match send(log, by, client, peer, spec).await {
            Ok(sent) => sent.finish().await,
            Err(end) => end,
        }
    };
    match spec.give_up_after {
        None => whole.await,
        // The guard writes down that it was dropped.
        Some(patience) => timeout(patience, whole).await.unwrap_or(End::Dropped),
    }
}

/// Sends; `Err` when it has ended already.
///
/// # Errors
///
/// Its end.
pub async fn send(log: &Arc<Log>, by: Life, client: &Client, peer: &Peer, spec: Spec) -> Result<Sent, End> {
    let (mut begun, payload) = begin(log, by, peer, &spec);
    let message = client.active_message(spec.kind.name()).payload(&payload).deadline(spec.deadline);
    let sent = match spec.mode {
        Mode::OneWay => message.send(peer).await.map(|_| Status::Nothing),
        Mode::Confirmed => message.confirmed().send(peer).await.map(Status::Ack),
        Mode::Response => message.expect_response::<Raw>().send(peer).await.map(Status::Reply),
        Mode::Receipt => message.with_receipt().send(peer).await.map(Status::Receipt),
        Mode::Both => message.with_receipt().expect_response::<Raw>().send(peer).await.map(Status::Both),
    };
    match sent {
        Ok(status) => {
            log.push(Event::Accepted(begun.number));
            Ok(Sent { begun, status, spec })
        }
        Err(error) => Err(begun.end(end_of(&error))),
    }
}

/// Sends if that needs no waiting.
///
/// # Errors
///
/// Its end, when it has ended already.
pub fn try_send(log: &Arc<Log>, by: Life, client: &Client, peer: &Peer, spec: Spec) -> Result<Sent, End> {
    let (mut begun, payload) = begin(log, by, peer, &spec);
    let message = client.active_message(spec.kind.name()).payload(&payload).deadline(spec.deadline);
    let sent = match spec.mode {
        Mode::OneWay => message.try_send(peer).map(|_| Status::Nothing),
        Mode::Confirmed => message.confirmed().try_send(peer).map(Status::Ack),
        Mode::Response => message.expect_response::<Raw>().try_send(peer).map(Status::Reply),
        Mode::Receipt => message.with_receipt().try_send(peer).map(Status::Receipt),
        Mode::Both => message.with_receipt().expect_response::<Raw>().try_send(peer).map(Status::Both),
    };
    match sent {
        Ok(status) => {
            log.push(Event::Accepted(begun.number));
            Ok(Sent { begun, status, spec })
        }
        Err(TrySendError::Full(_)) => Err(begun.end(End::Full)),
        Err(TrySendError::NotConnected(_)) => Err(begun.end(End::NotConnected)),
        Err(TrySendError::Failed(error)) => Err(begun.end(end_of(&error))),
        Err(error) => Err(begun.end(End::Broken(error.to_string()))),
    }
}

impl Sent {
    /// Waits for the end, and writes it down.
    pub async fn finish(self) -> End {
        let Self { mut begun, status, spec } = self;
        let end = match status {
            Status::Nothing => Ok(End::Sent),
            Status::Ack(status) => status.ack().await.map(|()| End::Ack),
            Status::Receipt(status) => status.receipt().await.map(|_| End::Receipt),
            Status::Reply(status) => status.response().await.map(|raw| judge(&raw, begun.number, &spec)),
            Status::Both(status) => match status.receipt().await {
                Err(error) => Err(error),
                Ok((_, status)) => {
                    begun.log.push(Event::Receipt(begun.number));
                    status.response().await.map(|raw| judge(&raw, begun.number, &spec))
                }
            },
        };
        begun.end(end.unwrap_or_else(|error| end_of(&error)))
    }
}

fn judge(raw: &Raw, number: Number, spec: &Spec) -> End {
    End::Reply(message::is_reply(&raw.0, number, spec.kind, &spec.plan))
}

fn end_of(error: &CallError) -> End {
    match error {
        CallError::NotSent { reason, .. } => End::NotSent(reason.clone()),
        CallError::Refused { reason, message, .. } => End::Refused(format!("{reason:?}"), message.clone()),
        CallError::HandlerError { message, .. } => End::HandlerError(message.clone()),
        CallError::HandlerPanicked { .. } => End::Panicked,
        CallError::PeerLost { maybe_executed, .. } => End::PeerLost(*maybe_executed),
        CallError::DeadlineExceeded { maybe_executed, .. } => End::Expired(*maybe_executed),
        CallError::Cancelled { maybe_executed, .. } => End::Cancelled(*maybe_executed),
        error => End::Broken(error.to_string()),
    }
}
