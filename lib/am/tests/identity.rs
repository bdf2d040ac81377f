//! Who a peer is: a process that claims the id of a live one is turned away, and one that has come back is let in.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::time::{Duration, Instant};

use common::{check_doubles, double, end, next_event, soon, until};
use dynamo_am::{ActiveMessageManager, InstanceId, Limits, LinkEvent};

fn id() -> InstanceId {
    InstanceId::from_bytes([7; 16]).unwrap()
}

async fn named() -> ActiveMessageManager {
    let node = ActiveMessageManager::builder().identity(id()).no_ipc().start().await.unwrap();
    node.register(double()).unwrap();
    node
}

async fn server() -> ActiveMessageManager {
    let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().start().await.unwrap();
    node.register(double()).unwrap();
    node
}

#[tokio::test]
async fn a_process_that_claims_the_id_of_a_live_peer_is_refused_and_the_peer_keeps_its_link() {
    let server = server().await;
    let mut events = server.client().link_events();
    let honest = named().await;
    let peer = soon("connect", honest.client().connect(&server.endpoints()[0])).await.unwrap();
    assert!(matches!(next_event(&mut events).await, LinkEvent::Up { peer, .. } if peer == id()));
    let thief = named().await;
    let refused = soon("a refusal", thief.client().connect(&server.endpoints()[0])).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(matches!(next_event(&mut events).await, LinkEvent::Refused { peer, .. } if peer == id()));
    check_doubles(&peer).await;
    check_doubles(&server.client().peer(id()).unwrap()).await;
    // When the honest one is gone, its id may be taken up again.
    end([honest]).await;
    until("the old link's end", || server.client().peer(id()).is_none()).await;
    let peer = soon("connect", thief.client().connect(&server.endpoints()[0])).await.unwrap();
    check_doubles(&peer).await;
    end([thief, server]).await;
}

#[tokio::test]
async fn nobody_is_let_in_under_the_nodes_own_id() {
    let server = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").identity(id()).no_ipc();
    let server = server.start().await.unwrap();
    let mut events = server.client().link_events();
    let clone = named().await;
    let refused = soon("a refusal", clone.client().connect(&server.endpoints()[0])).await;
    assert!(refused.is_err(), "{refused:?}");
    assert!(matches!(next_event(&mut events).await, LinkEvent::Refused { peer, .. } if peer == id()));
    end([clone, server]).await;
}

#[tokio::test]
async fn a_dial_that_nobody_answers_ends_within_its_own_limit() {
    // A listener whose backlog is full answers no SYN.
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    full.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
    full.listen(1).unwrap();
    let address = full.local_addr().unwrap().as_socket().unwrap();
    let mut fillers = Vec::new();
    while let Ok(filler) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        fillers.push(filler);
        assert!(fillers.len() < 64, "the backlog is never full");
    }
    let limits = Limits { dial_timeout: Duration::from_millis(100), ..Limits::default() };
    let node = ActiveMessageManager::builder().limits(limits).start().await.unwrap();
    let began = Instant::now();
    let failed = soon("its end", node.client().connect(format!("tcp://{address}"))).await.unwrap_err();
    assert!(failed.to_string().contains("nothing answers within 100 ms"), "{failed}");
    assert!(began.elapsed() < Limits::default().connect_timeout);
    end([node]).await;
}
