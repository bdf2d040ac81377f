//! What a node tells of itself and lets others ask of it: handlers, their events, and the system handlers.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::time::Duration;

use common::{caller, connect, double, end, endpoint, next_event, server, soon};
use dynamo_am::{
    ActiveMessageManager, CallError, Handler, HandlerEvent, LinkEvent, Raw, Refusal, RegisterError,
    ShutdownPolicy,
};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn wait_for_handler_hears_of_a_registration_at_once() {
    let (node, other) = (server().await, caller().await);
    let peer = connect(&other, &node).await;
    let long = Duration::from_secs(3600);
    let remote = tokio::spawn({
        let peer = peer.clone();
        async move { peer.wait_for_handler("double", long).await }
    });
    let mut local = Box::pin(node.wait_for_handler("double", long));
    assert!(futures::poll!(&mut local).is_pending());
    // The request is there before one that was sent after it is answered... by the same link, in order.
    tokio::task::yield_now().await;
    let listed: serde_json::Value = soon("a list", peer.call("_list_handlers", &())).await.unwrap();
    assert!(!listed.to_string().contains("double"));
    node.register(double()).unwrap();
    assert!(soon("the local push", local).await);
    assert_eq!(soon("the push", remote).await.unwrap(), Ok(true));
    assert_eq!(soon("at once", peer.wait_for_handler("double", long)).await, Ok(true));
    assert!(soon("at once", node.wait_for_handler("double", long)).await);
    let short = Duration::from_millis(20);
    assert_eq!(soon("the timeout", peer.wait_for_handler("nobody", short)).await, Ok(false));
    assert!(!soon("the timeout", node.wait_for_handler("nobody", short)).await);
    let waiting = tokio::spawn(async move { peer.wait_for_handler("nobody", long).await });
    tokio::task::yield_now().await;
    end([node]).await;
    let ended = soon("the drain's answer", waiting).await.unwrap();
    assert!(!matches!(ended, Ok(true)), "{ended:?}");
    end([other]).await;
}

#[tokio::test]
async fn handler_events_begin_with_a_snapshot_and_end_with_the_node() {
    let node = server().await;
    node.register(double()).unwrap();
    let mut events = node.handler_events();
    node.register(Handler::inline("triple", |_cx, n: i64| Ok(n * 3))).unwrap();
    let snapshot = soon("the snapshot", events.next()).await.unwrap();
    assert_eq!(snapshot, HandlerEvent::Snapshot(vec!["double".into(), "triple".into()]));
    assert!(matches!(node.register(double()), Err(RegisterError::Taken { name }) if name == "double"));
    assert!(node.unregister("double") && !node.unregister("double"));
    node.register(double().replace()).unwrap();
    node.register(double().replace()).unwrap();
    for expected in [
        HandlerEvent::Unregistered("double".into()),
        HandlerEvent::Registered("double".into()),
        HandlerEvent::Registered("double".into()),
    ] {
        assert_eq!(soon("an event", events.next()).await, Some(expected));
    }
    // A reader that lags gets a fresh snapshot instead.
    for _ in 0..1000 {
        node.unregister("double");
        node.register(double()).unwrap();
    }
    let snapshot = soon("a fresh snapshot", events.next()).await.unwrap();
    assert_eq!(snapshot, HandlerEvent::Snapshot(vec!["double".into(), "triple".into()]));
    end([node]).await;
}

#[tokio::test]
async fn handler_events_end_with_the_node() {
    let node = server().await;
    let mut events = node.handler_events();
    assert!(matches!(soon("the snapshot", events.next()).await, Some(HandlerEvent::Snapshot(_))));
    end([node]).await;
    assert_eq!(soon("the end", events.next()).await, None);
}

