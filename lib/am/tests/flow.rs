//! Who waits for whom: senders wait for credit and for room, and only those who must.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Gated, caller, check_doubles, connect, double, end, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, Handler, HandlerError, Limits, LinkEvent, Peer, Raw, TrySendError,
};
use tokio::sync::{mpsc, watch};

const MIB: usize = 1 << 20;

/// A handler for raw payloads that ends when the gate opens, and tells when it starts.
fn gated_raw(gate: &watch::Receiver<bool>, started: &mpsc::Sender<()>) -> Handler {
    let (gate, started) = (gate.clone(), started.clone());
    Handler::unary("gated_raw", move |_cx, payload: Raw| {
        let mut gate = gate.clone();
        let _ = started.try_send(());
        async move { gate.wait_for(|open| *open).await.map(|_| payload.len()).map_err(HandlerError::from) }
    })
}

/// A server whose limits are those, with `gated_raw` and `double`; and a caller.
async fn two(
    limits: Limits,
    gate: &watch::Receiver<bool>,
) -> ([ActiveMessageManager; 2], Peer, mpsc::Receiver<()>) {
    let (started, starts) = mpsc::channel(64);
    let server =
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(limits).start().await.unwrap();
    server.register(gated_raw(gate, &started)).unwrap();
    server.register(double()).unwrap();
    let node = caller().await;
    let peer = connect(&node, &server).await;
    ([node, server], peer, starts)
}

#[tokio::test]
async fn senders_wait_for_credit_and_lose_nothing() {
    let (gate, opened) = watch::channel(false);
    let (nodes, peer, mut starts) = two(Limits { credit_messages: 4, ..Limits::default() }, &opened).await;
    let client = nodes[0].client();
    let payload = Raw::from("x");
    let message = || client.active_message("gated_raw").payload(&payload).expect_response::<usize>();
    let mut running = Vec::new();
    for _ in 0..4 {
        running.push(soon("credit", message().send(&peer)).await.unwrap());
        soon("the start", starts.recv()).await.unwrap();
    }
    let full = message().try_send(&peer).map(drop);
    assert!(matches!(full, Err(TrySendError::Full(_))), "{full:?}");
    let waiting: Vec<_> = (0..20)
        .map(|_| {
            let (peer, payload) = (peer.clone(), payload.clone());
            tokio::spawn(async move { peer.call::<usize>("gated_raw", &payload).await })
        })
        .collect();
    // One that gives up its place in the queue holds up nobody behind it.
    let dropped = message().send(&peer);
    {
        let mut dropped = std::pin::pin!(dropped);
        assert!(futures::poll!(&mut dropped).is_pending());
    }
    let expired = message().deadline(Duration::from_millis(20)).send(&peer);
    let error = soon("the deadline", expired).await.map(drop).unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { maybe_executed: false, .. }), "{error}");
    assert!(error.is_retry_safe());
    // The node's health is not hidden by its work.
    soon("the health", peer.call::<serde_json::Value>("_health_check", &())).await.unwrap();
    gate.send_replace(true);
    for call in running {
        assert_eq!(soon("an answer", call.response()).await, Ok(1));
    }
    for call in waiting {
        assert_eq!(soon("an answer", call).await.unwrap(), Ok(1));
    }
    end(nodes).await;
}

#[tokio::test]
async fn small_messages_pass_while_a_large_one_waits_for_credit() {
    let (gate, opened) = watch::channel(false);
    let (nodes, peer, mut starts) = two(Limits::default(), &opened).await;
    let large = Raw::from(vec![1u8; 40 * MIB]);
    let calls: Vec<_> = (0..3)
        .map(|_| {
            let (peer, large) = (peer.clone(), large.clone());
            tokio::spawn(async move { peer.call::<usize>("gated_raw", &large).await })
        })
        .collect();
    // The second drives the account of large payloads below zero, and the third waits.
    for _ in 0..2 {
        soon("the start of a large one", starts.recv()).await.unwrap();
    }
    for _ in 0..3 {
        check_doubles(&peer).await;
    }
    gate.send_replace(true);
    for call in calls {
        assert_eq!(soon("an answer", call).await.unwrap(), Ok(40 * MIB));
    }
    end(nodes).await;
}

