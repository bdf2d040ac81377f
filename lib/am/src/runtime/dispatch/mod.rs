//! The ways a message waits for its handler and runs in it: one module each.

pub(crate) mod admit;
pub(crate) mod batch;
pub(crate) mod deferred;
pub(crate) mod gate;
pub(crate) mod group;
pub(crate) mod job;
pub(crate) mod lane;
pub(crate) mod runner;
pub(crate) mod stalled;
