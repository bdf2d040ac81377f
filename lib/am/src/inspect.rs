//! For tests of whole nodes: what a node holds at the moment, [`NodeTables`].

use std::time::Duration;

use crate::api::port::Port;
use crate::id::InstanceId;
use crate::runtime::manager::ActiveMessageManager;
pub use crate::transport::link::LinkTables;

/// Everything that must be empty or zero at a node at which nothing goes on, and what it knows of its peers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct NodeTables {
    /// Its live links, those to itself included, in the order in which they were made.
    pub links: Vec<LinkTables>,
    /// Peers that it knows, and how many links each has.
    pub peers: Vec<(InstanceId, usize)>,
    /// Whether something is still to do that came by links that have ended.
    pub has_unfinished: bool,
    /// How long it has run by its own clock.
    pub uptime: Duration,
}

impl ActiveMessageManager {
    /// What the node holds at the moment.
    #[must_use]
    pub fn tables(&self) -> NodeTables {
        let node = &self.node;
        let links: Vec<_> = node.links.lock().iter().map(|entry| entry.link.clone()).collect();
        let peers: Vec<_> = node.peers.read().values().cloned().collect();
        NodeTables {
            links: links.iter().map(|link| link.tables()).collect(),
            peers: peers.iter().map(|peer| (peer.instance(), peer.links().len())).collect(),
            has_unfinished: node.has_unfinished(),
            uptime: crate::clock::now().duration_since(node.started),
        }
    }
}
