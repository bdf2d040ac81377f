//! Making links: dialling, accepting, dialling again; and the node as its clients see it.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::link_task::{Origin, Shaken, retire, start_link};
use super::node::Node;
use super::peer::PeerCore;
use crate::api::link_event::{LinkEvent, LinkEvents};
use crate::api::port::{BoxFuture, NodePort, Port, PortError, Probe};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::error::{ConnectAttempt, ConnectError};
use crate::id::{Incarnation, InstanceId};
use crate::proto::backoff::Backoff;
use crate::transport::handshake::{ShakeError, shake};
use crate::transport::{ByteStream, Listener, PeerAddress, ThinTransport};
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

/// Dials one endpoint and shakes hands. The caller bounds the time.
async fn dial(
    node: &Arc<Node>,
    endpoint: &Endpoint,
    role: Role,
    deadline: tokio::time::Instant,
) -> Result<(ByteStream, Hello, Vec<u8>), DialError> {
    let transport = transport_for(node, endpoint).map_err(DialError::Refused)?;
    let mut stream = transport.dial(endpoint).await.map_err(|error| DialError::Failed(error.to_string()))?;
    let shaken = shake(&mut stream, role, node.hello(), |_| Ok(()), deadline).await;
    let (hello, leftover) = shaken.map_err(|error| DialError::Shake(Box::new(error)))?;
    Ok((stream, hello, leftover))
}

enum DialError {
    Refused(ConnectError),
    Failed(String),
    Shake(Box<ShakeError>),
}

impl DialError {
    fn text(&self) -> String {
        match self {
            Self::Refused(error) => error.to_string(),
            Self::Failed(reason) => reason.clone(),
            Self::Shake(error) => error.to_string(),
        }
    }

    fn is_permanent(&self) -> bool {
        matches!(self, Self::Shake(error) if error.is_permanent())
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
        let dialled = tokio::time::timeout_at(deadline, dial(&node, endpoint, Role::Dial, deadline)).await;
        let reason = match dialled {
            Ok(Ok((stream, hello, leftover))) => {
                let shaken = Shaken {
                    stream,
                    hello,
                    leftover,
                    origin: Origin::Dialled { endpoints: endpoints.clone(), is_foreign: false },
                    is_shortcut: false,
                };
                return adopt_dialled(&node, endpoint, shaken, expected).await;
            }
            Ok(Err(DialError::Refused(error @ ConnectError::Insecure { .. }))) => return Err(error),
            Ok(Err(error)) => error.text(),
            Err(_) => format!("no answer within {} ms", node.limits.connect_timeout.as_millis()),
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
        return Err(failed(endpoint, reason));
    }
    if node.is_draining() {
        return Err(ConnectError::NodeStopped);
    }
    let known = node.peers.read().get(&own.instance).cloned();
    let linked = known
        .filter(|known| known.incarnation() == own.incarnation)
        .and_then(|known| known.link().filter(|link| link.is_usable()).map(|link| (known, link)));
    if let Some((known, link)) = &linked
        && link.settings().dialled
    {
        // Nothing was sent on the new stream: it just ends, and disturbs nobody.
        known.set_redialled(true);
        return Ok(known.clone());
    }
    check_room(node)?;
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
    if let Some((stream, hello, leftover)) = shortcut {
        start_link(node, Shaken { stream, hello, leftover, origin, is_shortcut: true }, own.instance);
    }
    Ok(peer)
}

/// The way to a peer on this host that spares the network stack: an ipc path inside our own runtime directory,
/// owned by our user, whose READY shows the same instance and incarnation. On any failure there is none.
async fn shortcut(
    node: &Arc<Node>,
    own: &crate::wire::zmtp::properties::AmHello,
) -> Option<(ByteStream, Hello, Vec<u8>)> {
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
        let (mut stream, hello, leftover) = dial(node, &endpoint, Role::Dial, deadline).await.ok()?;
        // Its reader answers: the peer knows this link before it reads our Bye on the other.
        let leftover = crate::transport::handshake::ping(&mut stream, leftover).await.ok()?;
        Some((stream, hello, leftover))
    });
    let (stream, hello, leftover) = dialled.await.ok()??;
    let uid = rustix::process::geteuid().as_raw();
    let same_user = stream.peer == PeerAddress::Ipc { uid };
    let same_node = hello
        .own
        .as_ref()
        .is_some_and(|found| found.instance == own.instance && found.incarnation == own.incarnation);
    (same_user && same_node).then_some((stream, hello, leftover))
}

