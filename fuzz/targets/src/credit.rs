//! tmp
/// tmp
pub fn credit(_data: &[u8]) {}
