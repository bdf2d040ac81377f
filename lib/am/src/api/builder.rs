//! A message as it is put together: [`MessageBuilder`], typed by its delivery mode.

use std::marker::PhantomData;
use std::task::{Context, Waker};
use std::time::Duration;

use super::client::{Peer, Scope};
use super::codec::{Decode, Encode, Raw, contract_name, sent_codec, with_encoded};
use super::control::{
    EXTRA_KIND, EXTRA_REQUEST, EXTRA_RESPONSE, MessageId, RESERVED_EXTRA_PREFIX, ResponseType,
};
use super::port::{NodeFacts, PortError, Ticket, Waiting, millis};
use super::status::{
    Call, Confirmed, FireAndForget, MessageStatus, Mode, WithReceipt, WithReceiptAndResponse, WithResponse,
    without_place,
};
use crate::api::call_error::{CallError, CallInfo, Refusal, TrySendError};
use crate::api::control::check_name;
use crate::clock;
use crate::proto::outgoing::Outgoing;
use crate::wire::codes::Codec;
use crate::wire::extras::encode_extras;
use crate::wire::header::{DEPTH_MAX, Trace};

/// No payload was given: it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoPayload;

impl serde::Serialize for NoPayload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_unit()
    }
}

/// A message on its way to be sent. What `send` returns offers just what was asked for here.
#[must_use = "a message is sent by `send`"]
pub struct MessageBuilder<'a, M, P: ?Sized> {
    handler: &'a str,
    payload: &'a P,
    scope: Scope,
    node: NodeFacts,
    codec: Option<Codec>,
    timeout: Option<Duration>,
    trace: Option<Trace>,
    extras: Vec<(String, String)>,
    contract: Option<&'a str>,
    mode: PhantomData<fn(M)>,
}

impl<M, P: ?Sized> std::fmt::Debug for MessageBuilder<'_, M, P> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MessageBuilder").field("handler", &self.handler).finish_non_exhaustive()
    }
}

impl<'a> MessageBuilder<'a, FireAndForget, NoPayload> {
    pub(crate) fn new(handler: &'a str, scope: Scope, node: NodeFacts) -> Self {
        Self {
            handler,
            payload: &NoPayload,
            scope,
            node,
            codec: None,
            timeout: None,
            trace: None,
            extras: Vec::new(),
            contract: None,
            mode: PhantomData,
        }
    }
}

impl<'a, M, P: ?Sized> MessageBuilder<'a, M, P> {
    fn with<N, Q: ?Sized>(self, payload: &'a Q) -> MessageBuilder<'a, N, Q> {
        MessageBuilder {
            handler: self.handler,
            payload,
            scope: self.scope,
            node: self.node,
            codec: self.codec,
            timeout: self.timeout,
            trace: self.trace,
            extras: self.extras,
            contract: self.contract,
            mode: PhantomData,
        }
    }

    /// The payload: any serde value, or [`Raw`] bytes.
    pub fn payload<Q: Encode + ?Sized>(self, payload: &'a Q) -> MessageBuilder<'a, M, Q> {
        self.with(payload)
    }

    /// How the payload is encoded; MessagePack unless said otherwise. The answer comes by the same codec. Raw
    /// bytes are sent as they are, and labelled as raw, or as this codec if they are encoded by it already.
    pub fn codec(mut self, codec: Codec) -> Self {
        self.codec = Some(codec);
        self
    }

    /// How long the call may take in all, waiting for credit included. Default 30 s; a nested call never has
    /// longer than the one it is made in.
    pub fn deadline(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// A word to the handler besides the payload; at most 64 and 8 KiB in all. Keys beginning `am.` are refused.
    pub fn extra(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.extras.push((key.into(), value.into()));
        self
    }

    /// The contract that the handler must name (`Handler::contract`), instead of the bare names of the types here;
    /// checked where a receipt is asked for.
    pub fn contract(mut self, name: &'a str) -> Self {
        self.contract = Some(name);
        self
    }

    /// A W3C trace context to travel with the message.
    pub fn trace(mut self, trace: Trace) -> Self {
        self.trace = Some(trace);
        self
    }
}

impl<'a, P: ?Sized> MessageBuilder<'a, FireAndForget, P> {
    /// The status then waits until the handler has finished well.
    pub fn confirmed(self) -> MessageBuilder<'a, Confirmed, P> {
        let payload = self.payload;
        self.with(payload)
    }

    /// The status then waits for the handler's value.
    pub fn expect_response<R: Decode>(self) -> MessageBuilder<'a, WithResponse<R>, P> {
        let payload = self.payload;
        self.with(payload)
    }

    /// The status then waits until the handler was found and the message accepted for it.
    pub fn with_receipt(self) -> MessageBuilder<'a, WithReceipt, P> {
        let payload = self.payload;
        self.with(payload)
    }
}

impl<'a, P: ?Sized> MessageBuilder<'a, WithReceipt, P> {
    /// The handler's value as well.
    pub fn expect_response<R: Decode>(self) -> MessageBuilder<'a, WithReceiptAndResponse<R>, P> {
        let payload = self.payload;
        self.with(payload)
    }
}

