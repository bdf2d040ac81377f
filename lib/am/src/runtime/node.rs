//! What all parts of a node share: [`Node`].
//!
//! Tasks and handles of the user hold it differently: tasks strongly, since they end with the node; clients
//! weakly, by [`NodeHandle`](super::network_client::NodeHandle), since a client keeps no node alive.
//!
//! Lock order: `peers` before a peer's own lock before a link's lock; nothing else is held together.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::chance::Chance;
use super::counters::Counters;
use super::dispatch::lane::LanesBySender;
use super::handler_wait::HandlerWaiters;
use super::handshakes::Handshakes;
use super::peer::PeerCore;
use super::registry::Registry;
use super::running::Running;
use super::spawner::Spawner;
use super::sweep::Sleep;
use crate::api::link_event::LinkEvent;
use crate::api::port::{NodePort, Port};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::id::{Incarnation, InstanceId};
use crate::limits::Limits;
use crate::proto::budget::{Budget, Grant};
use crate::proto::credit::Totals;
use crate::transport::link::{Link, LinkEnd, LinkSettings, PART_LEN, Ticks};
use crate::transport::{ByteStream, ThinTransport};
use crate::wire::zmtp::properties::{AM_VERSION, AmHello, Hello, SocketType};

/// Who may ask this node to shut down by `_request_shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ShutdownPolicy {
    /// Nobody.
    #[default]
    Nobody,
    /// Peers linked by `ipc`, `inproc` or a loopback address.
    Local,
    /// Every peer.
    Anybody,
}

/// Somebody asked this node to shut down, was allowed to, and has been told so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShutdownRequest {
    /// Who asked.
    pub by: InstanceId,
}

/// What the rest of the runtime asks of the transports without naming one; chosen by the manager.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Places {
    /// Whether an address is one of this machine's.
    pub(crate) is_local_address: fn(IpAddr) -> bool,
    /// Whether a socket path lies in this user's private directory.
    pub(crate) is_private_path: fn(&Path) -> bool,
    /// Two ends of a stream within this process.
    pub(crate) stream_to_self: fn() -> (ByteStream, ByteStream),
}

/// What the builder settled.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) allow_insecure: bool,
    pub(crate) allow_shutdown: ShutdownPolicy,
    pub(crate) busy_poll: Duration,
    pub(crate) use_ipc: bool,
}

/// A link with what belongs to it at this node.
#[derive(Debug, Clone)]
pub(crate) struct LinkEntry {
    pub(crate) link: Arc<Link>,
    pub(crate) running: Arc<Running>,
    /// The peer only speaks ZMTP 3.0, which has no PING.
    pub(crate) takes_ping: bool,
}

/// The least budget: two grants for the link to oneself, and as much again.
const BUDGET_LEN_MIN: u64 = 64 * 1024;

const RUNNING: u8 = 0;
const DRAINING: u8 = 1;
const STOPPED: u8 = 2;

/// One running instance.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) host: String,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) transports: Vec<Arc<dyn ThinTransport>>,
    pub(crate) places: Places,
    pub(crate) chance: Chance,
    pub(crate) endpoints: OnceLock<Vec<Endpoint>>,
    pub(crate) ticks: Arc<Ticks>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) peers: RwLock<BTreeMap<InstanceId, Arc<PeerCore>>>,
    pub(crate) myself: OnceLock<Arc<PeerCore>>,
    pub(crate) links: Mutex<Vec<LinkEntry>>,
    /// What is still to do of links that have ended, one for each that left something.
    pub(crate) unfinished: Mutex<Vec<Weak<Running>>>,
    /// `None` after the node's end, so that readers see theirs.
    pub(crate) events: Mutex<Option<broadcast::Sender<LinkEvent>>>,
    pub(crate) spawner: Spawner,
    pub(crate) counters: Counters,
    pub(crate) handler_waiters: HandlerWaiters,
    pub(crate) handshakes: Arc<Handshakes>,
    /// Of ordered handlers.
    pub(crate) lanes: LanesBySender,
    pub(crate) budget: Arc<Budget>,
    /// Fires when the drain begins: listeners close.
    pub(crate) drain_token: CancellationToken,
    pub(crate) shutdown_request: watch::Sender<Option<ShutdownRequest>>,
    pub(crate) started: Instant,
    pub(crate) sweep: Arc<Sleep>,
    /// For contexts and clients made by the runtime itself.
    pub(crate) handle: OnceLock<Arc<dyn NodePort>>,
    /// Socket files to remove even when no task gets another turn.
    pub(crate) ipc_files: Mutex<Vec<PathBuf>>,
    next_link: AtomicU64,
    state: AtomicU8,
}

