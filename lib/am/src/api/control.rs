//! What two ends tell each other about a handler: [`ContractInfo`], [`ReceiptAck`], [`MessageId`].

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{Incarnation, InstanceId};

/// Extras that carry what a caller expects of the handler, so that a receipt can confirm it.
pub(crate) const EXTRA_KIND: &str = "am.kind";
pub(crate) const EXTRA_REQUEST: &str = "am.req";
pub(crate) const EXTRA_RESPONSE: &str = "am.resp";
/// Keys that begin so belong to the runtime.
pub(crate) const RESERVED_EXTRA_PREFIX: &str = "am.";

/// Where a handler runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum DispatchMode {
    /// On the link's reading task, before the next message is looked at.
    Inline,
    /// In a task of its own.
    Spawned,
    /// One at a time for each sender, in the order it sent them.
    Ordered,
    /// Many messages at a time.
    Batched,
    /// On a thread that may block.
    Blocking,
    /// Answered later, from any task.
    Deferred,
}

impl fmt::Display for DispatchMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inline => "inline",
            Self::Spawned => "spawned",
            Self::Ordered => "ordered",
            Self::Batched => "batched",
            Self::Blocking => "blocking",
            Self::Deferred => "deferred",
        })
    }
}

/// Whether a handler has a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ResponseType {
    /// It answers with a value.
    Unary,
    /// It takes a message and has nothing to say but whether it worked.
    Message,
}

impl ResponseType {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::Message => "message",
        }
    }
}

/// What a handler takes and gives, as receipts and `_list_handlers` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ContractInfo {
    /// Whether it has a response.
    pub kind: ResponseType,
    /// The type it takes: the bare type's name, or what `.contract(…)` says. `None`: raw bytes.
    pub req: Option<String>,
    /// The type it gives, likewise.
    pub resp: Option<String>,
    /// Where it runs.
    pub dispatch: DispatchMode,
}

/// A receipt: the handler was found, its contract fits, and the message is accepted for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptAck {
    pub(crate) handler: String,
    pub(crate) contract: ContractInfo,
}

impl ReceiptAck {
    /// The handler that accepted the message.
    #[must_use]
    pub fn handler(&self) -> &str {
        &self.handler
    }

    /// What it takes and gives.
    #[must_use]
    pub const fn contract(&self) -> &ContractInfo {
        &self.contract
    }
}

/// A message's id for logs: it prints the same at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    sender: [u8; 4],
    incarnation: [u8; 4],
    number: u64,
}

impl MessageId {
    pub(crate) fn new(sender: InstanceId, incarnation: Incarnation, number: u64) -> Self {
        let prefix = |bytes: &[u8; 16]| [bytes[0], bytes[1], bytes[2], bytes[3]];
        Self { sender: prefix(sender.as_bytes()), incarnation: prefix(incarnation.as_bytes()), number }
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = u32::from_be_bytes;
        write!(f, "{:08x}-{:08x}-{:x}", hex(self.sender), hex(self.incarnation), self.number)
    }
}

/// Checks a handler's name: 1 to 255 octets of UTF-8.
pub(crate) const fn check_name(name: &str) -> Result<(), &'static str> {
    match name.len() {
        0 => Err("it is empty"),
        1..=255 => Ok(()),
        _ => Err("it is longer than 255 octets"),
    }
}
