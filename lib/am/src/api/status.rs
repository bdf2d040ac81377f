//! What became of a message: [`MessageStatus`], which offers just what the message asked for.

use std::borrow::Cow;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::client::Scope;
use super::codec::{Decode, contract_name};
use super::context::Request;
use super::control::{ContractInfo, MessageId, ReceiptAck};
use super::port::{Calls, Ticket};
use crate::api::call_error::{CallError, CallInfo, Refusal};
use crate::id::InstanceId;
use crate::proto::pending::{Outcome, ReceiptReply};
use crate::wire::codes::{DeliveryMode, NackCode, RECEIPT_ACCEPTED};

/// Nothing is waited for.
#[derive(Debug)]
pub enum FireAndForget {}
/// The handler's end is waited for.
#[derive(Debug)]
pub enum Confirmed {}
/// The handler's value is waited for.
#[derive(Debug)]
pub struct WithResponse<R>(PhantomData<fn() -> R>);
/// Acceptance is waited for.
#[derive(Debug)]
pub enum WithReceipt {}
/// Acceptance, then the handler's value are waited for.
#[derive(Debug)]
pub struct WithReceiptAndResponse<R>(PhantomData<fn() -> R>);

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::FireAndForget {}
    impl Sealed for super::Confirmed {}
    impl<R> Sealed for super::WithResponse<R> {}
    impl Sealed for super::WithReceipt {}
    impl<R> Sealed for super::WithReceiptAndResponse<R> {}
}

/// A delivery mode as a type. Sealed.
pub trait Mode: sealed::Sealed {
    /// As it travels.
    const MODE: DeliveryMode;

    /// The name of the response's type, for the contract.
    #[must_use]
    fn response_type() -> Option<&'static str> {
        None
    }
}

impl Mode for FireAndForget {
    const MODE: DeliveryMode = DeliveryMode::FireAndForget;
}

impl Mode for Confirmed {
    const MODE: DeliveryMode = DeliveryMode::Confirmed;
}

impl<R: Decode> Mode for WithResponse<R> {
    const MODE: DeliveryMode = DeliveryMode::WithResponse;

    fn response_type() -> Option<&'static str> {
        contract_name(std::any::type_name::<R>())
    }
}

impl Mode for WithReceipt {
    const MODE: DeliveryMode = DeliveryMode::WithReceipt;
}

impl<R: Decode> Mode for WithReceiptAndResponse<R> {
    const MODE: DeliveryMode = DeliveryMode::WithReceiptAndResponse;

    fn response_type() -> Option<&'static str> {
        contract_name(std::any::type_name::<R>())
    }
}

/// A sent message. What can be awaited depends on what was asked for; dropping it gives up on the answer, and the
/// peer is told to cancel.
#[derive(Debug)]
pub struct MessageStatus<M> {
    id: MessageId,
    call: Option<Call<'static>>,
    mode: PhantomData<fn(M)>,
}

impl<M: Mode> MessageStatus<M> {
    pub(crate) fn new(id: MessageId, ticket: Ticket, handler: &str, peer: InstanceId, scope: &Scope) -> Self {
        let is_call = M::MODE.is_answered();
        let call = is_call.then(|| Call::new(id, ticket, handler.to_owned().into(), peer, scope)).flatten();
        Self { id, call, mode: PhantomData }
    }
}

impl<M> MessageStatus<M> {
    /// The message's id for logs: it prints the same at the receiver.
    #[must_use]
    pub const fn id(&self) -> MessageId {
        self.id
    }

    fn into_call(self) -> Result<Call<'static>, CallError> {
        self.call.ok_or_else(|| without_place("", InstanceId::UNKNOWN, self.id))
    }
}

impl MessageStatus<Confirmed> {
    /// Waits until the handler has finished well.
    ///
    /// # Errors
    ///
    /// How it went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up: the peer is told to cancel.
    pub async fn ack(self) -> Result<(), CallError> {
        let mut call = self.into_call()?;
        call.ack().await
    }
}

impl<R: Decode> MessageStatus<WithResponse<R>> {
    /// Waits for the handler's value.
    ///
    /// # Errors
    ///
    /// How it went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up: the peer is told to cancel.
    pub async fn response(self) -> Result<R, CallError> {
        let mut call = self.into_call()?;
        call.response().await
    }
}

impl MessageStatus<WithReceipt> {
    /// Waits until the message is accepted.
    ///
    /// # Errors
    ///
    /// How it went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up: the peer is told to cancel.
    pub async fn receipt(self) -> Result<ReceiptAck, CallError> {
        let mut call = self.into_call()?;
        let receipt = call.receipt().await?;
        // The slot is freed by taking the end, which came with the receipt.
        call.outcome().await?;
        Ok(receipt)
    }
}

impl<R: Decode> MessageStatus<WithReceiptAndResponse<R>> {
    /// Waits until the message is accepted, and gives what is left to wait for.
    ///
    /// # Errors
    ///
    /// How it went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up: the peer is told to cancel.
    pub async fn receipt(self) -> Result<(ReceiptAck, MessageStatus<WithResponse<R>>), CallError> {
        let id = self.id;
        let mut call = self.into_call()?;
        let receipt = call.receipt().await?;
        Ok((receipt, MessageStatus { id, call: Some(call), mode: PhantomData }))
    }

    /// Waits for the handler's value, whenever the receipt came.
    ///
    /// # Errors
    ///
    /// How it went wrong.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it gives up: the peer is told to cancel.
    pub async fn response(self) -> Result<R, CallError> {
        let mut call = self.into_call()?;
        call.response().await
    }
}

