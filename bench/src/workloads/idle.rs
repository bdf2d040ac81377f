//! `idle`: links that are set up, used for one call each, and then left alone. A message here is a link: the rate and
//! the latencies are those of setting one up, and what both processes have grown by is its memory.
//!
//! What the kernel holds for a socket is in no process's memory, and so in neither figure.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dynamo_am::ActiveMessageManager;
use futures::stream::{self, StreamExt as _};

use super::rtt::RawEcho;
use crate::case::Case;
use crate::drive::{Call, Driver, Phase};
use crate::error::RoleError;
use crate::node::{self, CONNECTING_MAX, Echo, Link};
use crate::raw;
use crate::sample::{Latencies, Sample};
use crate::spec::Amount;

/// From the last call until memory is looked at: by then a link that is idle has given its buffers back, and the
/// heap has had a chance to give back what is free in it.
const SETTLE: Duration = Duration::from_secs(4);

/// Makes links, by their number.
trait Connect: Send + Sync + 'static {
    type Link: Call;
    fn connect(&self, index: usize) -> impl Future<Output = Result<Self::Link, RoleError>> + Send;
}

pub(super) async fn ours(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    // The nodes are there before memory is first looked at: they are not what a link costs.
    let mut nodes = Vec::new();
    for _ in 0..node::grid(case.links()).0 {
        nodes.push(node::start(&case).await?);
    }
    let connect = Ours { case, nodes, addresses: addresses.to_vec() };
    Ok(Box::new(Idle { connect, count: case.links(), links: Vec::new() }))
}

pub(super) async fn raw(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    let connect = Raw { case, addresses: addresses.to_vec() };
    Ok(Box::new(Idle { connect, count: case.links(), links: Vec::new() }))
}

struct Ours {
    case: Case,
    nodes: Vec<Arc<ActiveMessageManager>>,
    addresses: Vec<String>,
}

impl Connect for Ours {
    type Link = Echo;

    async fn connect(&self, index: usize) -> Result<Echo, RoleError> {
        // Neighbours in number go to different servers, and all pairs are different.
        let (server, client) = (index % self.addresses.len().max(1), index / self.addresses.len().max(1));
        match (self.nodes.get(client), self.addresses.get(server)) {
            (Some(node), Some(address)) => Link::connect(&self.case, node.clone(), address).await.map(Echo),
            _ => Err(RoleError::Unexpected("fewer nodes than the links need")),
        }
    }
}

struct Raw {
    case: Case,
    addresses: Vec<String>,
}

impl Connect for Raw {
    type Link = RawEcho;

    async fn connect(&self, _index: usize) -> Result<RawEcho, RoleError> {
        let stream = raw::dial(self.case, &self.addresses).await?;
        Ok(RawEcho::new(stream, &self.case))
    }
}

struct Idle<C: Connect> {
    connect: C,
    count: usize,
    links: Vec<C::Link>,
}

impl<C: Connect> Idle<C> {
    async fn set_up(&mut self) -> Result<Sample, RoleError> {
        let connect = &self.connect;
        let connecting = (0..self.count).map(|index| async move {
            let began = Instant::now();
            let mut link = connect.connect(index).await?;
            link.call().await.map(|()| (link, began.elapsed()))
        });
        let mut latencies = Latencies::new();
        let began = Instant::now();
        let mut connecting = stream::iter(connecting).buffer_unordered(CONNECTING_MAX);
        while let Some(connected) = connecting.next().await {
            let (link, took) = connected?;
            latencies.record(took);
            self.links.push(link);
        }
        let elapsed = began.elapsed();
        tokio::time::sleep(SETTLE).await;
        let (sent, done) = (self.count as u64, self.links.len() as u64);
        Ok(Sample { sent, done, elapsed, latencies: Some(latencies) })
    }
}

impl<C: Connect> Driver for Idle<C> {
    fn run(&mut self, _amount: Amount) -> Phase<'_> {
        Box::pin(self.set_up())
    }

    /// The links are set up once.
    fn warm_up(&mut self, _amount: Amount) -> Phase<'_> {
        Box::pin(async { Ok(Sample { sent: 0, done: 0, elapsed: Duration::ZERO, latencies: None }) })
    }
}
