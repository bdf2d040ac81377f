//! Dialling a lost peer again until it is back, or given up.

use std::sync::Arc;

use super::accept::check_identity;
use super::link_task::{Origin, Shaken, start_link};
use super::network_client::{Dialled, dial_until};
use super::node::Node;
use super::peer::PeerCore;
use crate::api::link_event::LinkEvent;
use crate::api::port::{Port, PortError};
use crate::endpoint::Endpoint;
use crate::wire::zmtp::handshake::Role;
use crate::wire::zmtp::properties::Hello;

/// Starts to dial a lost peer again. Pauses grow from one loss to the next, until a link has lasted.
pub(crate) fn redial(node: &Arc<Node>, peer: &Arc<PeerCore>, endpoints: Vec<Endpoint>, is_foreign: bool) {
    let (owner, peer) = (node.clone(), peer.clone());
    node.spawner.spawn(async move {
        loop {
            tokio::time::sleep(peer.next_redial_wait(owner.chance.number())).await;
            if !peer.is_redialled() || owner.is_draining() {
                // Another link may have come meanwhile; its end sees to the rest.
                if peer.links().is_empty() {
                    owner.forget(&peer);
                }
                return;
            }
            if peer.link().is_some_and(|link| link.is_usable()) {
                return;
            }
            match redial_once(&owner, &peer, &endpoints, is_foreign).await {
                Ok(()) => return,
                Err((reason, is_permanent)) => {
                    owner.counters.redials_failed.increment(1);
                    owner.emit(LinkEvent::RedialFailed { peer: peer.instance(), reason });
                    if is_permanent {
                        peer.redial_slowly();
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
        let Dialled { stream, hello, leftover, grant, becoming } =
            match dial_until(node, endpoint, role, deadline).await {
                Ok(dialled) => dialled,
                Err(error) => {
                    last = (error.text(), error.is_permanent());
                    continue;
                }
            };
        let found = hello.own.as_ref().map_or(peer.instance(), |own| own.instance);
        if found != peer.instance() {
            node.emit(LinkEvent::Replaced { old: peer.instance(), new: found });
            peer.give_up(PortError::Gone(format!("instance {found} answers at {endpoint} now")));
            node.forget(peer);
            // It may have begun to send on this stream, so it is a peer now, which is not dialled again.
            let is_welcome = node.has_room_for_link() && is_another(node, &hello).await;
            if is_welcome {
                let origin = Origin::Dialled { endpoints: endpoints.to_vec(), is_foreign };
                start_link(
                    node,
                    Shaken { stream, hello, leftover, grant, origin, is_shortcut: false, becoming },
                    found,
                );
            }
            return Ok(());
        }
        let origin = Origin::Dialled { endpoints: endpoints.to_vec(), is_foreign };
        // The peer may have been forgotten meanwhile; those who hold it wait for this link.
        node.peers.write().entry(found).or_insert_with(|| peer.clone());
        let shaken = Shaken { stream, hello, leftover, grant, origin, is_shortcut: false, becoming };
        start_link(node, shaken, found).set_redialled(true);
        return Ok(());
    }
    Err(last)
}

/// Whether a node that answered in the place of a peer is another one, and no thief of an id.
async fn is_another(node: &Node, hello: &Hello) -> bool {
    match &hello.own {
        Some(own) if own.instance != node.instance => {
            check_identity(node, own.instance, own.incarnation).await.is_ok()
        }
        _ => false,
    }
}
