//! tmp
/// tmp
pub fn link(_data: &[u8]) {}