/// What a node is made of.
pub(crate) struct NodeParts {
    pub(crate) instance: InstanceId,
    pub(crate) incarnation: Incarnation,
    pub(crate) host: String,
    pub(crate) limits: Limits,
    pub(crate) settings: Settings,
    pub(crate) transports: Vec<Arc<dyn ThinTransport>>,
    pub(crate) places: Places,
    pub(crate) chance: Chance,
}

impl Node {
    pub(crate) fn new(parts: NodeParts) -> Self {
        let link_events_kept = parts.limits.link_events_kept.max(1);
        let waiters_max = parts.limits.handler_waiters_max;
        let handshakes = Arc::new(Handshakes::new(&parts.limits));
        let budget = Arc::new(Budget::new(parts.limits.budget_len_max.max(BUDGET_LEN_MIN)));
        Self {
            instance: parts.instance,
            incarnation: parts.incarnation,
            host: parts.host,
            limits: parts.limits,
            settings: parts.settings,
            transports: parts.transports,
            places: parts.places,
            chance: parts.chance,
            endpoints: OnceLock::new(),
            ticks: Arc::default(),
            registry: Arc::new(Registry::new()),
            peers: RwLock::default(),
            myself: OnceLock::new(),
            links: Mutex::default(),
            unfinished: Mutex::default(),
            events: Mutex::new(Some(broadcast::channel(link_events_kept).0)),
            spawner: Spawner::new(),
            counters: Counters::new(),
            handler_waiters: HandlerWaiters::new(waiters_max),
            handshakes,
            lanes: LanesBySender::default(),
            budget,
            drain_token: CancellationToken::new(),
            shutdown_request: watch::channel(None).0,
            started: clock::now(),
            sweep: Arc::default(),
            handle: OnceLock::new(),
            ipc_files: Mutex::default(),
            next_link: AtomicU64::new(1),
            state: AtomicU8::new(RUNNING),
        }
    }

    pub(crate) fn endpoints(&self) -> &[Endpoint] {
        self.endpoints.get().map_or(&[], Vec::as_slice)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.state.load(Ordering::Acquire) != RUNNING
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.state.load(Ordering::Acquire) == STOPPED
    }

    /// A link has ended. What came by it and is not done yet is done all the same, before this node goes.
    pub(crate) fn leave_unfinished(&self, running: &Arc<Running>) {
        let mut unfinished = self.unfinished.lock();
        unfinished.retain(|left| left.strong_count() > 0);
        unfinished.push(Arc::downgrade(running));
    }

    /// Whether something is still to do that came by links that have ended.
    pub(crate) fn has_unfinished(&self) -> bool {
        self.unfinished.lock().iter().any(|left| left.strong_count() > 0)
    }

