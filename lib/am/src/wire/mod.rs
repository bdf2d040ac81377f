//! Bytes to values and back; pure: no clock, no async, no randomness, no allocation sized by a peer.

pub mod answer;
pub mod codes;
pub mod credit_frame;
pub mod extras;
pub mod header;
pub mod zmtp;
