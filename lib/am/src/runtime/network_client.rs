//! Making links by dialling, and the node as its clients see it. Its counterparts are `accept` and `redial`.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;

use super::accept::{check_identity, is_same_start};
use super::handshakes::Becoming;
use super::link_task::{Origin, Shaken, retire, start_link};
use super::node::Node;
use super::peer::PeerCore;
use super::registry::register;
use crate::api::handler::Handler;
use crate::api::link_event::{LinkEvent, LinkEvents};
use crate::api::port::{BoxFuture, NodeFacts, NodePort, Port, PortError, Probe};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::{ConnectAttempt, ConnectError, RegisterError};
use crate::id::InstanceId;
use crate::proto::budget::Grant;
use crate::transport::handshake::{ShakeError, Shaking, ping};
use crate::transport::link::LinkEnd;
use crate::transport::{ByteStream, PeerAddress, ThinTransport};
use crate::wire::zmtp::handshake::Role;
use crate::wire::zmtp::properties::Hello;

/// How long the short way to a peer on the same host may take to be found.
const SHORTCUT_TIMEOUT: Duration = Duration::from_millis(500);

fn transport_for(node: &Node, endpoint: &Endpoint) -> Result<Arc<dyn ThinTransport>, ConnectError> {
    if !endpoint.is_loopback() && !node.settings.allow_insecure {
        return Err(ConnectError::Insecure { endpoint: endpoint.clone() });
    }
    node.transports
        .iter()
        .find(|transport| transport.serves(endpoint))
        .cloned()
        .ok_or_else(|| failed(endpoint, "no transport serves it".to_owned()))
}

fn failed(endpoint: &Endpoint, reason: String) -> ConnectError {
    ConnectError::Unreachable { attempts: vec![ConnectAttempt { endpoint: endpoint.clone(), reason }] }
}

/// A stream to a peer that has shaken hands, and what that peer is granted.
pub(crate) struct Dialled {
    pub(crate) stream: ByteStream,
    pub(crate) hello: Hello,
    pub(crate) leftover: Vec<u8>,
    pub(crate) grant: Arc<Grant>,
    pub(crate) becoming: Becoming,
}

/// Dials one endpoint and shakes hands. The caller bounds the time.
async fn dial(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    role: Role,
    deadline: tokio::time::Instant,
) -> Result<Dialled, DialError> {
    let transport = transport_for(node, endpoint).map_err(DialError::Refused)?;
    let grant = node.first_grant().ok_or(DialError::NoMemory)?;
    let granted = node.granted(&grant);
    let limit = node.limits.dial_timeout;
    let mut stream = match tokio::time::timeout(limit, transport.dial(endpoint)).await {
        Ok(dialled) => dialled.map_err(|error| DialError::Failed(error.to_string()))?,
        Err(_) => {
            node.counters.limits.reached("dial_timeout");
            return Err(DialError::Failed(format!("nothing answers within {} ms", limit.as_millis())));
        }
    };
    if node.is_draining() {
        return Err(DialError::Refused(ConnectError::NodeStopped));
    }
    let becoming = node.handshakes.become_link();
    let mut shaking = Shaking::new(role, node.hello(granted));
    let broken = |error| DialError::Shake(Box::new(error));
    while shaking.advance(&mut stream, deadline).await.map_err(broken)? {
        shaking.answer(granted.messages, granted.bytes);
    }
    let (hello, leftover) = shaking.finish().map_err(broken)?;
    Ok(Dialled { stream, hello, leftover, grant, becoming })
}

/// As [`dial`], until `deadline`.
pub(crate) async fn dial_until(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    role: Role,
    deadline: tokio::time::Instant,
) -> Result<Dialled, DialError> {
    let within = deadline.duration_since(tokio::time::Instant::now());
    match tokio::time::timeout_at(deadline, dial(node, endpoint, role, deadline)).await {
        Ok(dialled) => dialled,
        Err(_) => {
            node.counters.limits.reached("connect_timeout");
            Err(DialError::Failed(format!("no answer within {} ms", within.as_millis())))
        }
    }
}

pub(crate) enum DialError {
    Refused(ConnectError),
    NoMemory,
    Failed(String),
    Shake(Box<ShakeError>),
}

impl DialError {
    pub(crate) fn text(&self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::NoMemory => {
                "the memory of this node for its peers (`budget_len_max`) is used up".to_owned()
            }
            Self::Failed(reason) => reason.clone(),
            Self::Shake(error) => error.to_string(),
        }
    }

    pub(crate) fn is_permanent(&self) -> bool {
        matches!(self, Self::Shake(error) if error.is_permanent())
    }

    fn at(self, endpoint: &Endpoint) -> ConnectError {
        match self {
            Self::Refused(error) => error,
            error => failed(endpoint, error.text()),
        }
    }
}

