//! Bytes to values and back; pure.

pub mod codes;
pub mod credit_frame;
pub mod extras;
