//! From a connection that somebody made to us to a link, or a plain close: the listening side of a handshake.
//!
//! A refusal is a plain close, never a ZMTP ERROR: libzmq peers do not come back after one.

use std::sync::Arc;
use std::time::Duration;

use super::handshakes::Begun;
use super::link_task::{Origin, Shaken, start_link};
use super::node::Node;
use crate::api::link_event::LinkEvent;
use crate::clock;
use crate::id::{Incarnation, InstanceId};
use crate::proto::credit::Totals;
use crate::transport::handshake::{ShakeError, Shaking};
use crate::transport::link::{Link, LinkEnd};
use crate::transport::{ByteStream, Listener};
use crate::wire::zmtp::handshake::Role;
use crate::wire::zmtp::properties::{AmHello, Hello};

/// How often a peer that must show that it lives is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Accepts streams on a listener until the node drains.
pub(crate) fn accept(node: &Arc<Node>, mut listener: Box<dyn Listener>) {
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
            if !owner.has_room_for_link() {
                continue;
            }
            let Some(begun) = owner.handshakes.begin(&stream.peer) else {
                owner.counters.limits.reached("pending_handshakes_per_address_max");
                continue;
            };
            if begun.has_evicted {
                owner.counters.limits.reached("pending_handshakes_max");
            }
            let node = owner.clone();
            owner.spawner.spawn(async move { welcome(&node, stream, begun).await });
        }
    });
}

async fn welcome(node: &Arc<Node>, stream: ByteStream, begun: Begun) {
    let peer = stream.peer.clone();
    let deadline = tokio::time::Instant::now() + node.limits.handshake_timeout;
    let shaken = tokio::select! {
        biased;
        () = begun.evicted.cancelled() => {
            Err(ShakeError::Refused("a later connection took its place".to_owned()))
        }
        shaken = shake(node, stream, deadline) => shaken,
    };
    drop(begun);
    match shaken {
        Ok(Some((shaken, instance))) if !node.is_stopped() => {
            // The process whose id it has may have come meanwhile.
            if let Some(own) = &shaken.hello.own
                && check_identity(node, instance, own.incarnation).await.is_err()
            {
                return;
            }
            start_link(node, shaken, instance);
        }
        Ok(_) => {}
        Err(error) => {
            if tokio::time::Instant::now() >= deadline {
                node.counters.limits.reached("handshake_timeout");
            }
            tracing::debug!(?peer, %error, "a handshake failed");
        }
    }
}

/// Shakes hands; `None` when the peer is this node itself, whose dialling side deals with it.
async fn shake(
    node: &Arc<Node>,
    mut stream: ByteStream,
    deadline: tokio::time::Instant,
) -> Result<Option<(Shaken, InstanceId)>, ShakeError> {
    let mut shaking = Shaking::new(Role::Listen, node.hello(Totals::default()));
    let mut answered = None;
    while shaking.advance(&mut stream, deadline).await? {
        if let Some(own) = shaking.peer().and_then(|peer| peer.own.clone()) {
            judge(node, &own).await.map_err(ShakeError::Refused)?;
        }
        let taken = node
            .first_grant()
            .ok_or_else(|| ShakeError::Refused("no memory is left for another peer".to_owned()))?;
        let granted = node.granted(&taken);
        answered = Some((taken, node.handshakes.become_link()));
        shaking.answer(granted.messages, granted.bytes);
    }
    let (hello, leftover) = shaking.finish()?;
    let Some((grant, becoming)) = answered else {
        return Err(ShakeError::Refused("the handshake ended without our answer".to_owned()));
    };
    let instance = match &hello.own {
        Some(own) if own.instance == node.instance => return Ok(None),
        Some(own) => own.instance,
        None => node.chance.instance(),
    };
    let origin = Origin::Accepted;
    let shaken = Shaken { stream, hello, leftover, grant, origin, is_shortcut: false, becoming };
    Ok(Some((shaken, instance)))
}

/// Whether a node that says this of itself may come in.
async fn judge(node: &Node, own: &AmHello) -> Result<(), String> {
    if own.instance == node.instance && own.incarnation != node.incarnation {
        let reason = "another node uses this node's instance id".to_owned();
        node.emit(LinkEvent::Refused { peer: own.instance, reason: reason.clone() });
        return Err(reason);
    }
    check_identity(node, own.instance, own.incarnation).await
}

/// Refuses a process that says it is `instance` while another start of it is linked and alive: that one is sent a
/// PING, and any byte shows that it lives. Else its links are lost, and the newcomer is what has become of it.
pub(crate) async fn check_identity(
    node: &Node,
    instance: InstanceId,
    incarnation: Incarnation,
) -> Result<(), String> {
    let peer = node.peers.read().get(&instance).filter(|peer| peer.incarnation() != incarnation).cloned();
    let Some(peer) = peer else { return Ok(()) };
    let old: Vec<_> = peer.links().into_iter().map(|link| (link.received_len(), link)).collect();
    old.iter().for_each(|(_, link)| link.ping());
    node.wake_sweep();
    let deadline = clock::now() + node.limits.identity_probe_timeout;
    while old.iter().any(|(_, link)| link.end_reason().is_none()) {
        let is_late = clock::now() >= deadline;
        // A link that is not read now, or whose PING waits behind other octets, shows nothing either way.
        let lives = |(len, link): &(u64, Arc<Link>)| {
            link.end_reason().is_none()
                && (link.received_len() != *len || (is_late && (link.is_held() || link.is_writing())))
        };
        if old.iter().any(lives) {
            let reason = "another process claims the id of this peer, which is alive".to_owned();
            node.emit(LinkEvent::Refused { peer: instance, reason: reason.clone() });
            node.counters.identities_refused.increment(1);
            return Err(reason);
        }
        if is_late {
            break;
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    if old.iter().any(|(_, link)| link.end_reason().is_none()) {
        node.counters.limits.reached("identity_probe_timeout");
    }
    old.iter().for_each(|(_, link)| link.end(LinkEnd::Replaced));
    Ok(())
}

/// Whether `hello` is of the node that says `own` of itself.
pub(crate) fn is_same_start(hello: &Hello, own: &AmHello) -> bool {
    hello
        .own
        .as_ref()
        .is_some_and(|found| found.instance == own.instance && found.incarnation == own.incarnation)
}
