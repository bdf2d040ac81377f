//! Automatic retries: made when the handler cannot have run, or may run twice, and when calling again can help.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{connect, end, linked, soon};
use dynamo_am::{CallError, Handler, HandlerError, Limits, Refusal, Retry};

fn quick() -> Retry {
    Retry::default().wait_max(Duration::from_millis(5))
}

/// A handler that takes its time, of which one runs at a time and none waits; and how often it began.
fn narrow() -> (Handler, Arc<AtomicUsize>) {
    let began = Arc::new(AtomicUsize::new(0));
    let count = began.clone();
    let handler = Handler::unary("narrow", move |_cx, (): ()| {
        count.fetch_add(1, Ordering::Relaxed);
        async move {
            common::work_for(Duration::from_millis(20)).await;
            Ok(())
        }
    });
    (handler.limit(1), began)
}

#[tokio::test]
async fn what_was_refused_for_overload_is_called_again_until_it_gets_through() {
    let limits = Limits { handler_queue_len: 0, ..Limits::default() };
    let (nodes, peer) = linked(limits, Limits::default()).await;
    let (handler, began) = narrow();
    nodes[0].register(handler).unwrap();
    let calls = (0..8).map(|_| {
        let peer = peer.clone();
        tokio::spawn(async move { quick().attempts(1000).run(|| peer.call::<()>("narrow", &())).await })
    });
    for call in calls.collect::<Vec<_>>() {
        assert_eq!(soon("a call", call).await.unwrap(), Ok(()));
    }
    assert_eq!(began.load(Ordering::Relaxed), 8, "each call has run once");
    end(nodes).await;
}

#[tokio::test]
async fn what_may_have_run_is_called_again_only_if_it_is_idempotent() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let count = calls.clone();
    // The first two end with their callers' deadline.
    let handler = Handler::unary("slow_at_first", move |cx, (): ()| {
        let is_slow = count.fetch_add(1, Ordering::Relaxed) < 2;
        async move {
            if is_slow {
                cx.cancelled().await;
            }
            Ok(())
        }
    });
    nodes[0].register(handler).unwrap();
    let client = nodes[1].client();
    let call = || async {
        let message = client.active_message("slow_at_first").payload(&());
        message
            .deadline(Duration::from_millis(30))
            .expect_response::<()>()
            .send(&peer)
            .await?
            .response()
            .await
    };
    let once = soon("one attempt", quick().run(call)).await;
    assert!(matches!(once, Err(CallError::DeadlineExceeded { .. })), "{once:?}");
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(soon("the third", quick().idempotent().run(call)).await, Ok(()));
    assert_eq!(calls.load(Ordering::Relaxed), 3);
    end(nodes).await;
}

#[tokio::test]
async fn what_calling_again_cannot_help_is_called_once() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let tried = AtomicUsize::new(0);
    let call = |name: &'static str| {
        tried.fetch_add(1, Ordering::Relaxed);
        peer.call::<()>(name, &())
    };
    nodes[0]
        .register(Handler::unary("fails", |_cx, (): ()| async { Err::<(), _>(HandlerError::msg("no")) }))
        .unwrap();
    let missing = soon("a refusal", quick().run(|| call("missing"))).await;
    assert!(matches!(missing, Err(CallError::Refused { reason: Refusal::NoHandler, .. })), "{missing:?}");
    let failed = soon("an error", quick().idempotent().run(|| call("fails"))).await;
    assert!(matches!(failed, Err(CallError::HandlerError { .. })), "{failed:?}");
    assert_eq!(tried.load(Ordering::Relaxed), 2);
    end(nodes).await;
}

#[tokio::test]
async fn attempts_end_with_their_count() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let again = connect(&nodes[1], &nodes[0]).await;
    let [server, caller] = nodes;
    soon("the server's end", server.shutdown()).await.unwrap();
    let tried = AtomicUsize::new(0);
    let call = || {
        tried.fetch_add(1, Ordering::Relaxed);
        peer.call::<i64>("double", &1)
    };
    let lost = soon("the last attempt", quick().attempts(3).run(call)).await;
    assert!(lost.as_ref().is_err_and(CallError::is_retry_safe), "{lost:?}");
    assert_eq!(tried.load(Ordering::Relaxed), 3);
    let at_once = quick().within(Duration::ZERO);
    let late = soon("no second attempt", at_once.run(|| again.call::<i64>("double", &1))).await;
    assert!(late.is_err(), "{late:?}");
    end([caller]).await;
}
