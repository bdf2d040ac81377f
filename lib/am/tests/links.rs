//! How peers come and go: one link for two nodes however they connect, and a known set that follows it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::time::Duration;

use common::{Gated, caller, check_doubles, connect, double, end, next_event, server, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, ConnectError, Endpoint, Handler, HandlerError, InstanceId, Limits,
    LinkEvent, Peer,
};

#[tokio::test]
async fn a_client_keeps_no_node_alive() {
    let node = server().await;
    node.register(double()).unwrap();
    // A handler that holds its own node's client must not keep it either.
    let client = node.client();
    node.register(Handler::unary("own", move |_cx, (): ()| {
        let client = client.clone();
        async move { Ok(client.peers().len()) }
    }))
    .unwrap();
    let other = caller().await;
    let mut events = other.client().link_events();
    let peer = connect(&other, &node).await;
    check_doubles(&peer).await;
    let kept = node.client();
    drop(node);
    soon("the loss", async { while !matches!(events.next().await, Some(LinkEvent::Down { .. })) {} }).await;
    assert!(kept.peers().is_empty());
    end([other]).await;
}

#[tokio::test]
async fn connecting_again_gives_the_same_peer_and_disturbs_nothing() {
    let mut gated = Gated::start(Limits::default()).await;
    gated.node.register(double()).unwrap();
    let other = caller().await;
    let peer = connect(&other, &gated.node).await;
    check_doubles(&peer).await;
    let mut events = [other.client().link_events(), gated.node.client().link_events()];
    let running = gated.call(&peer).await;
    for at in gated.node.endpoints() {
        for _ in 0..3 {
            let again = soon("connect", other.client().connect(at)).await.unwrap();
            assert_eq!(again.instance_id(), peer.instance_id());
            check_doubles(&again).await;
        }
    }
    assert_eq!(other.client().peers().len(), 1);
    assert_eq!(gated.node.client().peers().len(), 1);
    gated.gate.send_replace(true);
    assert_eq!(soon("the first link's answer", running).await.unwrap(), Ok(5));
    for events in &mut events {
        let event = futures::FutureExt::now_or_never(events.next());
        assert!(event.is_none(), "{event:?}");
    }
    end([other, gated.node]).await;
}

#[tokio::test]
async fn connecting_from_many_tasks_at_once_gives_one_peer() {
    let node = server().await;
    node.register(double()).unwrap();
    let other = caller().await;
    let client = other.client();
    let connecting = (0..8).map(|_| client.connect(&node.endpoints()[0]));
    for peer in soon("connects", futures::future::join_all(connecting)).await {
        check_doubles(&peer.unwrap()).await;
    }
    assert_eq!(client.peers().len(), 1);
    assert_eq!(node.client().peers().len(), 1);
    end([other, node]).await;
}

#[tokio::test]
async fn connecting_to_oneself_gives_oneself() {
    let node = server().await;
    node.register(double()).unwrap();
    let mut events = node.client().link_events();
    for at in node.endpoints() {
        let me = soon("connect", node.client().connect(at)).await.unwrap();
        assert_eq!(me.instance_id(), node.instance_id());
        check_doubles(&me).await;
    }
    assert!(node.client().peers().is_empty(), "oneself is no peer in the list");
    assert!(futures::FutureExt::now_or_never(events.next()).is_none());
    end([node]).await;
}

#[tokio::test]
async fn a_node_with_the_same_id_is_no_peer() {
    let node = server().await;
    let clone = ActiveMessageManager::builder().identity(node.instance_id()).start().await.unwrap();
    let error = soon("the failure", clone.client().connect(&node.endpoints()[0])).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    assert!(node.client().peers().is_empty() && clone.client().peers().is_empty());
    end([node, clone]).await;
}

/// An endpoint where nobody listens.
async fn dead_endpoint() -> Endpoint {
    let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().start().await.unwrap();
    let endpoint = node.endpoints()[0].clone();
    end([node]).await;
    endpoint
}

#[tokio::test]
async fn connecting_to_nobody_fails_at_once_and_lists_each_attempt() {
    // The deadline is far away, so it is not what ends a connect.
    let patient = Limits { connect_timeout: Duration::from_secs(3600), ..Limits::default() };
    let node = ActiveMessageManager::builder().limits(patient).start().await.unwrap();
    let client = node.client();
    let dead =
        [dead_endpoint().await, "ipc:///nowhere/at/all".parse().unwrap(), "inproc://nobody".parse().unwrap()];
    for at in &dead {
        let error = soon("the failure", client.connect(at)).await.unwrap_err();
        let ConnectError::Unreachable { attempts } = &error else { panic!("{error}") };
        assert_eq!(attempts.iter().map(|attempt| &attempt.endpoint).collect::<Vec<_>>(), [at]);
        assert!(error.to_string().contains(&at.to_string()), "{error}");
    }
    let error = soon("the failure", client.connect_any(&dead)).await.unwrap_err();
    let ConnectError::Unreachable { attempts } = &error else { panic!("{error}") };
    let tried: Vec<_> = attempts.iter().map(|attempt| attempt.endpoint.clone()).collect();
    assert_eq!(tried, [dead[1].clone(), dead[0].clone(), dead[2].clone()], "ipc first, then in order");
    for text in ["", "tcp://", "127.0.0.1:5", "udp://127.0.0.1:5", "tcp://127.0.0.1:port"] {
        let error = soon("the failure", client.connect(text)).await.unwrap_err();
        assert!(matches!(error, ConnectError::Endpoint(_)), "{text}: {error}");
    }
    end([node]).await;
}