impl<'a, R, P: ?Sized> MessageBuilder<'a, WithResponse<R>, P> {
    /// A receipt as well.
    pub fn with_receipt(self) -> MessageBuilder<'a, WithReceiptAndResponse<R>, P> {
        let payload = self.payload;
        self.with(payload)
    }
}

impl<'a, M: Mode, P: Encode + ?Sized> MessageBuilder<'a, M, P> {
    /// Sends the message: resolves once it is in the send buffer, waiting for the peer's credit, or for a link
    /// that is dialled again, up to the deadline.
    ///
    /// # Errors
    ///
    /// When it cannot be sent, or not in time.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was sent.
    pub async fn send(self, peer: &Peer) -> Result<MessageStatus<M>, CallError> {
        match self.send_now(peer)? {
            Ok(status) => Ok(status),
            Err(refused) => self.send_later(peer, refused).await,
        }
    }

    /// Sends the message if that needs no waiting; else [`send_later`](Self::send_later) takes what this gives.
    pub(crate) fn send_now(&self, peer: &Peer) -> Result<Result<MessageStatus<M>, Refused>, CallError> {
        Ok(self.offer(peer, None)?.map(|ticket| self.status(peer, ticket)))
    }

    /// The same for a call whose answer the task of `cx` waits for from now on: it need not say so again.
    pub(crate) fn call_now(
        &self,
        peer: &Peer,
        cx: &Context<'_>,
    ) -> Result<Result<Call<'a>, Refused>, CallError> {
        let ticket = match self.offer(peer, Some(cx.waker()))? {
            Ok(ticket) => ticket,
            Err(refused) => return Ok(Err(refused)),
        };
        let id = self.id(&ticket);
        let (handler, instance) = (self.handler, peer.instance_id());
        let call = Call::new(id, ticket, handler.into(), instance, &self.scope);
        let mut call = call.ok_or_else(|| without_place(handler, instance, id))?;
        call.is_watched = true;
        Ok(Ok(call))
    }

    /// Sends the message if that needs no waiting.
    ///
    /// # Errors
    ///
    /// [`TrySendError::Full`] and [`TrySendError::NotConnected`] where `send` would wait.
    pub fn try_send(self, peer: &Peer) -> Result<MessageStatus<M>, TrySendError> {
        match self.offer(peer, None)? {
            Ok(ticket) => Ok(self.status(peer, ticket)),
            Err(Refused { error: PortError::Full, .. }) => Err(TrySendError::Full(self.info(peer))),
            Err(Refused { error: PortError::NotConnected, .. }) => {
                Err(TrySendError::NotConnected(self.info(peer)))
            }
            Err(Refused { error, .. }) => Err(self.not_sent(peer, error).into()),
        }
    }

    /// Sends the message to each of `peers`, encoding it once and sharing the payload. One result per peer, in
    /// order.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it may have been sent to some of the peers.
    pub async fn send_to_all(self, peers: &[Peer]) -> Vec<Result<MessageStatus<M>, CallError>> {
        let codec = sent_codec(self.payload, self.codec);
        let encoded = with_encoded(self.payload, codec, |source| source.to_bytes());
        let mut results = Vec::with_capacity(peers.len());
        for peer in peers {
            let sent = match &encoded {
                Ok(bytes) => {
                    let shared = Raw(bytes.clone());
                    let one = MessageBuilder::<M, Raw> {
                        handler: self.handler,
                        payload: &shared,
                        scope: self.scope.clone(),
                        node: self.node,
                        codec: Some(codec),
                        timeout: self.timeout,
                        trace: self.trace,
                        extras: self.extras.clone(),
                        contract: self.contract,
                        mode: PhantomData,
                    };
                    one.send(peer).await
                }
                Err(error) => Err(self.invalid(peer, error.to_string())),
            };
            results.push(sent);
        }
        results
    }

    /// Encodes the message and offers it to the peer's link; `watcher` is woken by the answer.
    fn offer(&self, peer: &Peer, watcher: Option<&Waker>) -> Result<Result<Ticket, Refused>, CallError> {
        check_name(self.handler)
            .map_err(|reason| self.invalid(peer, format!("the handler's name is not allowed: {reason}")))?;
        let depth = self.scope.depth();
        if depth > DEPTH_MAX {
            return Err(self.invalid(peer, format!("calls are nested more than {DEPTH_MAX} deep")));
        }
        let mut extras = Vec::new();
        if !self.extras.is_empty() || M::MODE.wants_receipt() {
            self.encode_extras(&mut extras).map_err(|reason| self.invalid(peer, reason))?;
        }
        let timeout = self.timeout.unwrap_or(self.node.request_timeout);
        // A one-way message is told its deadline only if the user set one: nobody waits for it.
        let tell = M::MODE.is_answered() || self.timeout.is_some() || depth > 0;
        let deadline = tell.then(|| self.scope.deadline(timeout));
        let time_left_ms = deadline.map(|deadline| match &self.scope {
            Scope::Root => millis(timeout),
            Scope::Nested(_) => millis(deadline.saturating_duration_since(clock::now())),
        });
        let codec = sent_codec(self.payload, self.codec);
        with_encoded(self.payload, codec, |source| {
            let message = Outgoing {
                handler: self.handler,
                mode: M::MODE,
                codec,
                depth,
                deadline,
                time_left_ms,
                trace: self.trace,
                extras: Some(extras.as_slice()).filter(|extras| !extras.is_empty()),
                payload: source,
            };
            peer.port.try_send(&message, watcher).map_err(|error| {
                let message = matches!(error, PortError::Full | PortError::NotConnected)
                    .then(|| Box::new(Waiting::new(&message, timeout)));
                Refused { error, message }
            })
        })
        .map_err(|error| self.invalid(peer, error.to_string()))
    }

    /// Waits until a message can be sent, if it may.
    pub(crate) async fn send_later(
        &self,
        peer: &Peer,
        refused: Refused,
    ) -> Result<MessageStatus<M>, CallError> {
        let Some(message) = refused.message else { return Err(self.not_sent(peer, refused.error)) };
        self.send_waiting(peer, *message).await
    }

    /// Sends a message that is encoded already and has to wait.
    pub(crate) async fn send_waiting(
        &self,
        peer: &Peer,
        message: Waiting,
    ) -> Result<MessageStatus<M>, CallError> {
        match peer.port.clone().send(message).await {
            Ok(ticket) => Ok(self.status(peer, ticket)),
            Err(error) => Err(self.not_sent(peer, error)),
        }
    }

    fn encode_extras(&self, out: &mut Vec<u8>) -> Result<(), String> {
        if let Some((key, _)) = self.extras.iter().find(|(key, _)| key.starts_with(RESERVED_EXTRA_PREFIX)) {
            return Err(format!("the extra `{key}` is reserved: keys beginning `am.` belong to the runtime"));
        }
        let request = std::any::type_name::<P>();
        let mut all: Vec<(&str, &str)> =
            self.extras.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
        if M::MODE.wants_receipt() {
            if M::MODE.wants_response() {
                all.push((EXTRA_KIND, ResponseType::Unary.as_str()));
            }
            if let Some(name) = self.contract.or_else(|| contract_name(request)) {
                all.push((EXTRA_REQUEST, name));
            }
            if M::MODE.wants_response()
                && let Some(response) = self.contract.or_else(|| M::response_type())
            {
                all.push((EXTRA_RESPONSE, response));
            }
        }
        if all.is_empty() {
            return Ok(());
        }
        encode_extras(all, out).map_err(|error| format!("the extras cannot be sent: {error}"))
    }

    fn status(&self, peer: &Peer, ticket: Ticket) -> MessageStatus<M> {
        let id = self.id(&ticket);
        MessageStatus::new(id, ticket, self.handler, peer.instance_id(), &self.scope)
    }

    fn id(&self, ticket: &Ticket) -> MessageId {
        MessageId::new(self.node.instance, self.node.incarnation, ticket.id)
    }

    fn info(&self, peer: &Peer) -> Box<CallInfo> {
        Box::new(CallInfo {
            handler: self.handler.chars().take(255).collect(),
            peer: peer.instance_id(),
            id: String::new(),
        })
    }

    /// An error of the caller's own: trying again cannot help.
    fn invalid(&self, peer: &Peer, reason: String) -> CallError {
        CallError::NotSent { call: self.info(peer), reason, transient: false }
    }

    fn not_sent(&self, peer: &Peer, error: PortError) -> CallError {
        let call = self.info(peer);
        let (reason, transient) = match error {
            PortError::Overloaded => {
                let message = "no credit came within 100 ms, and a nested call waits no longer".to_owned();
                return CallError::Refused { call, reason: Refusal::Overloaded, message };
            }
            PortError::Expired => return CallError::DeadlineExceeded { call, maybe_executed: false },
            PortError::TooLarge { limit } => {
                (format!("the payload is longer than the {limit} octets that the peer takes"), false)
            }
            PortError::PendingFull { limit } => {
                (format!("{limit} calls wait for an answer on this link already"), true)
            }
            PortError::NeverAnswers => (
                "the peer is a PULL socket, which answers nothing; send it one-way messages".to_owned(),
                false,
            ),
            PortError::TakesNoMessages => (
                "the peer is a REQ or PUSH socket, which takes no messages; it can only send to this node"
                    .to_owned(),
                false,
            ),
            PortError::Gone(reason) => (reason, true),
            PortError::Stopped(reason) => (reason.to_owned(), false),
            PortError::Full => ("the peer grants no more right now".to_owned(), true),
            PortError::NotConnected => ("there is no link to the peer".to_owned(), true),
        };
        CallError::NotSent { call, reason, transient }
    }
}

/// A message that was not taken, kept if it may wait.
pub(crate) struct Refused {
    error: PortError,
    message: Option<Box<Waiting>>,
}
