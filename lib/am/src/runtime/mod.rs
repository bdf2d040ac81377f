//! Nodes at work: everything with a clock, a task or a table in it.
//!
//! A message's way through here: [`peer`] picks the link a message leaves by; on the other side the
//! [`message_router`] takes what a link's reader found, the [`dispatcher`] runs the handler, and the
//! [`response_manager`] hands answers to their callers. [`network_client`] makes links, [`manager`] is what a
//! user holds, [`sweep`] is the only clock.

pub(crate) mod accept;
pub(crate) mod chance;
pub mod cohort;
pub(crate) mod counters;
pub(crate) mod dispatch;
pub(crate) mod dispatcher;
pub(crate) mod handler_wait;
pub(crate) mod handshakes;
pub(crate) mod heap;
pub(crate) mod link_task;
pub(crate) mod manager;
pub(crate) mod message_router;
pub(crate) mod network_client;
pub(crate) mod node;
pub(crate) mod peer;
pub(crate) mod redial;
pub(crate) mod registry;
pub(crate) mod response_manager;
pub(crate) mod running;
pub(crate) mod shutdown;
pub(crate) mod spawner;
pub(crate) mod sweep;
pub(crate) mod system_handlers;