#[tokio::test]
async fn connect_any_takes_the_first_that_answers() {
    let node = server().await;
    node.register(double()).unwrap();
    let other = caller().await;
    let endpoints = [dead_endpoint().await, node.endpoints()[0].clone()];
    check_doubles(&soon("connect", other.client().connect_any(endpoints)).await.unwrap()).await;
    end([other, node]).await;
}

#[tokio::test]
async fn connect_as_refuses_another_instance() {
    let node = server().await;
    node.register(double()).unwrap();
    let other = caller().await;
    let wanted: InstanceId = "5d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c11".parse().unwrap();
    let at = &node.endpoints()[0];
    let error = soon("the failure", other.client().connect_as(wanted, at)).await.unwrap_err();
    let ConnectError::WrongInstance { expected, found, .. } = error else { panic!("{error}") };
    assert_eq!((expected, found), (wanted, node.instance_id()));
    let peer = soon("connect", other.client().connect_as(node.instance_id(), at)).await.unwrap();
    check_doubles(&peer).await;
    end([other, node]).await;
}

#[tokio::test]
async fn peers_and_link_events_follow_connects_and_disconnects() {
    let (node, other) = (server().await, caller().await);
    node.register(double()).unwrap();
    let (near, far) = (other.client(), node.client());
    let (mut near_events, mut far_events) = (near.link_events(), far.link_events());
    let ids = [other.instance_id(), node.instance_id()];
    for _ in 0..3 {
        let peer = connect(&other, &node).await;
        assert_eq!(next_event(&mut near_events).await, LinkEvent::Up { peer: ids[1], is_own: true });
        assert_eq!(next_event(&mut far_events).await, LinkEvent::Up { peer: ids[0], is_own: true });
        assert_eq!(near.peers().iter().map(Peer::instance_id).collect::<Vec<_>>(), [ids[1]]);
        assert_eq!(far.peers().iter().map(Peer::instance_id).collect::<Vec<_>>(), [ids[0]]);
        assert!(near.peer(ids[1]).is_some_and(|peer| peer.is_connected()) && far.peer(ids[0]).is_some());
        check_doubles(&peer).await;
        soon("disconnect", near.disconnect(&peer)).await;
        assert!(near.peers().is_empty() && near.peer(ids[1]).is_none() && !peer.is_connected());
        let down = next_event(&mut far_events).await;
        assert!(matches!(down, LinkEvent::Down { peer, .. } if peer == ids[0]), "{down:?}");
        assert!(far.peers().is_empty() && far.peer(ids[0]).is_none());
        let down = next_event(&mut near_events).await;
        assert!(matches!(down, LinkEvent::Down { peer, .. } if peer == ids[1]), "{down:?}");
        let error = soon("the failure", peer.call::<i64>("double", &1)).await.unwrap_err();
        assert!(matches!(error, CallError::NotSent { .. }), "{error}");
    }
    end([other, node]).await;
}

#[tokio::test]
async fn calls_that_run_when_their_peer_is_disconnected_get_their_answers() {
    let mut gated = Gated::start(Limits::default()).await;
    let other = caller().await;
    let peer = connect(&other, &gated.node).await;
    let running = gated.call(&peer).await;
    other.client().disconnect(&peer).await;
    gated.gate.send_replace(true);
    assert_eq!(soon("the answer", running).await.unwrap(), Ok(5));
    end([other, gated.node]).await;
}

