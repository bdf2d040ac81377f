//! ZMTP 3.1.
pub mod decoder;
pub mod frame;
