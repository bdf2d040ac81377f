//! `concurrent`: echo calls over one connection, held by as many tasks or by a single one. The baseline is a
//! multiplexed socket of the same shape (`raw::mux`).

use std::sync::Arc;

use crate::case::{Callers, Case};
use crate::drive::{ByOneTask, ByTasks, Call, Driver};
use crate::error::RoleError;
use crate::node::{Echo, Link};
use crate::raw;
use crate::raw::mux::Mux;

pub(super) async fn ours(
    case: Case,
    outstanding: usize,
    callers: Callers,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let echo = Echo(Link::first(&case, addresses).await?);
    Ok(held(callers, vec![echo; outstanding]))
}

pub(super) async fn raw(
    case: Case,
    outstanding: usize,
    callers: Callers,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let payload = Arc::from(vec![0x5a; case.payload_bytes]);
    let mux = Mux::new(raw::dial(case, addresses).await?, raw::chunk_len(&case));
    Ok(held(callers, vec![mux.caller(&payload); outstanding]))
}

fn held<C: Call>(callers: Callers, calls: Vec<C>) -> Box<dyn Driver> {
    match callers {
        Callers::Tasks => Box::new(ByTasks(calls)),
        Callers::One => Box::new(ByOneTask(calls)),
    }
}
