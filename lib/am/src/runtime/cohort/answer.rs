//! What is waited for of each rank, and requests that are encoded once: [`Answer`], [`Encoded`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::api::call_error::CallError;
use crate::api::client::Peer;
use crate::api::codec::{CodecError, Decode, Encode, Raw, sent_codec};
use crate::proto::payload::Payload;
use crate::wire::codes::Codec;

/// A request's octets, shared by all who get it.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) payload: Raw,
    pub(crate) codec: Codec,
}

impl Encoded {
    pub(crate) fn new<Q: Encode + ?Sized>(request: &Q) -> Result<Self, CodecError> {
        let codec = sent_codec(request, None);
        if let Some(octets) = request.as_raw() {
            return Ok(Self { payload: Raw(octets.clone()), codec });
        }
        let mut octets = Vec::new();
        request.encode(codec, &mut octets)?;
        Ok(Self { payload: Raw(Bytes::from(octets)), codec })
    }
}

/// What a call is, its rank aside.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    pub(crate) handler: Arc<str>,
    pub(crate) request: Encoded,
}

/// How a rank's answer is got: a delivery mode of a cohort.
pub(crate) trait Answer: Sized + Send + 'static {
    /// As it is told to those who hand the call on.
    const MODE: RelayMode;

    /// Calls a worker itself.
    fn call(peer: &Peer, call: &Call, left: Duration)
    -> impl Future<Output = Result<Self, CallError>> + Send;

    /// What a worker's answer is that was handed on.
    fn from_relay(codec: Codec, octets: Bytes) -> Result<Self, CodecError>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum RelayMode {
    OneWay,
    Confirmed,
    Response,
}

/// The message is in a send buffer.
#[derive(Debug)]
pub(crate) struct Sent;

impl Answer for Sent {
    const MODE: RelayMode = RelayMode::OneWay;

    async fn call(peer: &Peer, call: &Call, left: Duration) -> Result<Self, CallError> {
        let client = peer.client();
        let message = client.active_message(&call.handler).payload(&call.request.payload);
        message.codec(call.request.codec).deadline(left).send(peer).await.map(|_| Self)
    }

    fn from_relay(_codec: Codec, _octets: Bytes) -> Result<Self, CodecError> {
        Ok(Self)
    }
}

/// The handler has finished well.
#[derive(Debug)]
pub(crate) struct Done;

impl Answer for Done {
    const MODE: RelayMode = RelayMode::Confirmed;

    async fn call(peer: &Peer, call: &Call, left: Duration) -> Result<Self, CallError> {
        let client = peer.client();
        let message = client.active_message(&call.handler).payload(&call.request.payload);
        let sent = message.codec(call.request.codec).deadline(left).confirmed().send(peer).await?;
        sent.ack().await.map(|()| Self)
    }

    fn from_relay(_codec: Codec, _octets: Bytes) -> Result<Self, CodecError> {
        Ok(Self)
    }
}

/// The handler's value.
#[derive(Debug)]
pub(crate) struct Value<R>(pub(crate) R);

impl<R: Decode + Send + 'static> Answer for Value<R> {
    const MODE: RelayMode = RelayMode::Response;

    async fn call(peer: &Peer, call: &Call, left: Duration) -> Result<Self, CallError> {
        let client = peer.client();
        let message = client.active_message(&call.handler).payload(&call.request.payload);
        let message = message.codec(call.request.codec).deadline(left).expect_response::<R>();
        message.send(peer).await?.response().await.map(Self)
    }

    fn from_relay(codec: Codec, octets: Bytes) -> Result<Self, CodecError> {
        R::decode_owned(codec, Payload::from(octets)).map(Self)
    }
}

/// A value's octets with their codec, for those who only hand it on.
#[derive(Debug)]
pub(crate) struct Undecoded {
    pub(crate) codec: Codec,
    pub(crate) octets: Bytes,
}

impl Decode for Undecoded {
    fn decode(codec: Codec, octets: &[u8]) -> Result<Self, CodecError> {
        Ok(Self { codec, octets: Bytes::copy_from_slice(octets) })
    }

    fn decode_owned(codec: Codec, payload: Payload) -> Result<Self, CodecError> {
        Ok(Self { codec, octets: payload.into_bytes() })
    }
}
