//! The messages of a run: what a payload tells its handler to do, and what must come back.

use bytes::Bytes;
use dynamo_am::Raw;

use crate::log::Number;

/// The handlers that every node has, and one that none has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// On the reading task.
    Inline,
    /// Likewise, by another name.
    InlineToo,
    /// In a task of its own.
    Unary,
    /// The same without a response.
    Message,
    /// One at a time for each sender.
    Ordered,
    /// Many at a time.
    Batched,
    /// Answered from another task.
    Deferred,
    /// Few at once, and few that wait.
    Limited,
    /// Calls on.
    Nested,
    /// Waits until it is cancelled.
    Never,
    /// Registered nowhere.
    Absent,
}

impl Kind {
    /// All that are registered.
    pub const ALL: [Self; 10] = [
        Self::Inline,
        Self::InlineToo,
        Self::Unary,
        Self::Message,
        Self::Ordered,
        Self::Batched,
        Self::Deferred,
        Self::Limited,
        Self::Nested,
        Self::Never,
    ];

    /// The handler's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inline => "inline",
            Self::InlineToo => "inline_too",
            Self::Unary => "unary",
            Self::Message => "message",
            Self::Ordered => "ordered",
            Self::Batched => "batched",
            Self::Deferred => "deferred",
            Self::Limited => "limited",
            Self::Nested => "nested",
            Self::Never => "never",
            Self::Absent => "absent",
        }
    }

    /// Handlers of one group run one sender's messages in the order in which they were sent.
    #[must_use]
    pub const fn order_group(self) -> Option<u8> {
        match self {
            Self::Inline | Self::InlineToo => Some(0),
            Self::Ordered => Some(1),
            _ => None,
        }
    }
}

/// What a caller waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Nothing.
    OneWay,
    /// The handler's end.
    Confirmed,
    /// The handler's value.
    Response,
    /// That it is accepted.
    Receipt,
    /// Both.
    Both,
}

impl Mode {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::OneWay, Self::Confirmed, Self::Response, Self::Receipt, Self::Both];

    /// Whether a value is asked for.
    #[must_use]
    pub const fn wants_response(self) -> bool {
        matches!(self, Self::Response | Self::Both)
    }
}

/// How a handler is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// With a value.
    Well,
    /// With an error.
    Fail,
    /// With a panic.
    Panic,
}

/// What a handler is told to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plan {
    /// How long it works, in milliseconds; 0 is not at all.
    pub work_ms: u32,
    /// How it ends.
    pub outcome: Outcome,
    /// Octets of its value besides the first 16.
    pub reply_len: u32,
    /// Octets of the payload besides the first ones.
    pub payload_len: u32,
}

/// Octets in front of the filling.
const HEAD_LEN: usize = 24;
/// Each block of the filling begins with a stamp, so that parts that are lost or moved are seen.
const BLOCK_LEN: usize = 256;

fn fill(seed: u64, len: usize, out: &mut Vec<u8>) {
    let start = out.len();
    out.resize(start + len, seed as u8);
    for (index, block) in out[start..].chunks_exact_mut(BLOCK_LEN).enumerate() {
        block[..8].copy_from_slice(&stamp(seed, index).to_be_bytes());
    }
}

fn is_filled(seed: u64, octets: &[u8]) -> bool {
    let blocks = octets.chunks_exact(BLOCK_LEN);
    let rest_is_right = blocks.remainder().iter().all(|octet| *octet == seed as u8);
    rest_is_right
        && blocks.enumerate().all(|(index, block)| {
            block[..8] == stamp(seed, index).to_be_bytes()
                && block[8..].iter().all(|octet| *octet == seed as u8)
        })
}

const fn stamp(seed: u64, index: usize) -> u64 {
    (seed ^ 0xA5A5_5A5A).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(index as u64)
}

/// The payload of a message.
#[must_use]
pub fn payload(number: Number, plan: &Plan) -> Raw {
    let len = plan.payload_len as usize;
    let mut octets = Vec::with_capacity(HEAD_LEN + len);
    octets.extend_from_slice(&number.to_be_bytes());
    octets.extend_from_slice(&plan.work_ms.to_be_bytes());
    octets.extend_from_slice(&plan.reply_len.to_be_bytes());
    octets.extend_from_slice(&plan.payload_len.to_be_bytes());
    octets.extend_from_slice(&(plan.outcome as u32).to_be_bytes());
    fill(number, len, &mut octets);
    Raw(Bytes::from(octets))
}

/// A payload as its handler reads it: number, plan, and whether it is whole. `None` when it is none of ours.
#[must_use]
pub fn read(octets: &[u8]) -> Option<(Number, Plan, bool)> {
    let (head, rest) = octets.split_at_checked(HEAD_LEN)?;
    let number = u64::from_be_bytes(head.get(..8)?.try_into().ok()?);
    let word = |at: usize| head.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let outcome = match word(20)? {
        0 => Outcome::Well,
        1 => Outcome::Fail,
        2 => Outcome::Panic,
        _ => return None,
    };
    let plan = Plan { work_ms: word(8)?, reply_len: word(12)?, payload_len: word(16)?, outcome };
    let is_whole = rest.len() == plan.payload_len as usize && is_filled(number, rest);
    Some((number, plan, is_whole))
}

/// The value that a handler gives.
#[must_use]
pub fn reply(number: Number, kind: Kind, plan: &Plan) -> Raw {
    let mut octets = Vec::with_capacity(16 + plan.reply_len as usize);
    octets.extend_from_slice(&answer(number).to_be_bytes());
    octets.extend_from_slice(&(kind as u64).to_be_bytes());
    fill(answer(number), plan.reply_len as usize, &mut octets);
    Raw(Bytes::from(octets))
}

/// Whether `octets` is the value for that message.
#[must_use]
pub fn is_reply(octets: &[u8], number: Number, kind: Kind, plan: &Plan) -> bool {
    let Some((head, rest)) = octets.split_at_checked(16) else { return false };
    head[..8] == answer(number).to_be_bytes()
        && head[8..] == (kind as u64).to_be_bytes()
        && rest.len() == plan.reply_len as usize
        && is_filled(answer(number), rest)
}

const fn answer(number: Number) -> u64 {
    number.wrapping_mul(0xD134_2543_DE82_EF95).rotate_left(17)
}