#[tokio::test]
async fn an_option_that_a_kind_of_handler_lacks_is_an_error_of_register() {
    let node = caller().await;
    let misfits = [
        double().limit(3),
        double().ordered(),
        double().batch(3, Duration::from_millis(1)),
        Handler::blocking("b", |_cx, (): ()| Ok(())).ordered(),
        Handler::batched("c", |_: Vec<i64>| async { Ok(()) }).ordered(),
    ];
    for handler in misfits {
        assert!(matches!(node.register(handler), Err(RegisterError::Option { .. })));
    }
    assert!(node.handlers().is_empty());
    end([node]).await;
}

#[tokio::test]
async fn a_shutdown_is_requested_only_by_whom_the_policy_allows() {
    for (policy, scheme, allowed) in [
        (ShutdownPolicy::Nobody, "tcp:", false),
        (ShutdownPolicy::Nobody, "ipc:", false),
        (ShutdownPolicy::Local, "tcp:", true),
        (ShutdownPolicy::Local, "ipc:", true),
        (ShutdownPolicy::Anybody, "tcp:", true),
    ] {
        let node = ActiveMessageManager::builder()
            .listen("tcp://127.0.0.1:0")
            .allow_shutdown(policy)
            .start()
            .await
            .unwrap();
        let other = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let peer = soon("connect", other.client().connect(endpoint(&node, scheme))).await.unwrap();
        let asked = soon("the answer", peer.call::<Raw>("_request_shutdown", &())).await;
        if allowed {
            asked.unwrap();
            let request = soon("the request", node.shutdown_requested()).await;
            assert_eq!(request.by, other.instance_id());
        } else {
            let error = asked.unwrap_err();
            assert!(matches!(error, CallError::Refused { reason: Refusal::Unauthorized, .. }), "{error}");
            assert!(futures::FutureExt::now_or_never(node.shutdown_requested()).is_none());
        }
        end([other, node]).await;
    }
}

#[tokio::test]
async fn a_token_drains_the_node() {
    let token = CancellationToken::new();
    let node = ActiveMessageManager::builder()
        .listen("tcp://127.0.0.1:0")
        .cancel_token(token.clone())
        .start()
        .await
        .unwrap();
    let other = caller().await;
    let peer = connect(&other, &node).await;
    let mut events = other.client().link_events();
    token.cancel();
    assert!(
        matches!(next_event(&mut events).await, LinkEvent::Down { peer: lost, .. } if lost == peer.instance_id())
    );
    end([node, other]).await;
}

#[tokio::test]
async fn system_handlers_tell_what_a_node_is_and_has() {
    let node = server().await;
    node.register(double()).unwrap();
    node.register(Handler::message("log", |_cx, _: String| async { Ok(()) }).ordered()).unwrap();
    let other = caller().await;
    let peer = connect(&other, &node).await;
    for codec in [dynamo_am::Codec::MessagePack, dynamo_am::Codec::Json] {
        let ask = async |name: &str| {
            let message =
                other.client().active_message(name).codec(codec).expect_response::<serde_json::Value>();
            soon(name, message.send(&peer).await.unwrap().response()).await.unwrap()
        };
        let health = ask("_health_check").await;
        assert_eq!(
            (&health["status"], &health["draining"], &health["peers"]),
            (&"ok".into(), &false.into(), &1.into())
        );
        assert!(health["uptime_s"].is_u64() && health["running"].is_u64() && health["version"].is_string());
        let discovery = ask("_discover").await;
        assert_eq!(discovery["instance"], node.instance_id().to_string());
        assert_eq!(discovery["endpoints"][0], node.endpoints()[0].to_string());
        let listed = ask("_list_handlers").await;
        let find = |name: &str| {
            listed.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone()
        };
        let expected = serde_json::json!({
            "name": "double", "kind": "unary", "contract": {"req": "i64", "resp": "i64"}, "dispatch": "inline",
        });
        assert_eq!(find("double"), expected);
        let log = find("log");
        assert_eq!((&log["kind"], &log["dispatch"]), (&"message".into(), &"ordered".into()));
        find("_health_check");
    }
    end([other, node]).await;
}
