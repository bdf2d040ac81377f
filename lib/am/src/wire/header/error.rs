//! What can be wrong with a header, and how much of it could still be read.

use crate::wire::codes::{DeliveryMode, Kind, NackCode};

/// A header that was refused, and what of it was readable: enough to answer it, or to fail the call that a
/// malformed reply belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{kind}")]
pub struct HeaderError {
    /// What is wrong.
    pub kind: HeaderErrorKind,
    /// Octets 8 to 15, whenever 16 octets are there and the first is not `{` (a JSON text has no id there).
    pub id: Option<u64>,
    /// Octet 1, when version and kind are known ones.
    pub message_kind: Option<Kind>,
    /// Octet 2 of a Message, when it is a known delivery mode.
    pub mode: Option<DeliveryMode>,
}

/// What is wrong with a header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeaderErrorKind {
    /// Fewer octets than the fixed part has.
    #[error("a header of {len} octets is too short: 16 are the least")]
    TooShort {
        /// Octets that were there.
        len: usize,
    },
    /// More octets than any header may have.
    #[error("a header of {len} octets is too long: 16384 are the most; put data into the payload")]
    TooLong {
        /// Octets that were there.
        len: usize,
    },
    /// The first octet is `{`.
    #[error("headers in JSON are reserved and not understood yet; send a binary header")]
    JsonHeader,
    /// Octet 0 is no version that is known here.
    #[error("header version {0} is unknown; send version 1")]
    UnknownVersion(u8),
    /// Octet 1 is no kind that is known here.
    #[error("message kind {0} is unknown")]
    UnknownKind(u8),
    /// Octet 2 of a Message is no delivery mode.
    #[error("delivery mode {0} is unknown; 0 to 4 are defined")]
    UnknownMode(u8),
    /// Octet 2 of a Chunk or Cancel is nothing that can be sent in parts.
    #[error("a {kind} cannot belong to kind {octet}; payloads of Messages (1) and Responses (4) have parts")]
    UnknownChunkOf {
        /// Chunk or Cancel.
        kind: Kind,
        /// Octet 2.
        octet: u8,
    },
    /// Octet 2 of a Credit is no account.
    #[error("credit account {0} is unknown; 0 (ordinary) and 1 (large) are defined")]
    UnknownAccount(u8),
    /// Flag 128 is set.
    #[error("the header demands to be understood whole (flag 128), and this version knows no such demand")]
    MustUnderstand,
    /// Octet 4 is no codec that is known here.
    #[error("payload codec {0} is unknown; send raw (0), JSON (1) or MessagePack (2)")]
    UnknownCodec(u8),
    /// Octet 6 is over [`DEPTH_MAX`](super::DEPTH_MAX).
    #[error("the message comes from {0} calls within each other; 16 are the most, look for a cycle of calls")]
    TooDeep(u8),
    /// A Message whose handler name has no octets.
    #[error("the message names no handler")]
    NameMissing,
    /// The octets end inside a field that was announced.
    #[error("the header ends inside its {field}")]
    Truncated {
        /// The field's name.
        field: &'static str,
    },
    /// The claimed sender's endpoint has more than 255 octets.
    #[error("the claimed sender's endpoint of {0} octets is too long: 255 are the most")]
    EndpointTooLong(u16),
    /// The extras have more than 8192 octets.
    #[error("extras of {0} octets are too long: 8192 are the most")]
    ExtrasTooLong(u16),
}

impl HeaderErrorKind {
    /// The error code that a Nack for such a header carries, if it gets one.
    ///
    /// Too great a depth is `protocol`, not `overloaded`: an overload invites to try again, and a cycle of
    /// calls that tries again at each of 16 levels is a storm.
    #[must_use]
    pub const fn nack_code(self) -> NackCode {
        match self {
            Self::TooLong { .. } | Self::EndpointTooLong(_) | Self::ExtrasTooLong(_) => NackCode::TooLarge,
            _ => NackCode::Protocol,
        }
    }
}
