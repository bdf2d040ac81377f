//! Active messages for distributed control planes.

pub mod endpoint;
pub mod error;
pub mod id;
pub mod wire;
#[cfg(feature = "runtime")]
pub mod transport;

pub use endpoint::{Endpoint, EndpointError};
