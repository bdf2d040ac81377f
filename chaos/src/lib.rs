//! What real processes must survive, measured: killed and stopped peers, floods, panics, restarts.
//!
//! A *scenario* starts nodes in processes of their own, does something bad to them, and returns *figures*, each
//! with the limit it must keep. The helper processes of a scenario are this same program again, in a *role*.
//!
//! ```text
//! cargo run --release -p dynamo-am-chaos -- --list
//! cargo run --release -p dynamo-am-chaos -- --full --json figures.json kill_pending
//! ```
//!
//! The short form of each scenario is a test of this package; the full one has the numbers of the promise.
//! To add scenarios: a file under `scenarios/` that gives a [`scenario::Group`], and its line in
//! `scenarios/mod.rs`, and the scenario's name in `tests/scenarios.rs`.

pub mod failure;
pub mod process;
pub mod raw;
pub mod report;
pub mod scenario;
pub mod scenarios;
pub mod usage;
