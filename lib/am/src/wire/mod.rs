//! Bytes to values and back; pure.

pub mod answer;
pub mod codes;
pub mod credit_frame;
pub mod extras;
pub mod header;
