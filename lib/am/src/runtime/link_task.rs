//! A link's life: from a finished handshake, through its two tasks, to what is left to say when it has ended.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshakes::Becoming;
use super::message_router::MessageRouter;
use super::node::{LinkEntry, Node};
use super::peer::PeerCore;
use super::redial::redial;
use super::running::Running;
use super::shutdown::farewell;
use crate::api::context::Sender;
use crate::api::link_event::LinkEvent;
use crate::api::port::{Port, PortError};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::id::{Incarnation, InstanceId};
use crate::proto::budget::Grant;
use crate::transport::ByteStream;
use crate::transport::link::{Link, LinkEnd, OneWayLosses, reader};
use crate::wire::answer::PeerClass;
use crate::wire::zmtp::properties::{Hello, SocketType};

/// A link that has lasted so long was a good one: should it be lost, redialling starts with short pauses again.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// The first link of one dialler waits so long for what came on the second.
const SECOND_READ_FIRST: Duration = Duration::from_secs(1);
/// A link waits so long for another to be read to its Bye, unless that one still brings something.
const READ_FIRST: Duration = Duration::from_secs(4);
/// What comes by a link on which nothing but heartbeats passes, in that time, at most.
const HEARTBEATS_LEN: u64 = 1024;

/// How a link came about.
#[derive(Debug, Clone)]
pub(crate) enum Origin {
    /// The peer dialled us.
    Accepted,
    /// We dialled it: by these endpoints it is dialled again.
    Dialled { endpoints: Vec<Endpoint>, is_foreign: bool },
    /// Both ends are ours.
    Myself,
}

/// A stream whose handshake is done.
pub(crate) struct Shaken {
    pub(crate) stream: ByteStream,
    pub(crate) hello: Hello,
    pub(crate) leftover: Vec<u8>,
    /// What the peer may have unfinished here.
    pub(crate) grant: Arc<Grant>,
    pub(crate) origin: Origin,
    /// The short way to a peer that is linked already: it replaces that link.
    pub(crate) is_shortcut: bool,
    /// Until it is a link.
    pub(crate) becoming: Becoming,
}

/// Makes a link of a stream and starts its tasks. Gives its peer.
pub(crate) fn start_link(node: &Arc<Node>, shaken: Shaken, instance: InstanceId) -> Arc<PeerCore> {
    let Shaken { stream, hello, leftover, grant, origin, is_shortcut, becoming: _becoming } = shaken;
    let is_own = hello.own.is_some();
    let incarnation = hello.own.as_ref().map_or(Incarnation::from_bytes([0; 16]), |own| own.incarnation);
    let endpoints: Vec<Endpoint> =
        hello.own.iter().flat_map(|own| &own.endpoints).filter_map(|text| text.parse().ok()).collect();
    let number = node.next_link_number();
    let dialled = matches!(origin, Origin::Dialled { .. });
    let settings = node.link_settings(&hello, dialled, &grant);
    let link = Link::new(number, settings, stream.writer, node.ticks.clone());
    let running = Arc::new(Running::new(grant));
    let entry = LinkEntry { link: link.clone(), running: running.clone(), takes_ping: hello.minor > 0 };
    let sender = Arc::new(Sender {
        instance,
        incarnation,
        is_own,
        label: String::from_utf8_lossy(&hello.identity).into_owned(),
        is_local: is_local(&stream.peer),
        endpoints: endpoints.clone(),
    });
    let peer = settle_peer(node, instance, incarnation, endpoints);
    if let Origin::Dialled { endpoints, is_foreign } = &origin {
        peer.set_route(endpoints, *is_foreign);
    }
    let mut router = MessageRouter::new(node, &link, &peer, sender, class_of(&hello), &running);
    node.links.lock().push(entry);

    let flusher = link.clone();
    node.spawner.spawn(async move { flusher.flush_loop().await });
    let duplicate = settle_duplicate(node, &peer, dialled);
    tracing::debug!(node = %node.instance, link = number, peer = %instance, dialled, ?duplicate, "a link begins");
    let makes_room =
        duplicate == Duplicate::Old || (duplicate == Duplicate::SameSide && dialled && !is_shortcut);
    // The peer sends on it no more once it has our Bye, and goes on with the other. Where this node goes, it has that
    // of the first before.
    let is_read_first = makes_room && (duplicate == Duplicate::Old || !node.is_draining());
    let preferred = duplicate == Duplicate::New || (duplicate == Duplicate::SameSide && is_shortcut);
    let before = peer.link();
    if let Some(old) = before.as_ref().filter(|old| preferred || !old.is_usable()) {
        link.send_after(old);
    }
    // The peer may have sent on those before it came to this one.
    let unread = |old: &Arc<Link>| {
        let is_first = is_read_first && before.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, old));
        old.is_retired() && !old.peer_said_bye() && old.end_reason().is_none() && !is_first
    };
    peer.links().into_iter().filter(unread).for_each(|old| read_in_turn(node, &link, old, READ_FIRST));
    let replaced = {
        // Under the table's lock, so that the end of another link cannot take the peer out meanwhile.
        let mut peers = node.peers.write();
        if !matches!(origin, Origin::Myself) {
            peers.insert(instance, peer.clone());
        }
        peer.attach(link.clone(), preferred, |old| stands(node, old))
    };
    // Of two links the one that goes is read to its Bye first, so that order survives.
    match (&replaced, before) {
        (Some(old), _) => read_in_turn(node, &link, old.clone(), READ_FIRST),
        (None, Some(kept)) if is_read_first => {
            let limit = if duplicate == Duplicate::SameSide { SECOND_READ_FIRST } else { READ_FIRST };
            read_in_turn(node, &kept, link.clone(), limit);
        }
        _ => {}
    }
    if !matches!(origin, Origin::Myself) && peer.announce(true) {
        node.emit(LinkEvent::Up { peer: instance, is_own });
    }
    let life = Life {
        node: node.clone(),
        peer: peer.clone(),
        link: link.clone(),
        running,
        since: clock::now(),
        is_over: false,
    };
    let came_by = origin.clone();
    let busy_poll = node.settings.busy_poll;
    node.spawner.spawn(async move {
        let end = reader::read_loop(&life.link, stream.reader, leftover, &mut router, busy_poll).await;
        life.end(end, &came_by);
    });
    node.wake_sweep();
    if node.is_stopped() {
        link.end(LinkEnd::NodeStopped);
    } else if node.is_draining() {
        link.say_bye(false);
    }
    if let Some(old) = replaced {
        retire(node, old, true);
    } else if !matches!(origin, Origin::Myself) && makes_room {
        retire(node, link, true);
    }
    peer
}

