//! Byte streams over TCP and unix sockets, the two transports that every ZeroMQ binding knows.
//!
//! This is the bottom of a message's way: [`TcpTransport`] and [`IpcTransport`] dial and listen as the
//! [contract](crate::transport) of a transport says, and know nothing of ZMTP; the link that runs over their
//! streams does. [`host`] answers the questions about this machine that the two need: which of its addresses
//! others can dial, and whether a peer sees the same files.
//!
//! Deliberately absent: deadlines for dialling (the caller bounds the time), retries, limits on the number of
//! connections. Those are the manager's.

pub mod host;
mod ipc_path;
mod listening;
mod socket;
mod tcp;
mod unix;

pub use ipc_path::{is_in_runtime_dir, runtime_dir};
pub use tcp::TcpTransport;
pub use unix::IpcTransport;
