//! Handlers as the dispatcher runs them: octets in, octets out, whatever the types were.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::ReusableBoxFuture;

use super::codec::{CodecError, Decode, Encode, encode_owned, sent_codec};
use super::context::{ActiveMessageContext, InlineContext};
use super::port::BoxFuture;
use crate::api::call_error::HandlerError;
use crate::proto::outgoing::PayloadSource;
use crate::proto::payload::Payload;
use crate::wire::codes::{Codec, NackCode};

/// What a handler gave, encoded.
#[derive(Debug)]
pub(crate) struct ReplyValue {
    pub(crate) codec: Codec,
    pub(crate) payload: Payload,
}

/// Why a message has no value for an answer.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) code: NackCode,
    pub(crate) text: String,
}

impl From<HandlerError> for Failure {
    fn from(error: HandlerError) -> Self {
        Self { code: error.code, text: error.to_string() }
    }
}

/// `None`: nobody asked for the value.
pub(crate) type Answered = Result<Option<ReplyValue>, Failure>;

pub(crate) type InlineFn =
    dyn Fn(&InlineContext<'_>, &[u8], &mut InlineReply<'_>) -> Result<(), Failure> + Send + Sync;
/// Puts its future in the place it is given, or says why there is none.
pub(crate) type SpawnedFn =
    dyn Fn(ActiveMessageContext, Payload, &mut FuturePlace) -> Result<(), Failure> + Send + Sync;
pub(crate) type BlockingFn = dyn Fn(ActiveMessageContext, Payload) -> Answered + Send + Sync;
pub(crate) type BatchedFn =
    dyn Fn(Vec<BatchItem>) -> BoxFuture<'static, Vec<(ActiveMessageContext, Answered)>> + Send + Sync;
pub(crate) type DeferredFn = dyn Fn(ActiveMessageContext, Payload, Answer) + Send + Sync;

/// Where the futures of messages that run one after the other are, in one allocation while they have one size.
pub(crate) type FuturePlace = ReusableBoxFuture<'static, Answered>;

/// A place that holds nothing, and needs no memory yet.
pub(crate) fn empty_place() -> FuturePlace {
    ReusableBoxFuture::new(std::future::pending())
}

/// One message of a batch.
pub(crate) type BatchItem = (ActiveMessageContext, Payload);

/// Answers a deferred message, once.
pub(crate) type Answer = Box<dyn FnOnce(Answered) + Send>;

/// How the dispatcher runs a handler.
#[derive(Clone)]
pub(crate) enum HandlerCall {
    Inline(Arc<InlineFn>),
    Spawned { call: Arc<SpawnedFn>, is_ordered: bool },
    Blocking(Arc<BlockingFn>),
    Batched { call: Arc<BatchedFn>, count_max: usize, age_max: std::time::Duration },
    Deferred(Arc<DeferredFn>),
}

impl fmt::Debug for HandlerCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline(_) => "Inline",
            Self::Spawned { .. } => "Spawned",
            Self::Blocking(_) => "Blocking",
            Self::Batched { .. } => "Batched",
            Self::Deferred(_) => "Deferred",
        })
    }
}

/// Where an inline handler's value goes: a buffer of the reader, or shared bytes.
#[derive(Debug)]
pub(crate) struct InlineReply<'a> {
    /// Whether anybody wants the value.
    pub(crate) is_wanted: bool,
    pub(crate) codec: Codec,
    pub(crate) scratch: &'a mut Vec<u8>,
    pub(crate) shared: Option<Bytes>,
}

impl InlineReply<'_> {
    fn put<R: Encode>(&mut self, value: &R) -> Result<(), Failure> {
        if !self.is_wanted {
            return Ok(());
        }
        if let Some(bytes) = value.as_raw() {
            self.shared = Some(bytes.clone());
            return Ok(());
        }
        self.codec = sent_codec(value, Some(self.codec));
        value.encode(self.codec, self.scratch).map_err(|error| answer_lost(&error))
    }

    pub(crate) fn source(&self) -> PayloadSource<'_> {
        match &self.shared {
            Some(bytes) => PayloadSource::Shared(bytes),
            None => PayloadSource::Borrowed(self.scratch),
        }
    }
}

fn answer_lost(error: &CodecError) -> Failure {
    Failure { code: NackCode::HandlerError, text: format!("the handler's answer was lost: {error}") }
}

/// Decodes an argument, or refuses the message with words that name handler and type.
pub(crate) fn argument<T: Decode>(handler: &str, codec: Codec, payload: Payload) -> Result<T, Failure> {
    T::decode_owned(codec, payload).map_err(|error| bad_argument::<T>(handler, &error))
}

fn bad_argument<T: Decode>(handler: &str, error: &CodecError) -> Failure {
    let type_name = T::type_name().unwrap_or("raw bytes");
    let code = match error {
        CodecError::RawForTyped => NackCode::ContractMismatch,
        _ => NackCode::BadArgument,
    };
    Failure { code, text: format!("`{handler}` takes `{type_name}`: {error}") }
}

/// Encodes a handler's value, if anybody wants it, as the call was.
pub(crate) fn reply_value<R: Encode>(wanted: Option<Codec>, value: &R) -> Answered {
    let Some(codec) = wanted else { return Ok(None) };
    let codec = sent_codec(value, Some(codec));
    let payload = encode_owned(value, codec).map_err(|error| answer_lost(&error))?;
    Ok(Some(ReplyValue { codec, payload }))
}

pub(crate) fn inline<T, R, F>(f: F) -> Arc<InlineFn>
where
    T: Decode,
    R: Encode,
    F: Fn(&InlineContext<'_>, T) -> Result<R, HandlerError> + Send + Sync + 'static,
{
    Arc::new(move |cx, octets, reply| {
        let value = T::decode(cx.codec(), octets).map_err(|error| bad_argument::<T>(cx.handler(), &error))?;
        reply.put(&f(cx, value)?)
    })
}

pub(crate) fn inline_raw<R, F>(f: F) -> Arc<InlineFn>
where
    R: Encode,
    F: Fn(&InlineContext<'_>, super::codec::PayloadRef<'_>) -> Result<R, HandlerError>
        + Send
        + Sync
        + 'static,
{
    Arc::new(move |cx, octets, reply| reply.put(&f(cx, super::codec::PayloadRef(octets))?))
}

pub(crate) fn spawned<T, R, F, Fut>(f: F) -> Arc<SpawnedFn>
where
    T: Decode + Send,
    R: Encode,
    F: Fn(ActiveMessageContext, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
{
    Arc::new(move |cx, payload, place| {
        let value = argument::<T>(cx.handler(), cx.codec(), payload)?;
        let wanted = cx.wanted_codec();
        let future = f(cx, value);
        place.set(async move { reply_value(wanted, &future.await?) });
        Ok(())
    })
}

pub(crate) fn blocking<T, R, F>(f: F) -> Arc<BlockingFn>
where
    T: Decode,
    R: Encode,
    F: Fn(ActiveMessageContext, T) -> Result<R, HandlerError> + Send + Sync + 'static,
{
    Arc::new(move |cx, payload| {
        let value = argument::<T>(cx.handler(), cx.codec(), payload)?;
        let wanted = cx.wanted_codec();
        reply_value(wanted, &f(cx, value)?)
    })
}
