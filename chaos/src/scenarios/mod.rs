//! The scenarios, one file for each group.

use std::time::Duration;

use crate::scenario::Group;

pub mod deadlock;
pub mod drain;
pub mod faults;
pub mod hostile;
mod hostile_before;
mod hostile_calls;
mod hostile_frames;
mod hostile_roles;
mod hostile_stage;
mod hostile_tools;
pub mod memory;
mod memory_callers;
mod memory_healthy;
mod memory_large;
mod memory_raw;
mod memory_roles;
mod memory_zmq;
pub mod order;
pub mod panics;

/// All groups: one line each.
#[rustfmt::skip]
pub const GROUPS: &[&Group] = &[
    &faults::GROUP,
    &order::GROUP,
    &panics::GROUP,
    &deadlock::GROUP,
    &drain::GROUP,
    &hostile::GROUP,
    &memory::GROUP,
];

/// The longest that anything may take which is meant to happen at once and whose time is not the point.
pub const PATIENCE: Duration = Duration::from_secs(20);
