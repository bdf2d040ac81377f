//! The workloads, a module for each, with both systems side by side: [`connect_ours`], [`connect_raw`] and
//! [`serve_raw`] pick by the case. (What our own server does is the same for all: `node::serve`.)

mod bulk;
pub(crate) mod cohort;
mod concurrent;
mod idle;
mod links;
mod loaded;
mod oneway;
mod rtt;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use crate::case::{Case, Workload};
use crate::drive::Driver;
use crate::error::RoleError;
use crate::raw;
use crate::raw::frame::CHUNK_LEN;
use crate::raw::stream::Stream;

/// A client of ours, connected to all servers at `addresses`.
pub(crate) async fn connect_ours(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    match case.workload {
        Workload::Rtt { .. } => rtt::ours(case, addresses).await,
        Workload::Concurrent { outstanding, callers } => {
            concurrent::ours(case, outstanding, callers, addresses).await
        }
        Workload::Oneway { .. } => oneway::ours(case, addresses).await,
        Workload::Bulk { outstanding } => bulk::ours(case, outstanding, addresses).await,
        Workload::Links { outstanding, .. } => links::ours(case, outstanding, addresses).await,
        Workload::Idle { .. } => idle::ours(case, addresses).await,
        Workload::Loaded { flood } => loaded::ours(case, flood, addresses).await,
        Workload::Cohort { ranks, route } => cohort::ours(case, ranks, route, addresses).await,
    }
}

/// A client of the baseline.
pub(crate) async fn connect_raw(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    match case.workload {
        Workload::Rtt { .. } => rtt::raw(case, addresses).await,
        Workload::Concurrent { outstanding, callers } => {
            concurrent::raw(case, outstanding, callers, addresses).await
        }
        Workload::Oneway { .. } => oneway::raw(case, addresses).await,
        Workload::Bulk { outstanding } => bulk::raw(case, outstanding, addresses).await,
        Workload::Links { outstanding, .. } => links::raw(case, outstanding, addresses).await,
        Workload::Idle { .. } => idle::raw(case, addresses).await,
        Workload::Loaded { flood } => loaded::raw(case, flood, addresses).await,
        Workload::Cohort { .. } => cohort::plain(case, addresses).await,
    }
}

/// One connection of the baseline's server, until its client closes it.
pub(crate) async fn serve_raw(case: Case, stream: Stream, handled: &Arc<AtomicU64>) -> Result<(), RoleError> {
    match case.workload {
        Workload::Rtt { .. }
        | Workload::Concurrent { .. }
        | Workload::Links { .. }
        | Workload::Idle { .. } => {
            raw::serve::echo(stream, handled, raw::chunk_len(&case), raw::patience(&case)).await
        }
        Workload::Oneway { handler } => oneway::serve(handler, stream, handled).await,
        Workload::Bulk { .. } => bulk::serve(stream, handled).await,
        Workload::Loaded { .. } => raw::serve::mixed(stream, handled, CHUNK_LEN).await,
        Workload::Cohort { .. } => Err(RoleError::Unexpected("a stream for workers that are nodes")),
    }
}
