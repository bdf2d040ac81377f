//! A message on its way out, as its sender describes it: [`Outgoing`].

use std::time::Instant;

use bytes::Bytes;

use crate::wire::codes::{Codec, DeliveryMode};
use crate::wire::header::Trace;

/// Payloads from this length on travel by reference; shorter ones are cheaper to copy than to count.
pub const SHARED_LEN_MIN: usize = 16 * 1024;

/// Payload bytes to send.
#[derive(Debug, Clone, Copy)]
pub enum PayloadSource<'a> {
    /// Copied into the send buffer, whatever their length.
    Borrowed(&'a [u8]),
    /// Kept by reference from [`SHARED_LEN_MIN`] on.
    Shared(&'a Bytes),
}

impl PayloadSource<'_> {
    /// The bytes.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Owned bytes: shared if they can be, else copied.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(bytes),
            Self::Shared(bytes) => (*bytes).clone(),
        }
    }
}

/// What a sender asks of its link: everything of a message but its id, which the link gives.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The handler's name, checked to have 1 to 255 octets.
    pub handler: &'a str,
    /// What the sender waits for.
    pub mode: DeliveryMode,
    /// The payload's codec octet.
    pub codec: Codec,
    /// 0, and one more for each call made through a handler's context.
    pub depth: u8,
    /// When the call ends at the latest; `None` for a one-way message that has not had to wait yet.
    pub deadline: Option<Instant>,
    /// The time left until then, if the receiver should know it. Always so for calls that wait for something.
    pub time_left_ms: Option<u32>,
    /// Trace context.
    pub trace: Option<Trace>,
    /// Encoded extras.
    pub extras: Option<&'a [u8]>,
    /// The payload.
    pub payload: PayloadSource<'a>,
}

impl Outgoing<'_> {
    /// Whether its header has no optional fields but the deadline.
    #[inline]
    #[must_use]
    pub const fn is_plain(&self) -> bool {
        self.trace.is_none() && self.extras.is_none()
    }
}