/// Reads `link` only when `first` has been read to its Bye. With dead links between them, two nodes could wait for each
/// other so: who waits in vain goes on.
fn read_in_turn(node: &Node, link: &Arc<Link>, first: Arc<Link>, limit: Duration) {
    link.read_after(first.clone());
    let link = link.clone();
    node.spawner.spawn(async move {
        loop {
            let len = first.received_len();
            tokio::time::sleep(limit).await;
            if first.peer_said_bye() || first.end_reason().is_some() || link.end_reason().is_some() {
                return;
            }
            let brings_something = first.received_len() > len + HEARTBEATS_LEN;
            if !brings_something && !first.waits_for_room() {
                return link.stop_waiting_for(&first);
            }
        }
    });
}

/// A link carries no new messages any more: says goodbye, and closes it when nothing is owed either way. `moved`:
/// another link takes its place.
pub(crate) fn retire(node: &Arc<Node>, link: Arc<Link>, moved: bool) {
    link.say_bye(moved);
    let limits = &node.limits;
    // Nobody goes where one link makes room for another: what is on its way has as long as a call may take.
    let limit = if moved { limits.drain_timeout.max(limits.request_timeout) } else { limits.drain_timeout };
    node.spawner.spawn(async move { farewell(&link, limit).await });
}

/// Finds or makes the peer. One that comes back as another incarnation has lost its old links.
fn settle_peer(
    node: &Arc<Node>,
    instance: InstanceId,
    incarnation: Incarnation,
    endpoints: Vec<Endpoint>,
) -> Arc<PeerCore> {
    if instance == node.instance
        && let Some(myself) = node.myself.get()
    {
        return myself.clone();
    }
    let peer = {
        let mut peers = node.peers.write();
        peers.entry(instance).or_insert_with(|| Arc::new(PeerCore::new(instance, node, incarnation))).clone()
    };
    if peer.incarnation() != incarnation {
        for old in peer.links() {
            old.end(LinkEnd::Replaced);
            peer.detach(&old, true);
        }
    }
    peer.set_hello(incarnation, endpoints);
    peer
}

/// Which of two links to one peer stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duplicate {
    /// There is no other.
    None,
    /// Both were dialled from one side: the dialler sees to it.
    SameSide,
    /// The new one.
    New,
    /// The old one.
    Old,
}

