//! Between a program's values and payload octets: [`Encode`], [`Decode`] and [`Raw`].
//!
//! Typed payloads are serialised into a scratch buffer of the thread, outside of every lock, and copied from
//! there into the send buffer; long ones, and raw ones, travel by reference.

use std::cell::Cell;
use std::fmt;
use std::ops::Deref;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::proto::outgoing::{PayloadSource, SHARED_LEN_MIN};
use crate::proto::payload::Payload;
use crate::wire::codes::Codec;

/// Payload bytes that no codec touches: sent and received as they are.
///
/// ```
/// use dynamo_am::Raw;
/// let Raw(bytes) = Raw::from("as it is");
/// assert_eq!(&bytes[..], b"as it is");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Raw(pub Bytes);

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Raw({} bytes)", self.0.len())
    }
}

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<T> From<T> for Raw
where
    Bytes: From<T>,
{
    fn from(bytes: T) -> Self {
        Self(Bytes::from(bytes))
    }
}

/// The payload of a message, lent to an inline handler for the time of its call.
#[derive(Clone, Copy)]
pub struct PayloadRef<'a>(pub(crate) &'a [u8]);

impl PayloadRef<'_> {
    /// A copy that can be kept or sent.
    #[must_use]
    pub fn to_raw(&self) -> Raw {
        Raw(Bytes::copy_from_slice(self.0))
    }
}

impl Deref for PayloadRef<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0
    }
}

impl fmt::Debug for PayloadRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadRef({} bytes)", self.0.len())
    }
}

/// Why a value and its octets did not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The value does not encode.
    #[error("the value does not encode: {0}")]
    Encode(String),
    /// The octets are not what was expected.
    #[error("{0}")]
    Decode(String),
    /// A typed value is expected, and the payload's codec is raw.
    #[error("the payload is raw, and a typed one in JSON or MessagePack is expected")]
    RawForTyped,
}

/// A value that can be a payload: any `Serialize`, or [`Raw`].
pub trait Encode {
    /// Appends the encoded value.
    ///
    /// # Errors
    ///
    /// When the value's `Serialize` says so, or the codec has no form for it.
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), CodecError>;

    /// The octets of a raw value.
    fn as_raw(&self) -> Option<&Bytes> {
        None
    }

    /// The bare name of the type, for contracts; `None` for raw ones.
    fn type_name() -> Option<&'static str>
    where
        Self: Sized,
    {
        None
    }
}

/// A value that a payload can become: any `DeserializeOwned`, or [`Raw`].
pub trait Decode: Sized {
    /// Reads the value from lent octets.
    ///
    /// # Errors
    ///
    /// When the octets are no such value, or have no codec.
    fn decode(codec: Codec, octets: &[u8]) -> Result<Self, CodecError>;

    /// Reads the value from an owned payload.
    ///
    /// # Errors
    ///
    /// As [`decode`](Self::decode).
    fn decode_owned(codec: Codec, payload: Payload) -> Result<Self, CodecError> {
        Self::decode(codec, &payload)
    }

    /// The bare name of the type, for contracts; `None` for raw ones.
    fn type_name() -> Option<&'static str> {
        None
    }
}

impl<T: Serialize + ?Sized> Encode for T {
    fn encode(&self, codec: Codec, out: &mut Vec<u8>) -> Result<(), CodecError> {
        let begin = out.len();
        let empty: &[u8] = match codec {
            Codec::Json => {
                serde_json::to_writer(&mut *out, self).map_err(|e| CodecError::Encode(e.to_string()))?;
                b"null"
            }
            Codec::Raw | Codec::MessagePack => {
                let mut serializer = rmp_serde::Serializer::new(&mut *out).with_struct_map();
                self.serialize(&mut serializer).map_err(|e| CodecError::Encode(e.to_string()))?;
                &[MESSAGEPACK_NIL]
            }
        };
        // `()` and `None` are empty payloads.
        if out.get(begin..) == Some(empty) {
            out.truncate(begin);
        }
        Ok(())
    }

