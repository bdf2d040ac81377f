//! ZMTP 3.1 as bytes and states, without sockets, clocks or randomness.
//!
//! A connection lives through three phases, and each has its module here: the [`greeting`] of 64 octets, the
//! [`handshake`] (a security [`mechanism`] whose [`command`]s carry a list of [`properties`]), and traffic, where
//! the [`decoder`] finds messages among [`frame`]s.
//! Nothing in the first two trusts the peer: before its READY was judged, a peer can make us hold at most one
//! greeting and [`PRE_TRAFFIC_COMMANDS_LEN_MAX`] octets of commands, and no announced size is ever allocated.

// Outside input reaches every line of this folder: what cannot panic or truncate needs no argument.
#![cfg_attr(not(test), deny(clippy::indexing_slicing))]

pub mod command;
pub mod decoder;
pub mod frame;
pub mod greeting;
pub mod handshake;
pub mod mechanism;
pub mod properties;

/// Most octets in the bodies of all commands of one handshake: 8 KiB. A node's own READY needs under 1 KiB
/// besides its endpoints, for which 7 KiB (28 of the longest kind) remain.
pub const PRE_TRAFFIC_COMMANDS_LEN_MAX: usize = 8 * 1024;

/// Makes text of a peer's octets that is safe to log: all but printable ASCII becomes `?`, the rest is cut
/// at 255 characters (the longest reason an ERROR can hold).
fn printable(octets: &[u8]) -> String {
    octets
        .iter()
        .take(255)
        .map(|&octet| if octet.is_ascii_graphic() || octet == b' ' { char::from(octet) } else { '?' })
        .collect()
}