#[tokio::test]
async fn a_peer_that_listens_nowhere_is_called_over_its_own_link() {
    let (node, other) = (server().await, caller().await);
    other.register(double()).unwrap();
    node.register(Handler::unary("relay", |cx, n: i64| async move {
        let client = cx.client();
        let sender = client.peer(cx.sender().instance_id()).ok_or_else(|| HandlerError::msg("no peer"))?;
        Ok(sender.call::<i64>("double", &n).await?)
    }))
    .unwrap();
    let peer = connect(&other, &node).await;
    assert_eq!(soon("an answer", peer.call::<i64>("relay", &4)).await, Ok(8));
    end([other, node]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_that_connect_to_each_other_at_once_end_with_one_usable_peer_each() {
    for round in 0..40 {
        let nodes = match round % 2 {
            0 => [server().await, server().await],
            _ => {
                let listen = || ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().start();
                [listen().await.unwrap(), listen().await.unwrap()]
            }
        };
        for node in &nodes {
            node.register(double()).unwrap();
        }
        let clients = [nodes[0].client(), nodes[1].client()];
        let (a, b) = soon("both connects", async {
            tokio::join!(
                clients[0].connect(&nodes[1].endpoints()[0]),
                clients[1].connect(&nodes[0].endpoints()[0])
            )
        })
        .await;
        let (a, b) = (a.unwrap(), b.unwrap());
        for n in 0..20 {
            let answers = soon("answers", async {
                tokio::join!(a.call::<i64>("double", &n), b.call::<i64>("double", &n))
            })
            .await;
            assert_eq!(answers, (Ok(2 * n), Ok(2 * n)), "round {round}");
        }
        assert_eq!(clients[0].peers().len(), 1, "round {round}");
        assert_eq!(clients[1].peers().len(), 1, "round {round}");
        end(nodes).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_holds_while_two_nodes_connect_to_each_other_at_once() {
    for _ in 0..20 {
        let nodes = [server().await, server().await];
        let (seen, mut numbers) = tokio::sync::mpsc::channel(4096);
        nodes[1]
            .register(Handler::inline("count", move |_cx, n: u32| {
                seen.try_send(n).map_err(|_| HandlerError::msg("full"))
            }))
            .unwrap();
        let clients = [nodes[0].client(), nodes[1].client()];
        let sending = async {
            let peer = clients[0].connect(&nodes[1].endpoints()[0]).await.unwrap();
            for n in 0..1000 {
                peer.notify("count", &n).await.unwrap();
            }
        };
        let connecting = async { clients[1].connect(&nodes[0].endpoints()[0]).await.unwrap() };
        soon("sending and connecting", async { tokio::join!(sending, connecting) }).await;
        for n in 0..1000 {
            assert_eq!(soon("a message", numbers.recv()).await, Some(n));
        }
        end(nodes).await;
    }
}

/// Established tcp connections of this machine that have that port at one end.
fn connections_of(port: u16) -> usize {
    let is_ours = |address: &str| address.ends_with(&format!(":{port:04X}"));
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|row| row.split_whitespace().collect::<Vec<_>>());
    const ESTABLISHED: &str = "01";
    rows.filter(|row| row[3] == ESTABLISHED && (is_ours(row[1]) || is_ours(row[2]))).count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_on_the_same_host_is_reached_by_ipc() {
    let node = server().await;
    node.register(double()).unwrap();
    let port: u16 = node.endpoints()[0].to_string().rsplit(':').next().unwrap().parse().unwrap();
    let plain = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
    let peer = connect(&plain, &node).await;
    check_doubles(&peer).await;
    // The table is read while others change it, so a row may stand there twice.
    until("the link has its two ends in the table", || connections_of(port) == 2).await;
    end([plain]).await;
    until("the connection has ended", || connections_of(port) == 0).await;
    let other = caller().await;
    let mut events = node.client().link_events();
    let peer = connect(&other, &node).await;
    until("the tcp connection is left for the ipc one", || connections_of(port) == 0).await;
    check_doubles(&peer).await;
    until("the call has not brought it back", || connections_of(port) == 0).await;
    // To the outside it is one link all the time.
    assert!(matches!(next_event(&mut events).await, LinkEvent::Up { .. }));
    let event = futures::FutureExt::now_or_never(events.next());
    assert!(event.is_none(), "{event:?}");
    assert_eq!((other.client().peers().len(), node.client().peers().len()), (1, 1));
    end([other, node]).await;
}

#[tokio::test]
async fn a_probe_leaves_no_link() {
    let (node, other) = (server().await, caller().await);
    let mut events = other.client().link_events();
    let probe = soon("the probe", other.client().probe(&node.endpoints()[0])).await.unwrap();
    assert_eq!(probe.instance, node.instance_id());
    assert_eq!(probe.endpoints, node.endpoints().iter().map(ToString::to_string).collect::<Vec<_>>());
    assert!(other.client().peers().is_empty());
    until("the server has forgotten it", || node.client().peers().is_empty()).await;
    assert!(futures::FutureExt::now_or_never(events.next()).is_none());
    let error = soon("the failure", other.client().probe(dead_endpoint().await)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error}");
    end([other, node]).await;
}

#[tokio::test]
async fn a_peer_that_dialled_us_can_be_dialled_back() {
    let ids: [InstanceId; 2] = [
        "1d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c11".parse().unwrap(),
        "ed1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c11".parse().unwrap(),
    ];
    // Which of two crossing links stays is a matter of the ids, so each of the two begins once.
    for [first, second] in [ids, [ids[1], ids[0]]] {
        let node =
            |id| ActiveMessageManager::builder().identity(id).listen("tcp://127.0.0.1:0").no_ipc().start();
        let nodes = [node(first).await.unwrap(), node(second).await.unwrap()];
        for node in &nodes {
            node.register(double()).unwrap();
        }
        let there = connect(&nodes[0], &nodes[1]).await;
        check_doubles(&there).await;
        let back = connect(&nodes[1], &nodes[0]).await;
        for _ in 0..100 {
            check_doubles(&there).await;
            check_doubles(&back).await;
        }
        assert_eq!((nodes[0].client().peers().len(), nodes[1].client().peers().len()), (1, 1));
        end(nodes).await;
    }
}