/// Connects to the first of `endpoints` that answers.
pub(crate) async fn connect(
    node: Arc<Node>,
    endpoints: Vec<Endpoint>,
    expected: Option<InstanceId>,
) -> Result<Arc<dyn Port>, ConnectError> {
    let deadline = tokio::time::Instant::now() + node.limits.connect_timeout;
    let mut attempts = Vec::new();
    for endpoint in &endpoints {
        let reason = match dial_until(&node, endpoint, Role::Dial, deadline).await {
            Ok(Dialled { stream, hello, leftover, grant, becoming }) => {
                let shaken = Shaken {
                    stream,
                    hello,
                    leftover,
                    grant,
                    origin: Origin::Dialled { endpoints: endpoints.clone(), is_foreign: false },
                    is_shortcut: false,
                    becoming,
                };
                return adopt_dialled(&node, endpoint, shaken, expected).await;
            }
            Err(DialError::Refused(error @ ConnectError::Insecure { .. })) => return Err(error),
            Err(error) => error.text(),
        };
        attempts.push(ConnectAttempt { endpoint: endpoint.clone(), reason });
    }
    Err(ConnectError::Unreachable { attempts })
}

/// Decides what becomes of a link that we dialled.
async fn adopt_dialled(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    shaken: Shaken,
    expected: Option<InstanceId>,
) -> Result<Arc<dyn Port>, ConnectError> {
    let Some(own) = shaken.hello.own.clone() else {
        return Err(failed(endpoint, "the peer is no node of ours".to_owned()));
    };
    if let Some(expected) = expected.filter(|expected| *expected != own.instance) {
        return Err(ConnectError::WrongInstance {
            endpoint: endpoint.clone(),
            expected,
            found: own.instance,
        });
    }
    if own.instance == node.instance {
        if own.incarnation == node.incarnation {
            return myself(node).map(|peer| peer as Arc<dyn Port>).ok_or(ConnectError::NodeStopped);
        }
        let reason = "another node uses this node's instance id".to_owned();
        node.emit(LinkEvent::Refused { peer: own.instance, reason: reason.clone() });
        return Err(failed(endpoint, reason));
    }
    let known = node.peers.read().get(&own.instance).cloned();
    let linked = known
        .filter(|known| known.incarnation() == own.incarnation)
        .and_then(|known| known.link().filter(|link| link.is_usable()).map(|link| (known, link)));
    if let Some((known, link)) = &linked
        && link.settings().dialled
    {
        known.set_redialled(true);
        // The peer may have begun to send on the new one, which goes by the two Byes.
        if node.has_room_for_link() {
            start_link(node, shaken, own.instance);
        }
        return Ok(known.clone());
    }
    check_room(node)?;
    check_identity(node, own.instance, own.incarnation).await.map_err(|reason| failed(endpoint, reason))?;
    let shortcut = match &shaken.stream.peer {
        // The two ends settle first which of two crossing links stays.
        PeerAddress::Tcp(address) if linked.is_none() => {
            let local = (node.places.is_local_address)(address.ip());
            if local { shortcut(node, &own).await } else { None }
        }
        _ => None,
    };
    let origin = shaken.origin.clone();
    // The peer may have begun to send on the first link, so that one is left by the two Byes, not dropped.
    let peer = start_link(node, shaken, own.instance);
    peer.set_redialled(true);
    if let Some(Dialled { stream, hello, leftover, grant, becoming }) = shortcut {
        let shaken = Shaken { stream, hello, leftover, grant, origin, is_shortcut: true, becoming };
        start_link(node, shaken, own.instance);
    }
    Ok(peer)
}

/// The way to a peer on this host that spares the network stack: an ipc path inside our own runtime directory,
/// owned by our user, whose READY shows the same instance and incarnation. On any failure there is none.
async fn shortcut(node: &Arc<Node>, own: &crate::wire::zmtp::properties::AmHello) -> Option<Dialled> {
    if !node.settings.use_ipc || own.host != node.host {
        return None;
    }
    let endpoint = own
        .endpoints
        .iter()
        .filter_map(|text| text.parse::<Endpoint>().ok())
        .find(|endpoint| endpoint.ipc_path().is_some_and(node.places.is_private_path))?;
    let deadline = tokio::time::Instant::now() + SHORTCUT_TIMEOUT;
    let dialled = tokio::time::timeout_at(deadline, async {
        let mut dialled = dial(node, &endpoint, Role::Dial, deadline).await.ok()?;
        // Its reader answers: the peer knows this link before it reads our Bye on the other.
        dialled.leftover = ping(&mut dialled.stream, dialled.leftover).await.ok()?;
        Some(dialled)
    });
    let dialled = dialled.await.ok()??;
    let uid = rustix::process::geteuid().as_raw();
    let same_user = dialled.stream.peer == PeerAddress::Ipc { uid };
    (same_user && is_same_start(&dialled.hello, own)).then_some(dialled)
}

