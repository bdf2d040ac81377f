//! Names of running nodes: [`InstanceId`] and [`Incarnation`].
//!
//! Both are plain values; drawing random ones is the runtime's business, so that everything below it stays
//! free of randomness.

use std::fmt;
use std::str::FromStr;

use uuid::Uuid;

/// Names one runtime in one process: a UUID whose first octet is not zero.
///
/// The rule on the first octet is ZeroMQ's (RFC 28): routing ids that begin with 0 are the socket's own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Uuid);

impl InstanceId {
    /// Stands for nobody in an error about nobody; no node has it.
    pub const UNKNOWN: Self = Self(Uuid::max());

    /// Takes 16 octets; `None` when the first is 0.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Option<Self> {
        if bytes[0] == 0 { None } else { Some(Self(Uuid::from_bytes(bytes))) }
    }

    /// The 16 octets, as they travel in `Identity`.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl fmt::Debug for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text names no instance.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no instance id: it must be a UUID whose first octet is not 00")]
pub struct InstanceIdError {
    text: String,
}

impl FromStr for InstanceId {
    type Err = InstanceIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Uuid::parse_str(text)
            .ok()
            .and_then(|uuid| Self::from_bytes(*uuid.as_bytes()))
            .ok_or_else(|| InstanceIdError { text: text.chars().take(64).collect() })
    }
}

/// Tells one start of an instance from the next: 16 octets drawn anew each time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Incarnation([u8; 16]);

impl Incarnation {
    /// Takes the octets as they are.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The octets, as they travel in `X-AM-Incarnation`.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Uuid::from_bytes(self.0).simple().fmt(f)
    }
}

impl fmt::Debug for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_never_begins_with_octet_zero() {
        assert_eq!(InstanceId::from_bytes([0; 16]), None);
        assert!("00000000-0000-4000-8000-000000000001".parse::<InstanceId>().is_err());
    }

    #[test]
    fn text_and_octets_name_the_same_instance() {
        let id = InstanceId::from_bytes(*b"0123456789abcdef").unwrap();
        assert_eq!(id.to_string().parse::<InstanceId>().unwrap(), id);
    }
}
