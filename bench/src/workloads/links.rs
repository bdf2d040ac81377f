//! `links`: one load, spread over one link or many: a fixed number of tasks that call, as many on each link. The
//! baseline has as many sockets; where a socket has one caller, that one writes and reads it himself.
//!
//! Two nodes have one link between them, so the many links are those between two groups of nodes.

use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use super::rtt::RawEcho;
use crate::case::Case;
use crate::drive::{ByTasks, Driver};
use crate::error::RoleError;
use crate::node::{CONNECTING_MAX, Echo, Link};
use crate::raw;
use crate::raw::mux::{Mux, MuxCall};

pub(super) async fn ours(
    case: Case,
    outstanding: usize,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let links = Link::all(&case, addresses).await?;
    let callers = (0..outstanding).zip(links.iter().cycle()).map(|(_, link)| Echo(link.clone()));
    Ok(Box::new(ByTasks(callers.collect())))
}

pub(super) async fn raw(
    case: Case,
    outstanding: usize,
    addresses: &[String],
) -> Result<Box<dyn Driver>, RoleError> {
    let dialling = (0..case.links()).map(|_| raw::dial(case, addresses));
    let streams: Vec<_> = stream::iter(dialling).buffer_unordered(CONNECTING_MAX).collect().await;
    let streams: Vec<_> = streams.into_iter().collect::<Result<_, _>>()?;
    if outstanding == streams.len() {
        let callers = streams.into_iter().map(|stream| RawEcho::new(stream, &case));
        return Ok(Box::new(ByTasks(callers.collect())));
    }
    let payload = Arc::from(vec![0x5a; case.payload_bytes]);
    let links: Vec<Mux> = streams.into_iter().map(|stream| Mux::new(stream, raw::chunk_len(&case))).collect();
    let callers: Vec<MuxCall> =
        (0..outstanding).zip(links.iter().cycle()).map(|(_, mux)| mux.caller(&payload)).collect();
    Ok(Box::new(ByTasks(callers)))
}
