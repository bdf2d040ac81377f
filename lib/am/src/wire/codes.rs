//! The numbers of the wire: kinds, delivery modes, codecs, error codes and flags.
//!
//! Every octet of a [`header`](super::header) that is a choice has its enum here, so that a number is written
//! down once in the code. `docs/wire.md` prints the same tables for other languages, and a test holds the two
//! together. Numbers are never reused and never change their meaning.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use std::fmt;

/// An enum that travels as one octet: the numbers, their names in the field, and both directions.
macro_rules! octet_enum {
    (
        $(#[$meta:meta])*
        pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $octet:literal $text:literal,)+ }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum $name { $($(#[$doc])* $variant = $octet,)+ }

        impl $name {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// What the octet stands for; `None` when this version does not know it.
            #[inline]
            #[must_use]
            pub const fn from_u8(octet: u8) -> Option<Self> {
                match octet {
                    $($octet => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The octet that travels.
            #[inline]
            #[must_use]
            pub const fn as_u8(self) -> u8 {
                self as u8
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text,)+ })
            }
        }
    };
}

octet_enum! {
    /// What a message is: octet 1 of its header. Numbers from 16 on are reserved for stream frames.
    #[non_exhaustive]
    pub enum Kind {
        /// Names a handler and carries its argument; the only kind that is ever answered.
        Message = 1 "Message",
        /// The handler has finished without error.
        Ack = 2 "Ack",
        /// Refused or failed; octet 2 is a [`NackCode`], the payload the error text in UTF-8.
        Nack = 3 "Nack",
        /// The handler's value.
        Response = 4 "Response",
        /// The receiver found the handler, and the message is accepted for it.
        Receipt = 5 "Receipt",
        /// The caller no longer wants the answer, or stops sending a chunked payload.
        Cancel = 6 "Cancel",
        /// Flow control: totals of what is finished and granted.
        Credit = 7 "Credit",
        /// A further part of a chunked payload.
        Chunk = 8 "Chunk",
        /// No new Messages will come on this link, and none are wanted.
        Bye = 9 "Bye",
    }
}

octet_enum! {
    /// What the sender of a Message waits for: octet 2 of its header.
    pub enum DeliveryMode {
        /// Nothing comes back, not even an error.
        FireAndForget = 0 "fire-and-forget",
        /// An Ack when the handler has finished, or a Nack.
        Confirmed = 1 "confirmed",
        /// A Response, or a Nack.
        WithResponse = 2 "with response",
        /// A Receipt when the message is accepted for its handler, or a Nack.
        WithReceipt = 3 "with receipt",
        /// A Receipt and then a Response; a Nack can take the place of either, and ends the exchange.
        WithReceiptAndResponse = 4 "with receipt and response",
    }
}

impl DeliveryMode {
    /// Whether success is said by an Ack.
    #[inline]
    #[must_use]
    pub const fn wants_ack(self) -> bool {
        matches!(self, Self::Confirmed)
    }

    /// Whether success is said by a Response.
    #[inline]
    #[must_use]
    pub const fn wants_response(self) -> bool {
        matches!(self, Self::WithResponse | Self::WithReceiptAndResponse)
    }

    /// Whether a Receipt comes first (or alone).
    #[inline]
    #[must_use]
    pub const fn wants_receipt(self) -> bool {
        matches!(self, Self::WithReceipt | Self::WithReceiptAndResponse)
    }

    /// Whether anything comes back: all modes but fire-and-forget.
    #[inline]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        !matches!(self, Self::FireAndForget)
    }
}

octet_enum! {
    /// How a payload is encoded: octet 4 of the header. A reply uses its request's codec.
    #[non_exhaustive]
    pub enum Codec {
        /// Octets that only the handler understands.
        Raw = 0 "raw",
        /// JSON text in UTF-8.
        Json = 1 "JSON",
        /// MessagePack, structs as maps by field name.
        MessagePack = 2 "MessagePack",
    }
}

octet_enum! {
    /// What a Chunk carries on, or what a Cancel breaks off: octet 2 of their headers.
    pub enum ChunkOf {
        /// The payload of a Message.
        Message = 1 "Message",
        /// The payload of a Response.
        Response = 4 "Response",
    }
}

octet_enum! {
    /// Which of a link's two credit accounts a Credit is about: octet 2 of its header.
    pub enum CreditAccount {
        /// Messages with payloads of at most 1 MiB.
        Ordinary = 0 "ordinary",
        /// Messages with payloads over 1 MiB.
        Large = 1 "large",
    }
}

/// Why a Message was refused or failed: octet 2 of a Nack's header. The numbers are fixed for ever.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum NackCode {
    /// 1: the message itself breaks a rule of the wire. Sending it again cannot help.
    Protocol,
    /// 2: no handler of that name is registered.
    NoHandler,
    /// 3: a limit is reached; trying again later can help.
    Overloaded,
    /// 4: the receiver is shutting down.
    Draining,
    /// 5: the sender has no right to do this.
    Unauthorized,
    /// 6: the message is longer than the receiver takes.
    TooLarge,
    /// 7: the handler does not do what the sender expects of it.
    ContractMismatch,
    /// 8: the payload does not decode as the handler's argument.
    BadArgument,
    /// 9: the deadline had passed before the handler started.
    Expired,
    /// 32: the handler returned an error.
    HandlerError,
    /// 33: the handler panicked.
    Panicked,
    /// 34: the request was cancelled, and had not ended before.
    Cancelled,
    /// A number that this version has no word for, from a newer peer. Made by [`NackCode::from_u8`] only, so
    /// that equal codes compare equal.
    Other(u8),
}

