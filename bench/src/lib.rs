//! Workloads, raw-socket baselines and the harness that measures them: the library behind `am bench`.
//!
//! A figure alone says little, since machines differ and drift. So every workload is measured for
//! dynamo-am and for the same bytes over plain sockets, in the same run and in turns, with server and
//! client in two processes each, and the report puts both side by side.
//!
//! [`run`] conducts: it starts `EXE bench-role SPEC` twice for each measurement (once for a transport that does not
//! leave a process), and that command hands SPEC to [`run_role`]. The two roles speak lines on their standard streams,
//! described in [`role`]. A program that wants the benchmark therefore needs two subcommands, its visible one that
//! calls [`run`] and the hidden [`ROLE_COMMAND`].
//!
//! What is measured, in order: connect, warm up, read both processes' CPU clocks, measure, read them
//! again. Nothing that happens before the warm-up ends is in any figure but peak memory.

mod case;
mod drive;
mod error;
pub mod exact;
mod files;
mod harness;
mod node;
mod options;
mod plan;
mod process;
mod raw;
mod report;
pub mod role;
mod sample;
mod spec;
mod usage;
mod workloads;

pub use case::{Callers, Case, Dispatch, Flood, Place, Route, Transport, Workload};
pub use error::{BenchError, RoleError};
pub use harness::{Progress, run};
pub use options::BenchOptions;
pub use plan::{Plan, WorkloadName};
pub use report::{Host, Report, Row};
pub use role::{ROLE_COMMAND, run_role};
pub use sample::Outcome;
pub use spec::{Amount, Role, RoleSpec, System};
pub use usage::Usage;
