//! Who gets a Nack: the rules on what may be answered, in one place and without side effects.
//!
//! The router asks here whenever it cannot take a message: because its header is malformed
//! ([`HeaderError::answer`]), because such a peer may not send it ([`Header::refusal`]), or because the node
//! refuses it ([`Header::refused_with`]). The hazard is two nodes that answer each other's answers without
//! end. Hence the **invariants**:
//! 1. Between our own nodes only a Message of mode 1 to 4 is ever answered.
//! 2. A foreign peer also gets a Nack for what it plainly meant as a message: an unknown version, kind or
//!    delivery mode. It is not one of us, so it will not answer that.
//! 3. A REQ cannot go on without a reply, so it always gets exactly one; a PUSH cannot read any, so it gets
//!    none and its answered modes are not run.
//!
//! What is not answered is dropped; the router counts it and logs it once per link.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

use super::codes::{DeliveryMode, Kind, NackCode};
use super::header::{Header, HeaderError, HeaderErrorKind};

/// What a peer is, as far as answers are concerned; known from its READY.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PeerClass {
    /// One of our own nodes: its READY had `X-AM-Version`.
    Own,
    /// A foreign peer that reads and writes when it likes: DEALER, ROUTER, REP, PULL.
    Foreign,
    /// A foreign REQ: one reply to each message, and nothing else.
    ForeignReq,
    /// A foreign PUSH: it reads nothing.
    ForeignPush,
}

/// What goes back for a message that is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Answer {
    /// A Nack.
    Nack {
        /// The id to reply to; 0 when none was readable.
        id: u64,
        /// Why.
        code: NackCode,
    },
    /// Nothing: count it, and log it once per link.
    Nothing,
}

impl HeaderError {
    /// What a peer gets for this header.
    #[must_use]
    pub fn answer(&self, peer: PeerClass) -> Answer {
        let code = self.kind.nack_code();
        let wanted = self.mode.is_some_and(DeliveryMode::is_answered);
        let meant_as_message = matches!(
            self.kind,
            HeaderErrorKind::UnknownVersion(_)
                | HeaderErrorKind::UnknownKind(_)
                | HeaderErrorKind::UnknownMode(_)
        );
        let answered = match peer {
            PeerClass::Own => wanted,
            PeerClass::Foreign => wanted || meant_as_message,
            PeerClass::ForeignReq => return Answer::Nack { id: self.id.unwrap_or(0), code },
            PeerClass::ForeignPush => false,
        };
        match self.id {
            Some(id) if answered => Answer::Nack { id, code },
            _ => Answer::Nothing,
        }
    }
}

