//! The measured system, by its public API alone, as README's first program would write it: nodes that serve, nodes
//! that connect, and what can be asked over a link.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dynamo_am::{ActiveMessageManager, Handler, ManagerBuilder, Peer, Raw};
use futures::StreamExt as _;
use futures::stream;

use crate::case::{Case, Dispatch, Transport, Workload};
use crate::drive::{Call, OneWay};
use crate::error::RoleError;
use crate::raw::PATIENCE;
use crate::role::Listening;

/// Connections that are made at the same time.
pub(crate) const CONNECTING_MAX: usize = 64;

/// How many nodes give so many links: clients and servers, as few as can be. Two nodes have one link between them,
/// so many links need many nodes at one end or at both.
pub(crate) fn grid(links: usize) -> (usize, usize) {
    let clients = (1..=links.isqrt()).rev().find(|clients| links.is_multiple_of(*clients)).unwrap_or(1);
    (clients, links / clients)
}

pub(crate) fn builder(case: &Case) -> ManagerBuilder {
    let builder = ActiveMessageManager::builder().no_ipc();
    if case.busy_poll() { builder.busy_poll(PATIENCE) } else { builder }
}

pub(crate) fn endpoint(transport: Transport) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    match transport {
        Transport::Tcp => "tcp://127.0.0.1:0".to_owned(),
        Transport::Ipc => "ipc://*".to_owned(),
        Transport::Inproc => format!("inproc://bench-{}", COUNT.fetch_add(1, Ordering::Relaxed)),
    }
}

/// Serving nodes, which serve for as long as they are held, and the counters that their handlers move.
pub(crate) async fn serve(case: Case) -> Result<(Vec<ActiveMessageManager>, Listening), RoleError> {
    let (ticks, calls) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
    let count = match case.workload {
        Workload::Links { links, .. } | Workload::Idle { links } => grid(links).1,
        _ => 1,
    };
    for _ in 0..count {
        let node = builder(&case).listen(endpoint(case.transport)).start().await;
        let node = node.map_err(RoleError::system("starting the node"))?;
        for handler in handlers(&case, &ticks, &calls) {
            node.register(handler).map_err(RoleError::system("registering a handler"))?;
        }
        addresses.extend(node.endpoints().first().map(ToString::to_string));
        nodes.push(node);
    }
    Ok((nodes, Listening { addresses, counters: vec![ticks, calls] }))
}

fn handlers(case: &Case, ticks: &Arc<AtomicU64>, calls: &Arc<AtomicU64>) -> [Handler; 4] {
    let dispatch = match case.workload {
        Workload::Oneway { handler } => handler,
        _ => Dispatch::Inline,
    };
    let (echoed, sunk, counted) = (calls.clone(), calls.clone(), ticks.clone());
    [
        tick(dispatch, ticks.clone()),
        Handler::inline_raw("echo", move |_cx, payload| {
            echoed.fetch_add(1, Ordering::Relaxed);
            Ok(payload.to_raw())
        }),
        Handler::inline_raw("sink", move |_cx, payload| {
            black_box(&payload[..]);
            sunk.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }),
        Handler::inline("handled", move |_cx, (): ()| Ok(counted.load(Ordering::Relaxed))),
    ]
}

/// The handler of one-way messages: it looks at its payload and counts.
fn tick(dispatch: Dispatch, ticks: Arc<AtomicU64>) -> Handler {
    if dispatch == Dispatch::Inline {
        return Handler::inline_raw("tick", move |_cx, payload| {
            black_box(&payload[..]);
            ticks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
    }
    let handler = Handler::message("tick", move |_cx, payload: Raw| {
        let ticks = ticks.clone();
        async move {
            black_box(&payload[..]);
            ticks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    if dispatch == Dispatch::Ordered { handler.ordered() } else { handler }
}

/// A node that only connects.
pub(crate) async fn start(case: &Case) -> Result<Arc<ActiveMessageManager>, RoleError> {
    builder(case).start().await.map(Arc::new).map_err(RoleError::system("starting the node"))
}

/// A link, with the node that it needs to live.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    peer: Peer,
    _node: Arc<ActiveMessageManager>,
    payload: Raw,
}

impl Link {
    /// A link from `node`.
    pub(crate) async fn connect(
        case: &Case,
        node: Arc<ActiveMessageManager>,
        address: &str,
    ) -> Result<Self, RoleError> {
        let peer = node.client().connect(address).await.map_err(RoleError::system("connecting"))?;
        Ok(Self { peer, _node: node, payload: Raw::from(vec![0x5a; case.payload_bytes]) })
    }

    /// A link from a node of its own to the first of the addresses.
    pub(crate) async fn first(case: &Case, addresses: &[String]) -> Result<Self, RoleError> {
        let address = addresses.first().ok_or(RoleError::Unexpected("no address at all"))?;
        Self::connect(case, start(case).await?, address).await
    }

    /// As many links as the case asks for, between as few nodes as can be.
    pub(crate) async fn all(case: &Case, addresses: &[String]) -> Result<Vec<Self>, RoleError> {
        let mut pairs = Vec::new();
        for _ in 0..grid(case.links()).0 {
            let node = start(case).await?;
            pairs.extend(addresses.iter().map(|address| (node.clone(), address)));
        }
        let connecting = pairs.into_iter().map(|(node, address)| Self::connect(case, node, address));
        let links: Vec<_> = stream::iter(connecting).buffer_unordered(CONNECTING_MAX).collect().await;
        links.into_iter().collect()
    }

    /// Sends the payload and waits until its handler has finished.
    pub(crate) async fn confirm(&self) -> Result<(), RoleError> {
        self.peer.confirm("sink", &self.payload).await.map_err(RoleError::system("sending a payload"))
    }
}

/// Echo calls over a link.
#[derive(Debug, Clone)]
pub(crate) struct Echo(pub(crate) Link);

impl Call for Echo {
    async fn call(&mut self) -> Result<(), RoleError> {
        let Link { peer, payload, .. } = &self.0;
        let Raw(reply) = peer.call("echo", payload).await.map_err(RoleError::system("calling echo"))?;
        if reply.len() == payload.len() {
            Ok(())
        } else {
            Err(RoleError::Unexpected("a reply of another length"))
        }
    }
}

/// One-way messages over a link.
#[derive(Debug)]
pub(crate) struct Ticks(pub(crate) Link);

impl OneWay for Ticks {
    async fn send(&mut self, count: u64) -> Result<(), RoleError> {
        let Link { peer, payload, .. } = &self.0;
        for _ in 0..count {
            peer.notify("tick", payload).await.map_err(RoleError::system("sending"))?;
        }
        Ok(())
    }

    async fn handled(&mut self) -> Result<u64, RoleError> {
        self.0.peer.call("handled", &()).await.map_err(RoleError::system("asking for the count"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_has_exactly_the_links_that_were_asked_for() {
        for (links, expected) in
            [(1, (1, 1)), (7, (1, 7)), (100, (10, 10)), (1000, (25, 40)), (5000, (50, 100))]
        {
            assert_eq!(grid(links), expected);
        }
        assert!((1..500).all(|links| { grid(links).0 * grid(links).1 == links }));
    }
}