#[tokio::test]
async fn other_messages_pass_while_system_calls_wait_for_credit() {
    let (_gate, opened) = watch::channel(false);
    let (nodes, peer, _starts) = two(Limits::default(), &opened).await;
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let peer = peer.clone();
            tokio::spawn(async move { peer.wait_for_handler("late", Duration::from_secs(3600)).await })
        })
        .collect();
    // All of them have been sent, or wait for their turn.
    tokio::task::yield_now().await;
    for _ in 0..3 {
        check_doubles(&peer).await;
    }
    nodes[1].register(Handler::inline("late", |_cx, (): ()| Ok(()))).unwrap();
    for call in waiting {
        assert_eq!(soon("the push", call).await.unwrap(), Ok(true));
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_busy_node_tells_its_health() {
    let (gate, opened) = watch::channel(false);
    let limits = Limits { credit_messages: 2, handler_concurrency: 1, ..Limits::default() };
    let (nodes, peer, mut starts) = two(limits, &opened).await;
    for _ in 0..2 {
        let peer = peer.clone();
        tokio::spawn(async move { peer.call::<usize>("gated_raw", &Raw::from("x")).await });
    }
    soon("the start", starts.recv()).await.unwrap();
    for _ in 0..200 {
        let health: serde_json::Value = soon("the health", peer.call("_health_check", &())).await.unwrap();
        assert_eq!(health["status"], "ok");
    }
    gate.send_replace(true);
    end(nodes).await;
}

/// A ROUTER that takes octets, slowly at first, and says nothing.
fn slow_taker(octets: Arc<AtomicUsize>, begin: std::sync::mpsc::Receiver<()>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1];
        greeting.extend_from_slice(b"NULL");
        greeting.resize(64, 0);
        stream.write_all(&greeting).unwrap();
        stream.write_all(b"\x04\x1C\x05READY\x0BSocket-Type\x00\x00\x00\x06ROUTER").unwrap();
        let _ = begin.recv();
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            octets.fetch_add(len, Ordering::Relaxed);
        }
    });
    endpoint
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_to_a_foreign_peer_goes_on_when_there_is_room_again() {
    let octets = Arc::new(AtomicUsize::new(0));
    let (begin, begun) = std::sync::mpsc::channel();
    let at = slow_taker(octets.clone(), begun);
    let node = caller().await;
    let peer = soon("connect", node.client().connect_foreign(at)).await.unwrap();
    const COUNT: usize = 32;
    let sending = tokio::spawn(async move {
        let payload = Raw::from(vec![1u8; 8 * MIB]);
        for _ in 0..COUNT {
            peer.notify("take", &payload).await?;
        }
        Ok::<_, CallError>(())
    });
    // It reads nothing until the sender cannot have any room left.
    tokio::task::yield_now().await;
    begin.send(()).unwrap();
    soon("room", sending).await.unwrap().unwrap();
    until("all have come", || octets.load(Ordering::Relaxed) >= COUNT * 8 * MIB).await;
    end([node]).await;
}

#[tokio::test]
async fn a_slow_receiver_slows_its_sender_and_nobody_else() {
    let mut gated = Gated::start(Limits { credit_messages: 8, ..Limits::default() }).await;
    gated.node.register(double()).unwrap();
    let (slow, quick) = (caller().await, caller().await);
    let (peer, other) = (connect(&slow, &gated.node).await, connect(&quick, &gated.node).await);
    let mut sent = 0;
    while slow.client().active_message("gated").payload(&1i64).try_send(&peer).is_ok() {
        sent += 1;
        assert!(sent <= 8, "more was sent than the receiver grants");
    }
    assert_eq!(sent, 8);
    for _ in 0..8 {
        soon("the start", gated.starts.recv()).await.unwrap();
    }
    for _ in 0..100 {
        check_doubles(&other).await;
    }
    gated.gate.send_replace(true);
    soon("room", peer.notify("gated", &2i64)).await.unwrap();
    end([slow, quick, gated.node]).await;
}

