//! State machines without clock, socket or task: what is promised, kept as values.
//!
//! Time comes in as an argument, wakers as a type parameter, so each machine is tested without a runtime.

pub mod backoff;
pub mod budget;
pub mod credit;
pub mod membership;
pub mod outgoing;
pub mod payload;
pub mod pending;