/// Whether a link is the one by which the two ends reach each other. That of a node that is going is, for its peer,
/// until that has read so.
fn stands(node: &Node, link: &Link) -> bool {
    link.is_usable() || (node.is_draining() && link.stands())
}

/// Of two links that cross, the one stays that the lower instance id dialled; both ends decide alike.
fn settle_duplicate(node: &Node, peer: &PeerCore, new_is_dialled: bool) -> Duplicate {
    let we_are_lower = node.instance < peer.instance();
    match peer.link() {
        None => Duplicate::None,
        Some(old) if !stands(node, &old) => Duplicate::None,
        Some(old) if old.settings().dialled == new_is_dialled => Duplicate::SameSide,
        Some(_) if new_is_dialled == we_are_lower => Duplicate::New,
        Some(_) => Duplicate::Old,
    }
}

/// What must happen when a link has ended, however its task does.
struct Life {
    node: Arc<Node>,
    peer: Arc<PeerCore>,
    link: Arc<Link>,
    running: Arc<Running>,
    since: Instant,
    is_over: bool,
}

impl Life {
    /// The reader has come to the end: fails what is pending, and dials again if that was agreed.
    fn end(mut self, end: LinkEnd, origin: &Origin) {
        self.is_over = true;
        let (node, peer, link) = (&self.node, &self.peer, &self.link);
        let pending_calls = link.pending_calls() as u64;
        let unsent_len = link.unsent_len();
        // One that said goodbye has not failed.
        if clock::now().duration_since(self.since) >= HEALTHY_AFTER || link.peer_said_bye() {
            peer.redial_soon();
        }
        let reason = link.end_reason().cloned().unwrap_or(end);
        let (is_last, losses) = self.close(reason.clone());
        if matches!(origin, Origin::Myself) || node.is_stopped() || !is_last {
            return;
        }
        match &reason {
            LinkEnd::OverLimit(name) => node.counters.limits.reached(name),
            LinkEnd::SlowConsumer => node.counters.limits.reached("slow_consumer_timeout"),
            LinkEnd::Silent(_) if link.settings().own_peer => node.counters.limits.reached("silence_max"),
            LinkEnd::Silent(_) => node.counters.limits.reached("foreign_silence_max"),
            _ => {}
        }
        let reason = reason.to_string();
        if peer.announce(false) {
            node.emit(LinkEvent::Down {
                peer: peer.instance(),
                reason,
                pending_calls,
                unsent_len,
                one_way_unsent: losses.unsent,
                one_way_maybe_lost: losses.maybe_lost,
            });
        }
        match peer.route() {
            Some((endpoints, is_foreign)) if peer.is_redialled() && !node.is_draining() => {
                redial(node, peer, endpoints, is_foreign);
            }
            _ if peer.is_redialled() => {}
            _ => {
                let mut peers = node.peers.write();
                if !peer.is_connected()
                    && peers.get(&peer.instance()).is_some_and(|known| Arc::ptr_eq(known, peer))
                {
                    peers.remove(&peer.instance());
                }
            }
        }
    }

    /// Whether that was the peer's last link, and what was lost.
    fn close(&self, reason: LinkEnd) -> (bool, OneWayLosses) {
        self.link.end(reason);
        self.running.cancel_all();
        self.node.leave_unfinished(&self.running);
        let losses = self.link.finish();
        self.node.links.lock().retain(|entry| !Arc::ptr_eq(&entry.link, &self.link));
        (self.peer.detach(&self.link, true), losses)
    }
}

impl Drop for Life {
    /// The task was dropped where it waited: the node has stopped, or its runtime has gone.
    fn drop(&mut self) {
        if !self.is_over {
            self.close(LinkEnd::NodeStopped);
            self.peer.give_up(PortError::Stopped("the runtime of this node has ended"));
        }
    }
}

const fn class_of(hello: &Hello) -> PeerClass {
    match (&hello.own, hello.socket_type) {
        (Some(_), _) => PeerClass::Own,
        (None, SocketType::Req) => PeerClass::ForeignReq,
        (None, SocketType::Push) => PeerClass::ForeignPush,
        (None, _) => PeerClass::Foreign,
    }
}

fn is_local(peer: &crate::transport::PeerAddress) -> bool {
    match peer {
        crate::transport::PeerAddress::Tcp(address) => address.ip().to_canonical().is_loopback(),
        crate::transport::PeerAddress::Ipc { .. } | crate::transport::PeerAddress::Inproc => true,
    }
}
