//! tmp
/// tmp
pub fn pending(_data: &[u8]) {}