fn check_room(node: &Node) -> Result<(), ConnectError> {
    let limit = node.limits.links_max;
    if node.links.lock().len() >= limit { Err(ConnectError::TooManyLinks { limit }) } else { Ok(()) }
}

async fn connect_foreign(node: Arc<Node>, endpoint: Endpoint) -> Result<Arc<dyn Port>, ConnectError> {
    check_room(&node)?;
    let limit = node.limits.connect_timeout;
    let deadline = tokio::time::Instant::now() + limit;
    let dialled =
        tokio::time::timeout_at(deadline, dial(&node, &endpoint, Role::DialForeign, deadline)).await;
    match dialled {
        Ok(Ok((stream, hello, leftover))) => {
            let origin = Origin::Dialled { endpoints: vec![endpoint], is_foreign: true };
            let peer = start_link(
                &node,
                Shaken { stream, hello, leftover, origin, is_shortcut: false },
                node.chance.instance(),
            );
            peer.set_redialled(true);
            Ok(peer)
        }
        Ok(Err(DialError::Refused(error))) => Err(error),
        Ok(Err(error)) => Err(failed(&endpoint, error.text())),
        Err(_) => Err(failed(&endpoint, format!("no answer within {} ms", limit.as_millis()))),
    }
}

async fn probe(node: Arc<Node>, endpoint: Endpoint) -> Result<Probe, ConnectError> {
    let limit = node.limits.connect_timeout;
    let began = clock::now();
    let deadline = tokio::time::Instant::now() + limit;
    let probing = async {
        let (mut stream, hello, leftover) = dial(&node, &endpoint, Role::Dial, deadline).await?;
        let connect_time = clock::now().duration_since(began);
        let sent = clock::now();
        crate::transport::handshake::ping(&mut stream, leftover)
            .await
            .map_err(|error| DialError::Failed(error.to_string()))?;
        Ok::<_, DialError>((hello, connect_time, clock::now().duration_since(sent)))
    };
    match tokio::time::timeout_at(deadline, probing).await {
        Ok(Ok((Hello { own: Some(own), .. }, connect_time, round_trip))) => Ok(Probe {
            instance: own.instance,
            incarnation: own.incarnation,
            endpoints: own.endpoints,
            version: own.version,
            connect_time,
            round_trip,
        }),
        Ok(Ok(_)) => Err(failed(&endpoint, "the peer is no node of ours".to_owned())),
        Ok(Err(DialError::Refused(error))) => Err(error),
        Ok(Err(error)) => Err(failed(&endpoint, error.text())),
        Err(_) => Err(failed(&endpoint, format!("no answer within {} ms", limit.as_millis()))),
    }
}

/// Dials a lost peer until it is back, or given up.
pub(crate) fn redial(node: &Arc<Node>, peer: &Arc<PeerCore>, endpoints: Vec<Endpoint>, is_foreign: bool) {
    let (owner, peer) = (node.clone(), peer.clone());
    node.spawner.spawn(async move {
        let mut backoff = Backoff::default();
        loop {
            let wait = backoff.next_wait(owner.chance.number());
            tokio::time::sleep(wait).await;
            if !peer.is_redialled() || owner.is_draining() {
                owner.peers.write().remove(&peer.instance());
                return;
            }
            if peer.link().is_some_and(|link| link.is_usable()) {
                return;
            }
            match redial_once(&owner, &peer, &endpoints, is_foreign).await {
                Ok(()) => return,
                Err((reason, is_permanent)) => {
                    owner.emit(LinkEvent::RedialFailed { peer: peer.instance(), reason });
                    if is_permanent {
                        backoff.jump_to_max();
                    }
                }
            }
        }
    });
}

async fn redial_once(
    node: &Arc<Node>,
    peer: &Arc<PeerCore>,
    endpoints: &[Endpoint],
    is_foreign: bool,
) -> Result<(), (String, bool)> {
    let role = if is_foreign { Role::DialForeign } else { Role::Dial };
    let mut last = ("no endpoint is known".to_owned(), true);
    for endpoint in endpoints {
        let deadline = tokio::time::Instant::now() + node.limits.connect_timeout;
        let dialled = tokio::time::timeout_at(deadline, dial(node, endpoint, role, deadline)).await;
        let (stream, hello, leftover) = match dialled {
            Ok(Ok(shaken)) => shaken,
            Ok(Err(error)) => {
                last = (error.text(), error.is_permanent());
                continue;
            }
            Err(_) => {
                last = ("no answer in time".to_owned(), false);
                continue;
            }
        };
        let found = hello.own.as_ref().map_or(peer.instance(), |own| own.instance);
        if found != peer.instance() {
            node.emit(LinkEvent::Replaced { old: peer.instance(), new: found });
            peer.give_up(PortError::Gone(format!("instance {found} answers at {endpoint} now")));
            node.peers.write().remove(&peer.instance());
            return Ok(());
        }
        let origin = Origin::Dialled { endpoints: endpoints.to_vec(), is_foreign };
        // The peer may have been forgotten meanwhile; those who hold it wait for this link.
        node.peers.write().entry(found).or_insert_with(|| peer.clone());
        let linked = start_link(node, Shaken { stream, hello, leftover, origin, is_shortcut: false }, found);
        linked.set_redialled(true);
        return Ok(());
    }
    Err(last)
}

