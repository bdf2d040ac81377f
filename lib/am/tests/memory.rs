//! What a node holds for its peers is bounded by one budget, and given back when it is no longer needed.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{check_doubles, connect, end, linked, next_event, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, Handler, Limits, LinkEvent, MessageStatus, Raw, TrySendError,
    WithResponse,
};

const KIB: usize = 1024;

/// Room for the grants of a few links, and for 300 KiB besides.
fn narrow() -> Limits {
    Limits { budget_len_max: 512 * KIB as u64, ..Limits::default() }
}

fn large_answers() -> Handler {
    Handler::unary("large", |_cx, (): ()| async move { Ok(Raw::from(vec![7; 100 * KIB])) })
}

#[tokio::test]
async fn answers_that_nobody_takes_use_up_the_budget_and_the_rest_is_discarded_with_an_error() {
    let (nodes, peer) = linked(Limits::default(), narrow()).await;
    nodes[0].register(large_answers()).unwrap();
    let client = nodes[1].client();
    let mut calls: Vec<MessageStatus<WithResponse<Raw>>> = Vec::new();
    for _ in 0..12 {
        let message = client.active_message("large").payload(&()).expect_response::<Raw>();
        calls.push(soon("room to send", message.send(&peer)).await.unwrap());
    }
    let (mut kept, mut discarded) = (0, 0);
    // The last ones first: their answers came when the budget was used up.
    for call in calls.into_iter().rev() {
        match soon("an end", call.response()).await {
            Ok(answer) => {
                assert_eq!(answer.len(), 100 * KIB);
                kept += 1;
            }
            Err(error @ CallError::Overloaded { maybe_executed: true, .. }) => {
                assert!(error.is_transient() && !error.is_retry_safe());
                discarded += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(kept >= 1 && discarded >= 1, "{kept} kept, {discarded} discarded");
    // With all taken there is room again.
    for _ in 0..20 {
        let answer = soon("an answer", peer.call::<Raw>("large", &())).await.unwrap();
        assert_eq!(answer.len(), 100 * KIB);
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_peer_that_takes_nothing_fills_its_share_and_senders_wait_until_it_takes_again() {
    let (nodes, peer) = linked(Limits::default(), narrow()).await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    nodes[0]
        .register(Handler::unary("gated", move |_cx, _payload: Raw| {
            let mut opened = opened.clone();
            async move {
                let _ = opened.wait_for(|open| *open).await;
                Ok(())
            }
        }))
        .unwrap();
    let client = nodes[1].client();
    let payload = Raw::from(vec![1; 60 * KIB]);
    let mut calls = Vec::new();
    loop {
        let message = client.active_message("gated").payload(&payload).expect_response::<()>();
        match message.try_send(&peer) {
            Ok(status) => calls.push(status),
            Err(TrySendError::Full(_)) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(calls.len() < 1000, "nothing bounds what is queued");
    }
    let waiting = {
        let message = client.active_message("gated").payload(&payload).expect_response::<()>();
        message.send(&peer).await
    };
    gate.send_replace(true);
    assert_eq!(soon("the one that waited", waiting.unwrap().response()).await, Ok(()));
    for call in calls {
        assert_eq!(soon("an answer", call.response()).await, Ok(()));
    }
    end(nodes).await;
}

#[tokio::test]
async fn many_links_share_the_budget_and_each_gets_through() {
    let limits = Limits { budget_len_max: 2 << 20, ..Limits::default() };
    let server =
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().limits(limits).start().await;
    let server = server.unwrap();
    server.register(common::double()).unwrap();
    let mut nodes = Vec::new();
    for _ in 0..40 {
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let peer = connect(&node, &server).await;
        check_doubles(&peer).await;
        nodes.push((node, peer));
    }
    for (_, peer) in &nodes {
        check_doubles(peer).await;
    }
    end(nodes.into_iter().map(|(node, _)| node)).await;
    end([server]).await;
}

#[tokio::test]
async fn a_link_without_memory_for_the_smallest_grant_is_closed_and_works_once_there_is_some() {
    let limits = Limits { budget_len_max: 64 * KIB as u64, ..Limits::default() };
    let server =
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().limits(limits).start().await;
    let server = server.unwrap();
    server.register(common::double()).unwrap();
    let mut nodes = Vec::new();
    let refused = loop {
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        match soon("connect", node.client().connect(&server.endpoints()[0])).await {
            Ok(peer) => check_doubles(&peer).await,
            Err(_) => break node,
        }
        nodes.push(node);
        assert!(nodes.len() < 10, "64 KiB are no more than four grants");
    };
    assert!(!nodes.is_empty());
    end(nodes).await;
    until("the grants are back", || server.client().peers().is_empty()).await;
    let peer = connect(&refused, &server).await;
    check_doubles(&peer).await;
    end([refused, server]).await;
}

#[tokio::test]
async fn the_end_of_a_link_says_what_became_of_one_way_messages() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let [server, node] = nodes;
    let (started, mut starts) = tokio::sync::mpsc::channel(16);
    server
        .register(Handler::message("never_ends", move |_cx, _payload: Raw| {
            let _ = started.try_send(());
            std::future::pending()
        }))
        .unwrap();
    let mut events = node.client().link_events();
    for _ in 0..5 {
        soon("room", peer.notify("never_ends", &Raw::from("x"))).await.unwrap();
        soon("its start", starts.recv()).await.unwrap();
    }
    drop(server);
    let down = loop {
        if let event @ LinkEvent::Down { .. } = next_event(&mut events).await {
            break event;
        }
    };
    let LinkEvent::Down { one_way_unsent, one_way_maybe_lost, .. } = down else { unreachable!() };
    assert_eq!((one_way_unsent, one_way_maybe_lost), (0, Some(5)));
    end([node]).await;
}

#[test]
fn a_node_that_ends_keeps_nothing_of_what_waited_for_its_handlers() {
    let token = Arc::new(());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let (one, two) = (token.clone(), token.clone());
        node.register(
            Handler::unary("narrow", move |_cx, (): ()| {
                let held = one.clone();
                async move {
                    std::future::pending::<()>().await;
                    drop(held);
                    Ok(())
                }
            })
            .limit(1),
        )
        .unwrap();
        let batched = Handler::batched("batched", move |_jobs: Vec<()>| {
            let held = two.clone();
            async move {
                drop(held);
                Ok(())
            }
        });
        node.register(batched.batch(100, Duration::from_secs(60))).unwrap();
        let myself = node.client().myself();
        for name in ["narrow", "narrow", "batched", "batched"] {
            soon("room", myself.notify(name, &())).await.unwrap();
        }
        // What was sent has come, and waits.
        soon("a later answer", myself.call::<serde_json::Value>("_health_check", &())).await.unwrap();
        drop(node);
    });
    drop(runtime);
    assert_eq!(Arc::strong_count(&token), 1);
}
