//! Deadlines and cancellation: what is late does not start, calls end with the call they are made in, and whoever
//! is cancelled hears of it.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{Gated, check_doubles, connect, end, linked, soon};
use dynamo_am::{ActiveMessageManager, CallError, Handler, HandlerError, Limits, Peer, Refusal, Reply};
use tokio::sync::{mpsc, watch};

async fn defaults() -> ([ActiveMessageManager; 2], Peer) {
    linked(Limits::default(), Limits::default()).await
}

#[tokio::test]
async fn a_call_without_time_left_is_not_run_and_says_so() {
    let (nodes, peer) = defaults().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let [a, b] = std::array::from_fn(|_| runs.clone());
    let inline = Handler::inline("inline", move |_cx, (): ()| Ok(a.fetch_add(1, Ordering::SeqCst)));
    let unary = Handler::unary("unary", move |_cx, (): ()| {
        b.fetch_add(1, Ordering::SeqCst);
        async { Ok(()) }
    });
    nodes[0].register(inline).unwrap();
    nodes[0].register(unary).unwrap();
    for name in ["inline", "unary"] {
        let message = nodes[1].client().active_message(name).deadline(Duration::ZERO).confirmed();
        let error = soon("an error", async { message.send(&peer).await?.ack().await }).await.unwrap_err();
        // Whoever finds it first, the caller or the peer.
        let is_it = matches!(
            error,
            CallError::DeadlineExceeded { .. } | CallError::Refused { reason: Refusal::Expired, .. }
        );
        assert!(is_it, "{error}");
        assert!(error.is_transient());
    }
    check_doubles(&peer).await;
    assert_eq!(runs.load(Ordering::SeqCst), 0);
    end(nodes).await;
}

