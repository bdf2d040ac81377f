//! Active messages for distributed control planes.

#[cfg(feature = "runtime")]
mod api;
#[cfg(feature = "runtime")]
mod call_error;
pub mod endpoint;
pub mod error;
pub mod id;
pub mod limits;
pub mod proto;
#[cfg(feature = "runtime")]
pub mod transport;
pub mod wire;
#[cfg(feature = "runtime")]
pub mod zmq;

pub use endpoint::{Endpoint, EndpointError};