    fn type_name() -> Option<&'static str>
    where
        Self: Sized,
    {
        Some(bare_type_name::<Self>())
    }
}

impl Encode for Raw {
    fn encode(&self, _codec: Codec, out: &mut Vec<u8>) -> Result<(), CodecError> {
        out.extend_from_slice(&self.0);
        Ok(())
    }

    fn as_raw(&self) -> Option<&Bytes> {
        Some(&self.0)
    }
}

impl<T: DeserializeOwned> Decode for T {
    fn decode(codec: Codec, octets: &[u8]) -> Result<Self, CodecError> {
        match codec {
            _ if octets.is_empty() => {
                rmp_serde::from_slice(&[MESSAGEPACK_NIL]).map_err(|e| decode_error(&e, "an empty payload"))
            }
            Codec::Json => serde_json::from_slice(octets).map_err(|e| decode_error(&e, "JSON")),
            Codec::MessagePack => {
                let mut rest = octets;
                let value = T::deserialize(&mut rmp_serde::Deserializer::new(&mut rest))
                    .map_err(|e| decode_error(&e, "MessagePack"))?;
                if rest.is_empty() { Ok(value) } else { Err(decode_error(&TRAILING, "MessagePack")) }
            }
            Codec::Raw => Err(CodecError::RawForTyped),
        }
    }

    fn type_name() -> Option<&'static str> {
        Some(bare_type_name::<Self>())
    }
}

impl Decode for Raw {
    fn decode(_codec: Codec, octets: &[u8]) -> Result<Self, CodecError> {
        Ok(Self(Bytes::copy_from_slice(octets)))
    }

    fn decode_owned(_codec: Codec, payload: Payload) -> Result<Self, CodecError> {
        Ok(Self(payload.into_bytes()))
    }
}

/// JSON's own parser says much the same.
const TRAILING: &str = "octets follow the value";

/// MessagePack's nil, which `()` and `None` encode to.
const MESSAGEPACK_NIL: u8 = 0xC0;

fn decode_error(error: &dyn fmt::Display, what: &str) -> CodecError {
    CodecError::Decode(format!("{what} does not decode: {error}"))
}

/// The last part of a type's path, generics cut: the full path differs between builds.
fn bare_type_name<T: ?Sized>() -> &'static str {
    bare_name(std::any::type_name::<T>())
}

