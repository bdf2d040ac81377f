//! Bytes to values and back; pure.
pub mod zmtp;
/// Placeholder until the header lands.
pub mod header {
    /// Longest header.
    pub const HEADER_LEN_MAX: usize = 16 * 1024;
}
