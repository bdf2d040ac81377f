//! tmp
/// tmp
pub fn router(_data: &[u8]) {}