impl NackCode {
    /// All that have a word, in the order of their numbers.
    pub const ALL: &'static [Self] = &[
        Self::Protocol,
        Self::NoHandler,
        Self::Overloaded,
        Self::Draining,
        Self::Unauthorized,
        Self::TooLarge,
        Self::ContractMismatch,
        Self::BadArgument,
        Self::Expired,
        Self::HandlerError,
        Self::Panicked,
        Self::Cancelled,
    ];

    /// What the octet stands for; never fails, since a newer peer may send codes that are not known here.
    #[must_use]
    pub const fn from_u8(octet: u8) -> Self {
        match octet {
            1 => Self::Protocol,
            2 => Self::NoHandler,
            3 => Self::Overloaded,
            4 => Self::Draining,
            5 => Self::Unauthorized,
            6 => Self::TooLarge,
            7 => Self::ContractMismatch,
            8 => Self::BadArgument,
            9 => Self::Expired,
            32 => Self::HandlerError,
            33 => Self::Panicked,
            34 => Self::Cancelled,
            other => Self::Other(other),
        }
    }

    /// The octet that travels.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        match self {
            Self::Protocol => 1,
            Self::NoHandler => 2,
            Self::Overloaded => 3,
            Self::Draining => 4,
            Self::Unauthorized => 5,
            Self::TooLarge => 6,
            Self::ContractMismatch => 7,
            Self::BadArgument => 8,
            Self::Expired => 9,
            Self::HandlerError => 32,
            Self::Panicked => 33,
            Self::Cancelled => 34,
            Self::Other(octet) => octet,
        }
    }

    /// Whether the handler certainly did not run, so that sending again does nothing twice: codes 1 to 31,
    /// those of newer peers too.
    #[must_use]
    pub const fn never_ran(self) -> bool {
        matches!(self.as_u8(), 1..=31)
    }
}

impl fmt::Display for NackCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol",
            Self::NoHandler => "no handler",
            Self::Overloaded => "overloaded",
            Self::Draining => "draining",
            Self::Unauthorized => "unauthorized",
            Self::TooLarge => "too large",
            Self::ContractMismatch => "contract mismatch",
            Self::BadArgument => "bad argument",
            Self::Expired => "expired",
            Self::HandlerError => "handler error",
            Self::Panicked => "panicked",
            Self::Cancelled => "cancelled",
            Self::Other(octet) => return write!(f, "code {octet}"),
        })
    }
}

/// A Receipt's octet 2 when the message was accepted; no other status is defined.
pub const RECEIPT_ACCEPTED: u8 = 0;

/// Bits of octet 3. A set bit says that its field follows the handler name; fields stand in the order of
/// their bits. 32 and 64 are ignored when read.
pub mod flags {
    /// The time left follows, in milliseconds.
    pub const DEADLINE: u8 = 1;
    /// A W3C trace context follows.
    pub const TRACE: u8 = 2;
    /// The claimed sender follows.
    pub const SENDER: u8 = 4;
    /// Extras follow.
    pub const EXTRAS: u8 = 8;
    /// The whole payload's length follows; the rest of the payload comes in Chunks.
    pub const CHUNKED: u8 = 16;
    /// Whoever does not understand all of this message must refuse it. Nothing uses it yet, so it is refused.
    pub const MUST_UNDERSTAND: u8 = 128;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_octet_survives_as_a_nack_code() {
        for octet in 0..=255 {
            assert_eq!(NackCode::from_u8(octet).as_u8(), octet);
        }
        for code in NackCode::ALL {
            assert_eq!(NackCode::from_u8(code.as_u8()), *code, "a known code never reads as `Other`");
        }
    }

    #[test]
    fn only_codes_1_to_31_say_that_the_handler_never_ran() {
        let never: Vec<u8> = (0..=255).filter(|octet| NackCode::from_u8(*octet).never_ran()).collect();
        assert_eq!(never, (1..=31).collect::<Vec<u8>>());
    }

    #[test]
    fn octets_without_a_meaning_are_not_invented() {
        let known = |is_known: fn(u8) -> bool| (0..=255).filter(|o| is_known(*o)).collect::<Vec<u8>>();
        assert_eq!(known(|o| Kind::from_u8(o).is_some()), (1..=9).collect::<Vec<u8>>());
        assert_eq!(known(|o| DeliveryMode::from_u8(o).is_some()), [0, 1, 2, 3, 4]);
        assert_eq!(known(|o| Codec::from_u8(o).is_some()), [0, 1, 2]);
        assert_eq!(known(|o| ChunkOf::from_u8(o).is_some()), [1, 4]);
        assert_eq!(known(|o| CreditAccount::from_u8(o).is_some()), [0, 1]);
    }

    #[test]
    fn a_mode_says_what_comes_back() {
        let row = |m: DeliveryMode| (m.is_answered(), m.wants_ack(), m.wants_receipt(), m.wants_response());
        assert_eq!(row(DeliveryMode::FireAndForget), (false, false, false, false));
        assert_eq!(row(DeliveryMode::Confirmed), (true, true, false, false));
        assert_eq!(row(DeliveryMode::WithResponse), (true, false, false, true));
        assert_eq!(row(DeliveryMode::WithReceipt), (true, false, true, false));
        assert_eq!(row(DeliveryMode::WithReceiptAndResponse), (true, false, true, true));
    }

    #[test]
    fn a_chunk_names_the_kind_that_it_belongs_to() {
        assert_eq!(ChunkOf::Message.as_u8(), Kind::Message.as_u8());
        assert_eq!(ChunkOf::Response.as_u8(), Kind::Response.as_u8());
    }
}