impl Header<'_> {
    /// Whether a well-formed message must be refused because such a peer may not send it, and the answer it
    /// then gets; `None` takes it.
    ///
    /// Parts of payloads and credit are spoken between our own nodes only.
    #[must_use]
    pub fn refusal(&self, peer: PeerClass) -> Option<Answer> {
        let own_only = self.total_len.is_some() || matches!(self.kind, Kind::Chunk | Kind::Credit);
        let mode = self.mode();
        let taken = match peer {
            PeerClass::Own => true,
            PeerClass::Foreign => !own_only,
            // Two replies to one request would break a REQ's turn-taking.
            PeerClass::ForeignReq => !own_only && mode.is_some_and(|mode| !mode.wants_receipt()),
            PeerClass::ForeignPush => !own_only && mode.is_some_and(|mode| !mode.is_answered()),
        };
        if taken { None } else { Some(self.refused_with(NackCode::Protocol, peer)) }
    }

    /// What a peer gets when this message is refused, or has failed, with `code`.
    #[must_use]
    pub fn refused_with(&self, code: NackCode, peer: PeerClass) -> Answer {
        let answered = match peer {
            PeerClass::Own | PeerClass::Foreign => self.mode().is_some_and(DeliveryMode::is_answered),
            PeerClass::ForeignReq => true,
            PeerClass::ForeignPush => false,
        };
        if answered { Answer::Nack { id: self.id, code } } else { Answer::Nothing }
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use PeerClass::{Foreign, ForeignPush, ForeignReq, Own};

    use super::*;
    use crate::wire::codes::{Codec, CreditAccount, flags};

    const PEERS: [PeerClass; 4] = [Own, Foreign, ForeignReq, ForeignPush];
    const ID: u64 = 0x0102_0304_0506_0708;

    /// A Message of mode `mode` with the octet at `at` replaced.
    fn changed(mode: u8, at: usize, octet: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        Header::message(DeliveryMode::from_u8(mode).unwrap(), ID, b"sum").encode(&mut bytes);
        bytes[at] = octet;
        bytes
    }

    fn row(bytes: &[u8]) -> [Answer; 4] {
        let error = Header::decode(bytes).unwrap_err();
        PEERS.map(|peer| error.answer(peer))
    }

    #[test]
    fn malformed_headers_are_answered_by_the_table() {
        let none = Answer::Nothing;
        let nack = Answer::Nack { id: ID, code: NackCode::Protocol };
        let large = Answer::Nack { id: ID, code: NackCode::TooLarge };
        let zero = Answer::Nack { id: 0, code: NackCode::Protocol };
        let mut long = changed(2, 0, 1);
        long.resize(super::super::header::HEADER_LEN_MAX + 1, 0);

        // What is wrong, and what own, foreign, REQ and PUSH get for it.
        for (what, bytes, expected) in [
            ("nothing there", vec![], [none, none, zero, none]),
            ("15 octets", changed(2, 0, 1)[..15].to_vec(), [none, none, zero, none]),
            ("JSON", changed(2, 0, b'{'), [none, none, zero, none]),
            ("version 2", changed(2, 0, 2), [none, nack, nack, none]),
            ("kind 0", changed(2, 1, 0), [none, nack, nack, none]),
            ("kind 16", changed(2, 1, 16), [none, nack, nack, none]),
            ("mode 5", changed(2, 2, 5), [none, nack, nack, none]),
            ("flag 128", changed(2, 3, flags::MUST_UNDERSTAND), [nack, nack, nack, none]),
            ("flag 128, one-way", changed(0, 3, 128), [none, none, nack, none]),
            ("codec 3", changed(1, 4, 3), [nack, nack, nack, none]),
            ("codec 3, one-way", changed(0, 4, 3), [none, none, nack, none]),
            ("no name", changed(4, 5, 0), [nack, nack, nack, none]),
            ("name cut off", changed(3, 5, 4), [nack, nack, nack, none]),
            ("depth 17", changed(2, 6, 17), [nack, nack, nack, none]),
            ("deadline cut off", changed(2, 3, flags::DEADLINE), [nack, nack, nack, none]),
            ("too long", long, [large, large, large, none]),
        ] {
            assert_eq!(row(&bytes), expected, "{what}");
        }
    }

    #[test]
    fn malformed_replies_and_control_messages_are_never_answered_between_nodes() {
        for kind in Kind::ALL.iter().filter(|kind| **kind != Kind::Message) {
            for (at, octet) in [(3, 128), (4, 3), (6, 17), (5, 200), (2, 9)] {
                let mut bytes = changed(2, 1, kind.as_u8());
                bytes[at] = octet;
                let Err(error) = Header::decode(&bytes) else { continue };
                assert_eq!(error.answer(Own), Answer::Nothing, "{kind}, octet {at}");
                assert_eq!(error.answer(Foreign), Answer::Nothing, "{kind}, octet {at}");
            }
        }
    }

    #[test]
    fn well_formed_messages_are_taken_or_refused_by_the_table() {
        let message = |mode| Header::message(mode, ID, b"sum");
        let chunked = |mode| Header { total_len: Some(1 << 21), codec: Codec::Json, ..message(mode) };
        let none = Some(Answer::Nothing);
        let nack = Some(Answer::Nack { id: ID, code: NackCode::Protocol });
        let zero = Some(Answer::Nack { id: 0, code: NackCode::Protocol });

        // What comes, and how own, foreign, REQ and PUSH peers fare with it.
        for (header, expected) in [
            (message(DeliveryMode::FireAndForget), [None, None, None, None]),
            (message(DeliveryMode::Confirmed), [None, None, None, none]),
            (message(DeliveryMode::WithResponse), [None, None, None, none]),
            (message(DeliveryMode::WithReceipt), [None, None, nack, none]),
            (message(DeliveryMode::WithReceiptAndResponse), [None, None, nack, none]),
            (chunked(DeliveryMode::FireAndForget), [None, none, nack, none]),
            (chunked(DeliveryMode::WithResponse), [None, nack, nack, none]),
            (Header::reply(Kind::Ack, ID), [None, None, nack, none]),
            (Header::nack(NackCode::Panicked, ID), [None, None, nack, none]),
            (Header::reply(Kind::Response, ID), [None, None, nack, none]),
            (Header::reply(Kind::Receipt, ID), [None, None, nack, none]),
            (Header::reply(Kind::Cancel, ID), [None, None, nack, none]),
            (Header::credit(CreditAccount::Ordinary), [None, none, zero, none]),
            (Header::chunk(crate::wire::codes::ChunkOf::Message, ID), [None, none, nack, none]),
            (Header::bye(false), [None, None, zero, none]),
        ] {
            assert_eq!(PEERS.map(|peer| header.refusal(peer)), expected, "{header:?}");
        }
    }

    #[test]
    fn a_refusal_is_said_to_whoever_waits_for_an_answer() {
        let nack = Answer::Nack { id: ID, code: NackCode::NoHandler };
        let none = Answer::Nothing;
        for mode in DeliveryMode::ALL {
            let header = Header::message(*mode, ID, b"sum");
            let row = PEERS.map(|peer| header.refused_with(NackCode::NoHandler, peer));
            let asked = if mode.is_answered() { nack } else { none };
            assert_eq!(row, [asked, asked, nack, none], "{mode}");
        }
    }
}