/// Accepts streams on a listener until the node drains.
pub(crate) fn accept(node: &Arc<Node>, mut listener: Box<dyn Listener>, pending: Arc<Semaphore>) {
    let owner = node.clone();
    let draining = node.drain_token.clone();
    node.spawner.spawn(async move {
        loop {
            let stream = tokio::select! {
                biased;
                () = draining.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    Ok(stream) => stream,
                    Err(error) => {
                        tracing::error!(endpoint = %listener.endpoint(), %error, "the listener has failed");
                        return;
                    }
                },
            };
            // A plain close, never a ZMTP ERROR: libzmq peers do not come back after one.
            let Ok(permit) = pending.clone().try_acquire_owned() else { continue };
            if check_room(&owner).is_err() {
                continue;
            }
            let node = owner.clone();
            owner.spawner.spawn(async move {
                welcome(&node, stream).await;
                drop(permit);
            });
        }
    });
}

async fn welcome(node: &Arc<Node>, mut stream: ByteStream) {
    let (instance, incarnation) = (node.instance, node.incarnation);
    let judge = move |hello: &Hello| match &hello.own {
        Some(own) if own.instance == instance && own.incarnation != incarnation => {
            Err("another node uses this node's instance id".to_owned())
        }
        _ => Ok(()),
    };
    let deadline = tokio::time::Instant::now() + node.limits.handshake_timeout;
    let shaking = shake(&mut stream, Role::Listen, node.hello(), judge, deadline);
    let (hello, leftover) = match tokio::time::timeout_at(deadline, shaking).await {
        Ok(Ok(shaken)) => shaken,
        Ok(Err(error)) => {
            tracing::debug!(peer = ?stream.peer, %error, "a handshake failed");
            return;
        }
        Err(_) => {
            tracing::debug!(peer = ?stream.peer, "a handshake took too long");
            return;
        }
    };
    if node.is_stopped() {
        return;
    }
    let found = hello.own.as_ref().map(|own| own.instance);
    // Ourselves: the dialling side notices, and closes.
    if found == Some(node.instance) {
        return;
    }
    let instance = found.unwrap_or_else(|| node.chance.instance());
    start_link(
        node,
        Shaken { stream, hello, leftover, origin: Origin::Accepted, is_shortcut: false },
        instance,
    );
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
    for stream in [here, there] {
        let hello = Hello {
            socket_type: crate::wire::zmtp::properties::SocketType::Dealer,
            identity: node.instance.as_bytes().to_vec(),
            minor: 1,
            own: Some(node.hello()),
        };
        let shaken =
            Shaken { stream, hello, leftover: Vec::new(), origin: Origin::Myself, is_shortcut: false };
        start_link(node, shaken, node.instance);
    }
}

/// A node as its clients and contexts hold it: weakly.
#[derive(Debug)]
pub(crate) struct NodeHandle {
    node: Weak<Node>,
    instance: InstanceId,
    incarnation: Incarnation,
    request_timeout: Duration,
    gone: Arc<PeerCore>,
}

impl NodeHandle {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        let gone = PeerCore::new(node.instance, node, node.incarnation);
        gone.give_up(PortError::Stopped("this node has shut down"));
        Self {
            node: Arc::downgrade(node),
            instance: node.instance,
            incarnation: node.incarnation,
            request_timeout: node.limits.request_timeout,
            gone: Arc::new(gone),
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
    fn instance(&self) -> InstanceId {
        self.instance
    }

    fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    fn request_timeout(&self) -> Duration {
        self.request_timeout
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
            for link in peer.links() {
                peer.detach(&link, false);
                retire(&node, link, false);
            }
            peer.give_up(PortError::Gone("disconnected on request".to_owned()));
            node.peers.write().remove(&instance);
        })
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
