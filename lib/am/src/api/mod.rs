//! What a user names: clients and peers, messages and what becomes of them, handlers and their contexts.
//!
//! Nothing here knows the runtime: clients and contexts hold the [`port`] traits, which the runtime implements,
//! so that the two form no cycle.

pub(crate) mod builder;
pub(crate) mod call_error;
pub(crate) mod client;
pub(crate) mod codec;
pub(crate) mod context;
pub(crate) mod control;
pub(crate) mod handler;
pub(crate) mod handler_call;
pub(crate) mod link_event;
pub(crate) mod port;
pub(crate) mod retry;
pub(crate) mod status;
