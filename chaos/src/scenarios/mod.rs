//! The scenarios, one file for each group.

use std::time::Duration;

use crate::scenario::Group;

pub mod deadlock;
pub mod faults;
pub mod order;
pub mod panics;

/// All groups: one line each.
#[rustfmt::skip]
pub const GROUPS: &[&Group] = &[
    &faults::GROUP,
    &order::GROUP,
    &panics::GROUP,
    &deadlock::GROUP,
];

/// The longest that anything may take which is meant to happen at once and whose time is not the point.
pub const PATIENCE: Duration = Duration::from_secs(20);
