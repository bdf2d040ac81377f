//! Active messages for distributed control planes.

pub mod endpoint;
pub mod error;
pub mod id;
#[cfg(feature = "runtime")]
pub mod transport;
pub mod proto;
pub mod wire;
#[cfg(feature = "runtime")]
pub mod zmq;

pub use endpoint::{Endpoint, EndpointError};