#[tokio::test]
async fn nested_calls_in_a_ring_end_with_an_error_and_not_in_a_deadlock() {
    let limits = || Limits { credit_messages: 1, ..Limits::default() };
    let node = || async move {
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(limits()).start().await.unwrap()
    };
    let nodes = [node().await, node().await];
    for node in &nodes {
        node.register(Handler::unary("ring", |cx, depth: u32| async move {
            let client = cx.client();
            let sender = client.peer(cx.sender().instance_id()).ok_or_else(|| HandlerError::msg("gone"))?;
            Ok(sender.call::<u32>("ring", &(depth + 1)).await?)
        }))
        .unwrap();
    }
    let there = connect(&nodes[0], &nodes[1]).await;
    let error = soon("the end of the ring", there.call::<u32>("ring", &0)).await.unwrap_err();
    assert!(matches!(error, CallError::HandlerError { .. }), "{error}");
    end(nodes).await;
}

#[tokio::test]
async fn a_peer_that_does_not_take_its_answers_is_closed_as_a_slow_consumer() {
    let limits = Limits {
        slow_consumer_timeout: Duration::from_millis(200),
        foreign_silence_max: Duration::from_secs(600),
        ..Limits::default()
    };
    let node = ActiveMessageManager::builder()
        .listen("tcp://127.0.0.1:0")
        .no_ipc()
        .limits(limits)
        .start()
        .await
        .unwrap();
    node.register(Handler::inline_raw("big", |_cx, _payload| Ok(Raw::from(vec![1; 1 << 20])))).unwrap();
    let mut events = node.client().link_events();
    let address = node.endpoints()[0].to_string();
    let mut socket = tokio::net::TcpStream::connect(address.strip_prefix("tcp://").unwrap()).await.unwrap();
    // A DEALER's greeting and READY, and 200 requests for a mebibyte each; then it never reads.
    let mut octets = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1];
    octets.extend_from_slice(b"NULL");
    octets.resize(64, 0);
    octets.extend_from_slice(b"\x04\x1C\x05READY\x0BSocket-Type\0\0\0\x06DEALER");
    for number in 0..200u64 {
        octets.extend_from_slice(&[0, 19, 1, 1, 2, 0, 0, 3, 0, 0]);
        octets.extend_from_slice(&number.to_be_bytes());
        octets.extend_from_slice(b"big");
    }
    tokio::io::AsyncWriteExt::write_all(&mut socket, &octets).await.unwrap();
    let reason = soon("the link's end", async {
        loop {
            if let Some(LinkEvent::Down { reason, .. }) = events.next().await {
                break reason;
            }
        }
    })
    .await;
    assert!(reason.contains("does not read"), "{reason}");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_small_message_is_taken_while_a_large_one_is_on_its_way() {
    let (nodes, peer) = common::linked(Limits::default(), Limits::default()).await;
    let server = &nodes[0];
    server.register(Handler::inline_raw("size", |_cx, payload| Ok(payload.len()))).unwrap();
    let client = nodes[1].client();
    let payload = Raw::from(vec![7; 64 * MIB]);
    let large = client.active_message("size").payload(&payload).expect_response::<usize>();
    let large = soon("room", large.send(&peer)).await.unwrap();
    for n in 0..100_i64 {
        let small = client.active_message("double").payload(&n).expect_response::<i64>().try_send(&peer);
        assert_eq!(soon("a small answer", small.unwrap().response()).await, Ok(2 * n));
    }
    assert_eq!(soon("the large answer", large.response()).await, Ok(64 * MIB));
    end(nodes).await;
}