    /// `true` for the first caller.
    pub(crate) fn begin_drain(&self) -> bool {
        self.state.compare_exchange(RUNNING, DRAINING, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Ends everything at once: links close, tasks end at their next turn, socket files go.
    pub(crate) fn stop(&self) {
        // Links first: a killed process refuses nothing, it just falls silent.
        let mut links = self.end_links();
        self.state.store(STOPPED, Ordering::Release);
        self.drain_token.cancel();
        // Those that were made meanwhile; later ones see the state.
        links.extend(self.end_links());
        self.spawner.stop();
        for path in std::mem::take(&mut *self.ipc_files.lock()) {
            let _ = std::fs::remove_file(&path);
        }
        // The tasks that would do this may never get another turn.
        for entry in &links {
            entry.running.cancel_all();
            entry.link.finish();
        }
        let peers: Vec<_> = self.peers.read().values().cloned().collect();
        peers.iter().chain(self.myself.get()).for_each(|peer| peer.node_stopped());
        self.handler_waiters.end();
        self.registry.close();
        self.events.lock().take();
    }

    fn end_links(&self) -> Vec<LinkEntry> {
        let links = std::mem::take(&mut *self.links.lock());
        links.iter().for_each(|entry| entry.link.end(LinkEnd::NodeStopped));
        links
    }

    /// Takes a peer out of the table, unless its instance has come back as another entry.
    pub(crate) fn forget(&self, peer: &Arc<PeerCore>) {
        let mut peers = self.peers.write();
        if peers.get(&peer.instance()).is_some_and(|known| Arc::ptr_eq(known, peer)) {
            peers.remove(&peer.instance());
        }
    }

    /// The sweep must look sooner than it meant to.
    #[inline]
    pub(crate) fn wake_sweep(&self) {
        self.sweep.wake();
    }

    /// Whether another link may be made.
    pub(crate) fn has_room_for_link(&self) -> bool {
        let has_room = self.links.lock().len() < self.limits.links_max;
        if !has_room {
            self.counters.limits.reached("links_max");
        }
        has_room
    }

    pub(crate) fn next_link_number(&self) -> u64 {
        self.next_link.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn emit(&self, event: LinkEvent) {
        if let Some(events) = &*self.events.lock() {
            let _ = events.send(event);
        }
    }

    /// Sets memory aside for what a new peer may have unfinished here; `None` when there is none.
    pub(crate) fn first_grant(&self) -> Option<Arc<Grant>> {
        let grant = self.budget.first_grant(self.limits.credit_bytes);
        if grant.is_none() {
            self.counters.limits.reached("budget_len_max");
        }
        grant.map(Arc::new)
    }

    /// What of a grant the peer is told.
    pub(crate) fn granted(&self, grant: &Grant) -> Totals {
        Totals { messages: grant.messages(self.limits.credit_messages), bytes: grant.len() }
    }

    /// What this node says of itself in READY, with what it grants.
    pub(crate) fn hello(&self, granted: Totals) -> AmHello {
        AmHello {
            version: AM_VERSION,
            instance: self.instance,
            incarnation: self.incarnation,
            endpoints: self.endpoints().iter().map(ToString::to_string).collect(),
            host: self.host.clone(),
            max_message_len: self.limits.payload_len_max,
            credit_messages: granted.messages,
            credit_bytes: granted.bytes,
        }
    }

    /// What a link to a peer that said `hello` is made with.
    pub(crate) fn link_settings(&self, hello: &Hello, dialled: bool, grant: &Grant) -> LinkSettings {
        let ours = self.granted(grant);
        let large = |len: u64| Totals { messages: (len / PART_LEN as u64).max(1), bytes: len };
        let (theirs, their_len_max) = match &hello.own {
            Some(own) => {
                let totals = Totals { messages: own.credit_messages, bytes: own.credit_bytes };
                (totals, own.max_message_len)
            }
            None => (Totals { messages: u64::MAX, bytes: u64::MAX }, u64::MAX),
        };
        LinkSettings {
            own_peer: hello.own.is_some(),
            dialled,
            wants_envelope: hello.own.is_none() && hello.socket_type == SocketType::Rep,
            never_answers: hello.own.is_none() && hello.socket_type == SocketType::Pull,
            takes_no_messages: hello.own.is_none()
                && matches!(hello.socket_type, SocketType::Req | SocketType::Push),
            peer_payload_len_max: their_len_max,
            payload_len_max: self.limits.payload_len_max,
            granted_by_peer: [theirs, large(their_len_max)],
            granted_to_peer: [ours, large(self.limits.payload_len_max)],
            system_calls_max: self.limits.system_calls_max,
            pending_calls_max: self.limits.pending_calls_max,
            send_buffer_len_max: self.limits.send_buffer_len_max,
            skipped_len_max: self.limits.skipped_len_max,
            pings_per_second_max: self.limits.pings_per_second_max,
            unknown_commands_per_second_max: self.limits.unknown_commands_per_second_max,
            useless_messages_per_second_max: self.limits.useless_messages_per_second_max,
            slow_consumer_len: self.limits.slow_consumer_len,
            output_len_max: usize::try_from(self.limits.credit_bytes)
                .unwrap_or(usize::MAX)
                .max(self.limits.send_buffer_len_max),
            budget: self.budget.clone(),
        }
    }

    /// The node as clients and contexts see it.
    pub(crate) fn port(self: &Arc<Self>) -> Arc<dyn NodePort> {
        self.handle
            .get_or_init(|| Arc::new(super::network_client::NodeHandle::new(self)) as Arc<dyn NodePort>)
            .clone()
    }
}