pub(crate) fn bare_name(full: &'static str) -> &'static str {
    let bare = full.split('<').next().unwrap_or(full);
    bare.rsplit("::").next().unwrap_or(bare)
}

/// The name by which a caller's type is compared with the handler's: only types of programs have one. Numbers,
/// strings and containers of the standard library fit each other in many ways that the codec knows best.
pub(crate) fn contract_name(full: &'static str) -> Option<&'static str> {
    let is_named = full.contains("::")
        && !["alloc::", "core::", "std::", "dynamo_am::", "serde_json::", "(", "[", "&"]
            .iter()
            .any(|prefix| full.starts_with(prefix));
    is_named.then(|| bare_name(full))
}

/// The codec that a payload is labelled with: what was asked for, where the value has that form.
#[inline]
pub(crate) fn sent_codec<T: Encode + ?Sized>(value: &T, asked: Option<Codec>) -> Codec {
    match (value.as_raw(), asked) {
        (Some(_), asked) => asked.unwrap_or(Codec::Raw),
        (None, None | Some(Codec::Raw)) => Codec::MessagePack,
        (None, Some(codec)) => codec,
    }
}

thread_local! {
    /// Where typed payloads are serialised. Taken while in use, so that a `Serialize` that sends finds a fresh one.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The most room that the scratch buffer keeps, in octets.
const SCRATCH_CAPACITY_MAX: usize = 64 * 1024;

/// Encodes `value` and hands the octets to `then`: by reference where they are raw or long.
///
/// # Errors
///
/// When the value does not encode.
pub(crate) fn with_encoded<T: Encode + ?Sized, R>(
    value: &T,
    codec: Codec,
    then: impl FnOnce(PayloadSource<'_>) -> R,
) -> Result<R, CodecError> {
    if let Some(bytes) = value.as_raw() {
        return Ok(then(PayloadSource::Shared(bytes)));
    }
    let mut scratch = SCRATCH.take();
    scratch.clear();
    let encoded = value.encode(codec, &mut scratch);
    if encoded.is_ok() && scratch.len() >= SHARED_LEN_MIN {
        let bytes = Bytes::from(scratch);
        return Ok(then(PayloadSource::Shared(&bytes)));
    }
    let result = encoded.map(|()| then(PayloadSource::Borrowed(&scratch)));
    if scratch.capacity() <= SCRATCH_CAPACITY_MAX {
        SCRATCH.set(scratch);
    }
    result
}

/// Encodes `value` into a payload that can be kept.
///
/// # Errors
///
/// When the value does not encode.
pub(crate) fn encode_owned<T: Encode + ?Sized>(value: &T, codec: Codec) -> Result<Payload, CodecError> {
    with_encoded(value, codec, |source| match source {
        PayloadSource::Shared(bytes) => Payload::from(bytes.clone()),
        PayloadSource::Borrowed(octets) => Payload::copy_from(octets),
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Sum {
        a: i64,
        b: i64,
    }

    fn round_trip<T: Encode + Decode>(value: &T, codec: Codec) -> T {
        T::decode_owned(codec, encode_owned(value, codec).unwrap()).unwrap()
    }

    #[test]
    fn values_survive_both_codecs_and_structs_are_maps_by_name() {
        for codec in [Codec::Json, Codec::MessagePack] {
            assert_eq!(round_trip(&Sum { a: 1, b: -2 }, codec), Sum { a: 1, b: -2 });
            assert_eq!(round_trip(&Some(3u8), codec), Some(3));
        }
        let octets = encode_owned(&Sum { a: 1, b: 2 }, Codec::MessagePack).unwrap();
        assert_eq!(&*octets, [0x82, 0xA1, b'a', 1, 0xA1, b'b', 2]);
    }

    #[test]
    fn unit_and_none_are_empty_payloads() {
        for codec in [Codec::Json, Codec::MessagePack] {
            assert!(encode_owned(&(), codec).unwrap().is_empty());
            assert!(encode_owned(&None::<u8>, codec).unwrap().is_empty());
            assert_eq!(<()>::decode(codec, b""), Ok(()));
            assert_eq!(Option::<u8>::decode(codec, b""), Ok(None));
            assert_eq!(Raw::decode(codec, b""), Ok(Raw::default()));
            assert!(Sum::decode(codec, b"").is_err());
        }
    }

    #[test]
    fn raw_octets_are_not_touched_and_never_taken_for_typed_ones() {
        let bytes = Bytes::from(vec![0xC0; 1]);
        let raw = Raw(bytes.clone());
        assert_eq!(round_trip(&raw, Codec::MessagePack), raw);
        with_encoded(&raw, Codec::Raw, |source| assert_eq!(source.as_slice().as_ptr(), bytes.as_ptr()))
            .unwrap();
        assert_eq!(Sum::decode(Codec::Raw, b"x"), Err(CodecError::RawForTyped));
    }

    #[test]
    fn only_types_of_programs_are_compared() {
        assert_eq!(contract_name("program::wire::Sum"), Some("Sum"));
        for full in ["i32", "(a::B, i64)", "alloc::string::String", "&str", "dynamo_am::api::codec::Raw"] {
            assert_eq!(contract_name(full), None);
        }
    }

    #[test]
    fn type_names_are_bare() {
        assert_eq!(<Sum as Decode>::type_name(), Some("Sum"));
        assert_eq!(<Vec<Sum> as Decode>::type_name(), Some("Vec"));
        assert_eq!(<Raw as Decode>::type_name(), None);
    }
}