#[tokio::test]
async fn what_is_late_when_its_turn_comes_is_not_run() {
    let (nodes, peer) = defaults().await;
    let (gate, opened) = watch::channel(false);
    let (began, mut begun) = mpsc::channel(64);
    let [a, b, c] = std::array::from_fn(|_| (opened.clone(), began.clone()));
    let pass = |mut gate: watch::Receiver<bool>| async move {
        gate.wait_for(|open| *open).await.map(|_| ()).map_err(HandlerError::from)
    };
    let handlers = [
        Handler::unary("unary", move |_cx, n: u8| {
            a.1.try_send(n).unwrap();
            pass(a.0.clone())
        })
        .limit(1),
        Handler::unary("ordered", move |_cx, n: u8| {
            b.1.try_send(n).unwrap();
            pass(b.0.clone())
        })
        .ordered(),
        Handler::deferred("deferred", move |_cx, n: u8, reply: Reply<()>| {
            c.1.try_send(n).unwrap();
            let gate = c.0.clone();
            tokio::spawn(async move {
                pass(gate).await.unwrap();
                reply.ok(&());
            });
        })
        .limit(1),
    ];
    let client = nodes[1].client();
    for handler in handlers {
        let name = handler.name().to_owned();
        nodes[0].register(handler).unwrap();
        let message = |n| client.active_message(&name).payload(n).confirmed();
        let first = message(&1u8).send(&peer).await.unwrap();
        assert_eq!(soon("the first", begun.recv()).await, Some(1), "{name}");
        let late = message(&2u8).deadline(Duration::from_millis(30)).send(&peer).await.unwrap();
        let last = message(&3u8).send(&peer).await.unwrap();
        let error = soon("the deadline", late.ack()).await.unwrap_err();
        assert!(matches!(error, CallError::DeadlineExceeded { .. }), "{name}: {error}");
        // The caller's Cancel has arrived when what was sent after it is answered.
        check_doubles(&peer).await;
        gate.send_replace(true);
        soon("the first", first.ack()).await.unwrap();
        soon("the last", last.ack()).await.unwrap();
        assert_eq!(soon("the last", begun.recv()).await, Some(3), "{name}: a late message was run");
        gate.send_replace(false);
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_handler_knows_the_time_left_and_its_calls_have_no_more() {
    const LIMIT: Duration = Duration::from_millis(100);
    let far = Gated::start(Limits::default()).await;
    let (nodes, peer) = defaults().await;
    let behind = connect(&nodes[0], &far.node).await.instance_id();
    let (told, mut tells) = mpsc::channel(1);
    let outer = Handler::unary("outer", move |cx, (): ()| {
        let told = told.clone();
        async move {
            let left = cx.time_left();
            let peer = cx.client().peer(behind).unwrap();
            // It asks for an hour, within a call that has less than a second.
            let call = cx.client().active_message("gated").payload(&5i64).deadline(Duration::from_secs(3600));
            let _ = told.try_send((left, call.confirmed().send(&peer).await?.ack().await));
            Ok(())
        }
    });
    nodes[0].register(outer).unwrap();
    let call = nodes[1].client().active_message("outer").deadline(LIMIT).confirmed();
    let call = call.send(&peer).await.unwrap();
    let (left, nested) = soon("the nested call's end", tells.recv()).await.unwrap();
    assert!(left <= LIMIT, "{left:?}");
    let error = nested.unwrap_err();
    // Its own deadline passes, or it hears first that the outer one has given up.
    let is_it = matches!(error, CallError::DeadlineExceeded { .. } | CallError::Cancelled { .. });
    assert!(is_it, "{error}");
    drop(call);
    far.gate.send_replace(true);
    end(nodes).await;
    end([far.node]).await;
}

#[tokio::test]
async fn cancelling_a_call_cancels_the_calls_that_were_made_in_it() {
    let (nodes, peer) = defaults().await;
    let far = common::server().await;
    let (events, mut seen) = mpsc::channel(8);
    let at_end = events.clone();
    let forever = Handler::unary("forever", move |cx, (): ()| {
        let events = at_end.clone();
        async move {
            events.send("begun").await?;
            cx.cancellation_token().cancelled().await;
            events.send("the inner one is cancelled").await?;
            Ok(())
        }
    });
    far.register(forever).unwrap();
    let behind = connect(&nodes[0], &far).await.instance_id();
    let outer = Handler::unary("outer", move |cx, (): ()| {
        let events = events.clone();
        async move {
            let error = cx.client().peer(behind).unwrap().confirm("forever", &()).await.unwrap_err();
            assert!(matches!(error, CallError::Cancelled { maybe_executed: true, .. }), "{error}");
            assert!(cx.is_cancelled() && !error.is_retry_safe());
            events.send("the outer one is told").await?;
            Ok(())
        }
    });
    nodes[0].register(outer).unwrap();
    let call = nodes[1].client().active_message("outer").confirmed().send(&peer).await.unwrap();
    assert_eq!(soon("the start", seen.recv()).await, Some("begun"));
    drop(call);
    let mut heard = [soon("one", seen.recv()).await.unwrap(), soon("other", seen.recv()).await.unwrap()];
    heard.sort_unstable();
    assert_eq!(heard, ["the inner one is cancelled", "the outer one is told"]);
    end(nodes).await;
    end([far]).await;
}

#[tokio::test]
async fn a_lost_link_cancels_what_its_peer_had_asked_for() {
    let (nodes, peer) = defaults().await;
    let (events, mut seen) = mpsc::channel(8);
    let forever = Handler::unary("forever", move |cx, (): ()| {
        let events = events.clone();
        async move {
            events.send("begun").await?;
            cx.cancelled().await;
            events.send("cancelled").await?;
            Ok(())
        }
    });
    nodes[0].register(forever).unwrap();
    let call = nodes[1].client().active_message("forever").confirmed().send(&peer).await.unwrap();
    assert_eq!(soon("the start", seen.recv()).await, Some("begun"));
    let [server, node] = nodes;
    drop(node);
    assert_eq!(soon("the cancellation", seen.recv()).await, Some("cancelled"));
    drop(call);
    end([server]).await;
}

#[tokio::test]
async fn a_cancelled_message_that_still_waits_is_not_run() {
    let (nodes, peer) = defaults().await;
    let (gate, opened) = watch::channel(false);
    let (began, mut begun) = mpsc::channel(8);
    let narrow = Handler::unary("narrow", move |_cx, n: u8| {
        began.try_send(n).unwrap();
        let mut opened = opened.clone();
        async move { opened.wait_for(|open| *open).await.map(|_| ()).map_err(HandlerError::from) }
    });
    nodes[0].register(narrow.limit(1)).unwrap();
    let client = nodes[1].client();
    let message = |n| client.active_message("narrow").payload(n).confirmed();
    let first = message(&1u8).send(&peer).await.unwrap();
    assert_eq!(soon("the start", begun.recv()).await, Some(1));
    drop(message(&2u8).send(&peer).await.unwrap());
    // What was sent before it has arrived when it is answered.
    check_doubles(&peer).await;
    gate.send_replace(true);
    soon("an ack", first.ack()).await.unwrap();
    soon("an ack", message(&3u8).send(&peer).await.unwrap().ack()).await.unwrap();
    assert_eq!(soon("the next", begun.recv()).await, Some(3), "a cancelled message was run");
    end(nodes).await;
}