fn check_room(node: &Node) -> Result<(), ConnectError> {
    let limit = node.limits.links_max;
    if node.has_room_for_link() { Ok(()) } else { Err(ConnectError::TooManyLinks { limit }) }
}

async fn connect_foreign(node: Arc<Node>, endpoint: Endpoint) -> Result<Arc<dyn Port>, ConnectError> {
    check_room(&node)?;
    let deadline = tokio::time::Instant::now() + node.limits.connect_timeout;
    let dialled = dial_until(&node, &endpoint, Role::DialForeign, deadline).await;
    let Dialled { stream, hello, leftover, grant, becoming } =
        dialled.map_err(|error| error.at(&endpoint))?;
    let origin = Origin::Dialled { endpoints: vec![endpoint], is_foreign: true };
    let shaken = Shaken { stream, hello, leftover, grant, origin, is_shortcut: false, becoming };
    let peer = start_link(&node, shaken, node.chance.instance());
    peer.set_redialled(true);
    Ok(peer)
}

async fn probe(node: Arc<Node>, endpoint: Endpoint) -> Result<Probe, ConnectError> {
    let limit = node.limits.connect_timeout;
    let began = clock::now();
    let deadline = tokio::time::Instant::now() + limit;
    let dialled = dial_until(&node, &endpoint, Role::Dial, deadline).await;
    let mut dialled = dialled.map_err(|error| error.at(&endpoint))?;
    let connect_time = clock::now().duration_since(began);
    let Some(own) = dialled.hello.own else {
        return Err(failed(&endpoint, "the peer is no node of ours".to_owned()));
    };
    let sent = clock::now();
    match tokio::time::timeout_at(deadline, ping(&mut dialled.stream, dialled.leftover)).await {
        Ok(Ok(_)) => Ok(Probe {
            instance: own.instance,
            incarnation: own.incarnation,
            endpoints: own.endpoints,
            version: own.version,
            connect_time,
            round_trip: clock::now().duration_since(sent),
        }),
        Ok(Err(error)) => Err(failed(&endpoint, error.to_string())),
        Err(_) => Err(failed(&endpoint, format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// This node as a peer of itself: a link whose two ends are both here.
pub(crate) fn myself(node: &Arc<Node>) -> Option<Arc<PeerCore>> {
    node.myself.get().cloned()
}

/// Makes the link to oneself.
pub(crate) fn link_myself(node: &Arc<Node>) {
    let peer = Arc::new(PeerCore::new(node.instance, node, node.incarnation));
    peer.set_hello(node.incarnation, node.endpoints().to_vec());
    let _ = node.myself.set(peer);
    let (here, there) = (node.places.stream_to_self)();
    // What one end grants is what the other is granted, so both go by one grant; the budget has room for it.
    let Some(grant) = node.first_grant() else { return };
    for stream in [here, there] {
        let grant = grant.clone();
        let hello = Hello {
            socket_type: crate::wire::zmtp::properties::SocketType::Dealer,
            identity: node.instance.as_bytes().to_vec(),
            minor: 1,
            own: Some(node.hello(node.granted(&grant))),
        };
        let leftover = Vec::new();
        let (origin, becoming) = (Origin::Myself, node.handshakes.become_link());
        let shaken = Shaken { stream, hello, leftover, grant, origin, is_shortcut: false, becoming };
        start_link(node, shaken, node.instance);
    }
}

/// A node as its clients and contexts hold it: weakly.
#[derive(Debug)]
pub(crate) struct NodeHandle {
    node: Weak<Node>,
    facts: NodeFacts,
    gone: Arc<PeerCore>,
    /// What the node's clients share, by key.
    shared: Mutex<BTreeMap<String, Weak<dyn Any + Send + Sync>>>,
}

impl NodeHandle {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        let gone = PeerCore::new(node.instance, node, node.incarnation);
        gone.give_up(PortError::Stopped("this node has shut down"));
        Self {
            node: Arc::downgrade(node),
            facts: NodeFacts {
                instance: node.instance,
                incarnation: node.incarnation,
                request_timeout: node.limits.request_timeout,
            },
            gone: Arc::new(gone),
            shared: Mutex::default(),
        }
    }

    fn alive(&self) -> Option<Arc<Node>> {
        self.node.upgrade().filter(|node| !node.is_stopped())
    }

    fn running(&self) -> Result<Arc<Node>, ConnectError> {
        self.node.upgrade().filter(|node| !node.is_draining()).ok_or(ConnectError::NodeStopped)
    }
}

impl NodePort for NodeHandle {
    fn facts(&self) -> &NodeFacts {
        &self.facts
    }

    fn connect(
        &self,
        endpoints: Vec<Endpoint>,
        expected: Option<InstanceId>,
    ) -> BoxFuture<'static, Result<Arc<dyn Port>, ConnectError>> {
        let node = self.running();
        Box::pin(async move { connect(node?, endpoints, expected).await })
    }

    fn connect_foreign(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Arc<dyn Port>, ConnectError>> {
        let node = self.running();
        Box::pin(async move { connect_foreign(node?, endpoint).await })
    }

    fn probe(&self, endpoint: Endpoint) -> BoxFuture<'static, Result<Probe, ConnectError>> {
        let node = self.running();
        Box::pin(async move { probe(node?, endpoint).await })
    }

    fn myself(&self) -> Arc<dyn Port> {
        self.alive().and_then(|node| myself(&node)).unwrap_or_else(|| self.gone.clone())
    }

    fn peers(&self) -> Vec<Arc<dyn Port>> {
        let Some(node) = self.alive() else { return Vec::new() };
        let peers = node.peers.read();
        peers.values().filter(|peer| peer.is_connected()).map(|peer| peer.clone() as Arc<dyn Port>).collect()
    }

    fn peer(&self, instance: InstanceId) -> Option<Arc<dyn Port>> {
        let node = self.alive()?;
        if instance == node.instance {
            return myself(&node).map(|peer| peer as Arc<dyn Port>);
        }
        let peers = node.peers.read();
        peers.get(&instance).filter(|peer| peer.is_connected()).map(|peer| peer.clone() as Arc<dyn Port>)
    }

    fn disconnect(&self, instance: InstanceId) -> BoxFuture<'static, ()> {
        let node = self.alive();
        Box::pin(async move {
            let Some(node) = node else { return };
            let peer = node.peers.read().get(&instance).cloned();
            let Some(peer) = peer else { return };
            peer.set_redialled(false);
            let links = peer.links();
            let pending_calls = links.iter().map(|link| link.pending_calls() as u64).sum();
            let unsent_len = links.iter().map(|link| link.unsent_len()).sum();
            let losses: Vec<_> = links.iter().map(|link| link.one_way_losses()).collect();
            for link in links {
                peer.detach(&link, false);
                retire(&node, link, false);
            }
            // Now, as another link to the same instance may be up before this one has ended.
            if peer.announce(false) {
                let reason = LinkEnd::Disconnected.to_string();
                node.emit(LinkEvent::Down {
                    peer: instance,
                    reason,
                    pending_calls,
                    unsent_len,
                    one_way_unsent: losses.iter().map(|lost| lost.unsent).sum(),
                    one_way_maybe_lost: losses.iter().map(|lost| lost.maybe_lost).sum(),
                });
            }
            peer.give_up(PortError::Gone("disconnected on request".to_owned()));
            node.peers.write().remove(&instance);
        })
    }

    fn register(&self, handler: Handler) -> Result<(), RegisterError> {
        let node = self.alive().ok_or(RegisterError::NodeStopped)?;
        register(&node, handler)
    }

    fn unregister(&self, name: &str) -> bool {
        self.alive().is_some_and(|node| node.registry.unregister(name))
    }

    fn spawn(&self, task: BoxFuture<'static, ()>) {
        if let Some(node) = self.alive() {
            node.spawner.spawn(task);
        }
    }

    fn shared(&self, key: &str) -> Option<Arc<dyn Any + Send + Sync>> {
        self.shared.lock().get(key).and_then(Weak::upgrade)
    }

    fn share(&self, key: String, value: &Arc<dyn Any + Send + Sync>) {
        let mut shared = self.shared.lock();
        shared.retain(|_, value| value.strong_count() > 0);
        shared.insert(key, Arc::downgrade(value));
    }

    fn link_events(&self) -> LinkEvents {
        let events = self
            .alive()
            .and_then(|node| node.events.lock().as_ref().map(tokio::sync::broadcast::Sender::subscribe));
        match events {
            Some(events) => LinkEvents(events),
            // Nobody sends any more, so the stream is over at once.
            None => LinkEvents(tokio::sync::broadcast::channel(1).1),
        }
    }
}