/// One call's place in its link's slab.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    calls: Arc<dyn Calls>,
    number: u64,
    /// The slot is still ours.
    is_open: bool,
    /// The task that waits was named when the message was sent, in the same turn of it.
    pub(crate) is_watched: bool,
    /// The call that this one is made in: its cancellation is ours.
    outer: Option<Arc<Request>>,
    id: MessageId,
    handler: Cow<'a, str>,
    peer: InstanceId,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.is_open {
            self.calls.abandon(self.number);
        }
    }
}

/// A message whose mode waits for something always has a call; `Port::try_send` gives it one.
pub(crate) fn without_place(handler: &str, peer: InstanceId, id: MessageId) -> CallError {
    CallError::Protocol {
        call: Box::new(CallInfo { handler: handler.to_owned(), peer, id: id.to_string() }),
        reason: "the message was sent without a place for its answer".to_owned(),
    }
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        id: MessageId,
        ticket: Ticket,
        handler: Cow<'a, str>,
        peer: InstanceId,
        scope: &Scope,
    ) -> Option<Self> {
        let calls = ticket.calls?;
        let outer = match scope {
            Scope::Root => None,
            Scope::Nested(request) => Some(request.clone()),
        };
        Some(Self { calls, number: ticket.id, is_open: true, is_watched: false, outer, id, handler, peer })
    }

    async fn outcome(&mut self) -> Result<Outcome, CallError> {
        let Self { calls, number, is_watched, .. } = self;
        let end =
            poll_fn(
                |cx| {
                    if std::mem::take(is_watched) { Poll::Pending } else { calls.poll_outcome(*number, cx) }
                },
            );
        let outcome = match &self.outer {
            None => Some(end.await),
            Some(outer) => unless_cancelled(outer, end).await,
        };
        match outcome {
            Some(outcome) => {
                self.is_open = false;
                Ok(outcome)
            }
            None => Err(CallError::Cancelled { call: self.info(), maybe_executed: true }),
        }
    }

    pub(crate) async fn ack(&mut self) -> Result<(), CallError> {
        match self.outcome().await? {
            Outcome::Done => Ok(()),
            outcome => Err(self.error(outcome)),
        }
    }

    pub(crate) async fn response<R: Decode>(&mut self) -> Result<R, CallError> {
        match self.outcome().await? {
            Outcome::Response { codec, payload } => {
                R::decode_owned(codec, payload).map_err(|error| CallError::BadResponse {
                    call: self.info(),
                    expected: R::type_name().unwrap_or("raw bytes"),
                    reason: error.to_string(),
                })
            }
            outcome => Err(self.error(outcome)),
        }
    }

    async fn receipt(&mut self) -> Result<ReceiptAck, CallError> {
        let Self { calls, number, .. } = self;
        let receipt = poll_fn(|cx| calls.poll_receipt(*number, cx));
        let receipt = match &self.outer {
            None => Some(receipt.await),
            Some(outer) => unless_cancelled(outer, receipt).await,
        };
        match receipt {
            Some(Ok(receipt)) => self.accepted(&receipt),
            Some(Err(outcome)) => {
                self.is_open = false;
                Err(self.error(outcome))
            }
            None => Err(CallError::Cancelled { call: self.info(), maybe_executed: true }),
        }
    }

    fn accepted(&self, receipt: &ReceiptReply) -> Result<ReceiptAck, CallError> {
        let broken = |reason: String| CallError::Protocol { call: self.info(), reason };
        if receipt.status != RECEIPT_ACCEPTED {
            return Err(broken(format!("a receipt with the unknown status {}", receipt.status)));
        }
        let contract = ContractInfo::decode(receipt.codec, &receipt.payload)
            .map_err(|error| broken(format!("the receipt does not decode: {error}")))?;
        Ok(ReceiptAck { handler: self.handler.to_string(), contract })
    }

    fn info(&self) -> Box<CallInfo> {
        Box::new(CallInfo { handler: self.handler.to_string(), peer: self.peer, id: self.id.to_string() })
    }

    fn error(&self, outcome: Outcome) -> CallError {
        let call = self.info();
        match outcome {
            Outcome::Nack { code, text } => {
                let message = String::from_utf8_lossy(&text).into_owned();
                match (code, Refusal::from_code(code)) {
                    (_, Some(reason)) => CallError::Refused { call, reason, message },
                    (NackCode::Panicked, None) => CallError::HandlerPanicked { call, message },
                    (NackCode::Cancelled, None) => CallError::Cancelled { call, maybe_executed: true },
                    (_, None) => CallError::HandlerError { call, message },
                }
            }
            Outcome::Lost { sent: false } => CallError::NotSent {
                call,
                reason: "the link ended before the message left this node".to_owned(),
                transient: true,
            },
            Outcome::Lost { sent: true } => CallError::PeerLost { call, maybe_executed: true },
            Outcome::NoRoom => CallError::Overloaded { call, maybe_executed: true },
            Outcome::Expired => CallError::DeadlineExceeded { call, maybe_executed: true },
            Outcome::Unexpected(kind) => {
                CallError::Protocol { call, reason: format!("{kind} was not asked for") }
            }
            Outcome::Done | Outcome::Response { .. } => {
                CallError::Protocol { call, reason: "an answer of another kind was asked for".to_owned() }
            }
        }
    }
}

/// `None` when the outer call is cancelled first.
async fn unless_cancelled<T>(outer: &Request, future: impl Future<Output = T>) -> Option<T> {
    let mut cancelled = pin!(outer.token().cancelled());
    let mut future = pin!(future);
    poll_fn(|cx| {
        if let Poll::Ready(value) = future.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        cancelled.as_mut().poll(cx).map(|()| None)
    })
    .await
}
