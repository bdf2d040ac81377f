//! How nodes and handles begin and end: usable when the call returns, in good order on shutdown, and without a
//! trace when dropped.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{
    Caller, Gated, Rig, Via, caller, check_doubles, connect, double, end, endpoint, server, soon, unique,
    until, work_for,
};
use dynamo_am::{
    ActiveMessageManager, BindError, CallError, Client, ConnectError, Endpoint, Handler, HandlerError,
    Limits, LinkEvents, Peer, Refusal, RegisterError, Reply, ShutdownError, StartError, TrySendError,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_returned_is_usable() {
    for round in 0..50 {
        let scheme =
            ["tcp://127.0.0.1:0".to_owned(), "ipc://*".to_owned(), format!("inproc://{}", unique("u"))];
        let node = ActiveMessageManager::builder().listen(scheme[round % 3].as_str()).start().await.unwrap();
        let other = caller().await;
        let peer = connect(&other, &node).await;
        node.register(double()).unwrap();
        check_doubles(&peer).await;
        node.register(Handler::inline("double", |_cx, n: i64| Ok(n * 3)).replace()).unwrap();
        assert_eq!(soon("an answer", peer.call::<i64>("double", &1)).await, Ok(3));
        assert!(node.unregister("double"));
        let error = soon("an answer", peer.call::<i64>("double", &1)).await.unwrap_err();
        assert!(matches!(error, CallError::Refused { reason: Refusal::NoHandler, .. }), "{error}");
    }
}

#[tokio::test]
async fn shutdown_waits_for_a_handler_of_a_second_and_its_callers_have_the_answer() {
    let Rig { server: node, callers } = Rig::start().await;
    let (started, mut starts) = tokio::sync::mpsc::channel(callers.len());
    node.register(Handler::unary("second", move |_cx, n: i64| {
        let _ = started.try_send(());
        async move {
            work_for(Duration::from_secs(1)).await;
            Ok(n)
        }
    }))
    .unwrap();
    let mut calls = Vec::new();
    for caller in &callers {
        let peer = caller.peer.clone();
        calls.push((caller.via, tokio::spawn(async move { peer.call::<i64>("second", &5).await })));
        soon("the start", starts.recv()).await.unwrap();
    }
    assert_eq!(soon("shutdown", node.shutdown()).await, Ok(()));
    for (via, call) in calls {
        assert_eq!(soon("the answer", call).await.unwrap(), Ok(5), "by {via:?}");
    }
    end(callers.into_iter().filter_map(|caller| caller.node)).await;
}

#[tokio::test]
async fn shutdown_waits_for_running_handlers_and_refuses_new_requests() {
    let mut gated = Gated::start(Limits::default()).await;
    let other = caller().await;
    let peer = connect(&other, &gated.node).await;
    let running = gated.call(&peer).await;
    let health = |peer: Peer| async move { peer.call::<serde_json::Value>("_health_check", &()).await };
    assert_eq!(soon("health", health(peer.clone())).await.unwrap()["draining"], false);
    let mut shutdown = std::pin::pin!(gated.node.shutdown());
    assert!(futures::poll!(&mut shutdown).is_pending());
    assert!(matches!(gated.node.register(double()), Err(RegisterError::NodeStopped)));
    let refused = peer.call::<i64>("gated", &1);
    let error = soon("a refusal", async {
        tokio::select! {
            _ = &mut shutdown => panic!("the shutdown has not waited for the handler"),
            answer = refused => answer.unwrap_err(),
        }
    })
    .await;
    assert!(error.is_retry_safe() && error.is_transient(), "{error}");
    gated.gate.send_replace(true);
    assert_eq!(soon("shutdown", shutdown).await, Ok(()));
    assert_eq!(soon("the answer", running).await.unwrap(), Ok(5));
    end([other]).await;
}

#[tokio::test]
async fn shutdown_cancels_what_runs_longer_than_the_drain_limit() {
    let node = ActiveMessageManager::builder()
        .listen("tcp://127.0.0.1:0")
        .limits(Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() })
        .start()
        .await
        .unwrap();
    let (events, mut seen) = tokio::sync::mpsc::channel(4);
    node.register(Handler::unary("stuck", move |cx, (): ()| {
        let events = events.clone();
        async move {
            let _ = events.try_send("runs");
            cx.cancelled().await;
            let _ = events.try_send("cancelled");
            Ok(())
        }
    }))
    .unwrap();
    let other = caller().await;
    let peer = connect(&other, &node).await;
    let call = tokio::spawn(async move { peer.call::<()>("stuck", &()).await });
    assert_eq!(soon("the start", seen.recv()).await, Some("runs"));
    let ended = soon("shutdown", node.shutdown()).await;
    assert!(matches!(ended, Err(ShutdownError::DrainTimeout { links: 1, limit_ms: 100 })), "{ended:?}");
    assert_eq!(soon("the cancellation", seen.recv()).await, Some("cancelled"));
    let error = soon("the end of the call", call).await.unwrap().unwrap_err();
    let is_honest = matches!(
        error,
        CallError::Cancelled { maybe_executed: true, .. } | CallError::PeerLost { maybe_executed: true, .. }
    );
    assert!(is_honest, "{error}");
    end([other]).await;
}

#[tokio::test]
async fn shutdown_handles_the_one_way_messages_that_were_sent() {
    let node = server().await;
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    node.register(Handler::unary("tick", move |_cx, (): ()| {
        let counter = counter.clone();
        async move {
            tokio::task::yield_now().await;
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }))
    .unwrap();
    let other = caller().await;
    let peer = connect(&other, &node).await;
    for _ in 0..1000 {
        soon("room", peer.notify("tick", &())).await.unwrap();
    }
    // The sender goes first: what it has sent is still delivered.
    end([other]).await;
    until("all were handled", || seen.load(Ordering::Relaxed) == 1000).await;
    end([node]).await;
}

#[tokio::test]
async fn a_call_to_a_node_that_has_shut_down_fails_at_once() {
    let Rig { server: node, callers } = Rig::start().await;
    node.register(double()).unwrap();
    for caller in &callers {
        check_doubles(&caller.peer).await;
    }
    soon("shutdown", node.shutdown()).await.unwrap();
    for Caller { via, peer, client, .. } in &callers {
        for error in [
            soon("the failure", peer.call::<i64>("double", &1)).await.unwrap_err(),
            soon("the failure", peer.confirm("double", &1)).await.unwrap_err(),
            soon("the failure", peer.notify("double", &1)).await.unwrap_err(),
            soon("the failure", client.active_message("double").with_receipt().send(peer))
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert!(matches!(error, CallError::NotSent { .. }) && error.is_retry_safe(), "{via:?}: {error}");
            // The peer may come back; what oneself may do is another test's matter.
            assert!(error.is_transient() || *via == Via::Myself, "{via:?}: {error}");
        }
    }
    end(callers.into_iter().filter_map(|caller| caller.node)).await;
}

#[tokio::test]
async fn a_call_by_a_node_that_has_shut_down_fails_at_once() {
    let node = server().await;
    node.register(double()).unwrap();
    let other = caller().await;
    let peer = connect(&other, &node).await;
    let (client, me) = (other.client(), other.client().myself());
    end([other]).await;
    for peer in [&peer, &me] {
        for error in [
            soon("the failure", peer.call::<i64>("double", &1)).await.unwrap_err(),
            soon("the failure", peer.notify("double", &1)).await.unwrap_err(),
            soon("the failure", client.active_message("double").confirmed().send(peer))
                .await
                .map(drop)
                .unwrap_err(),
        ] {
            assert!(matches!(error, CallError::NotSent { .. }), "{error}");
        }
        let error = client.active_message("double").try_send(peer).map(drop).unwrap_err();
        let says_so = matches!(error, TrySendError::NotConnected(_) | TrySendError::Failed(_));
        assert!(says_so, "{error}");
    }
    let error = soon("the failure", client.connect(&node.endpoints()[0])).await.unwrap_err();
    assert!(matches!(error, ConnectError::NodeStopped), "{error}");
    assert!(client.peers().is_empty());
    assert!(soon("no more events", client.link_events().next()).await.is_none());
    end([node]).await;
}

/// All sorts of handles of a node and a peer, some of them in the middle of something.
type Handles = (Client, Peer, LinkEvents, Vec<Box<dyn std::any::Any + Send>>);

/// What handlers are given and can keep: contexts, their tokens and clients, replies that are still owed.
async fn handlers_handles(node: &ActiveMessageManager, peer: &Peer) -> Vec<Box<dyn std::any::Any + Send>> {
    let (keep, mut kept) = tokio::sync::mpsc::channel::<Box<dyn std::any::Any + Send>>(8);
    let also = keep.clone();
    node.register(Handler::message("keep", move |cx, (): ()| {
        let keep = keep.clone();
        async move {
            let _ = keep.try_send(Box::new((cx.cancellation_token(), cx.client(), cx.sender().clone())));
            let _ = keep.try_send(Box::new(cx));
            Ok(())
        }
    }))
    .unwrap();
    node.register(Handler::deferred("owe", move |cx, (): (), reply: Reply<()>| {
        let _ = also.try_send(Box::new((cx, reply)));
    }))
    .unwrap();
    soon("an ack", peer.confirm("keep", &())).await.unwrap();
    let owed = node.client().active_message("owe").expect_response::<()>();
    let owed = soon("room", owed.send(&node.client().myself())).await.unwrap();
    let mut handles: Vec<Box<dyn std::any::Any + Send>> = vec![Box::new(owed)];
    while handles.len() < 4 {
        handles.push(soon("a handle", kept.recv()).await.unwrap());
    }
    handles
}

async fn handles(node: &ActiveMessageManager, other: &ActiveMessageManager) -> Handles {
    node.register(Handler::unary("forever", |_cx, (): ()| {
        std::future::pending::<Result<(), HandlerError>>()
    }))
    .unwrap();
    let client = other.client();
    let peer = connect(other, node).await;
    let message = || client.active_message("forever");
    let mut kept: Vec<Box<dyn std::any::Any + Send>> = vec![
        Box::new(message().confirmed().send(&peer).await.unwrap()),
        Box::new(message().expect_response::<()>().send(&peer).await.unwrap()),
        Box::new(message().with_receipt().send(&peer).await.unwrap()),
        Box::new(message().with_receipt().expect_response::<()>().send(&peer).await.unwrap()),
        Box::new(message().send(&peer).await.unwrap()),
        Box::new(node.handler_events()),
        Box::new(other.client().myself()),
        Box::new(ActiveMessageManager::builder().listen("tcp://127.0.0.1:0")),
        Box::new(client.active_message("forever").confirmed()),
    ];
    kept.extend(handlers_handles(node, &peer).await);
    // A call that was polled, and one that was not.
    let (one, two) = (peer.clone(), peer.clone());
    let mut polled = Box::pin(async move { one.call::<()>("forever", &()).await });
    assert!(futures::poll!(&mut polled).is_pending());
    kept.push(Box::new(polled));
    kept.push(Box::new(Box::pin(async move { two.call::<()>("forever", &()).await })));
    (client.clone(), peer, client.link_events(), kept)
}

fn new_runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Runs `f` on a thread of its own, and does not wait for it for ever.
fn in_time(what: &str, f: impl FnOnce() + Send + 'static) {
    let (done, ended) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        f();
        let _ = done.send(());
    });
    let timeout = ended.recv_timeout(common::PATIENCE);
    assert!(timeout != Err(std::sync::mpsc::RecvTimeoutError::Timeout), "{what} hangs");
    thread.join().unwrap();
}

#[test]
fn handles_dropped_after_shutdown_and_outside_a_runtime_neither_hang_nor_panic() {
    in_time("dropping handles", || {
        let runtime = new_runtime();
        let (nodes, kept) = runtime.block_on(async {
            let short = Limits { drain_timeout: Duration::from_millis(100), ..Limits::default() };
            let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(short);
            let (node, other) = (node.start().await.unwrap(), caller().await);
            let kept = handles(&node, &other).await;
            // A reply is owed, and handlers run that have no end: the first cannot end well, but it ends.
            for node in [&node, &other] {
                let ended = soon("shutdown", node.shutdown()).await;
                assert!(matches!(ended, Ok(()) | Err(ShutdownError::DrainTimeout { .. })), "{ended:?}");
            }
            ((node, other), kept)
        });
        drop(kept);
        drop(nodes);
        drop(runtime);
    });
}

#[test]
fn handles_dropped_while_the_node_runs_but_outside_its_runtime_neither_hang_nor_panic() {
    in_time("dropping handles", || {
        let runtime = new_runtime();
        let (node, other, kept) = runtime.block_on(async {
            let (node, other) = (server().await, caller().await);
            let kept = handles(&node, &other).await;
            (node, other, kept)
        });
        drop(kept);
        drop((node, other));
        drop(runtime);
    });
}

#[test]
fn handles_and_nodes_dropped_after_their_runtime_neither_hang_nor_panic() {
    in_time("dropping nodes", || {
        let runtime = new_runtime();
        let (node, other, kept) = runtime.block_on(async {
            let (node, other) = (server().await, caller().await);
            let kept = handles(&node, &other).await;
            (node, other, kept)
        });
        let path = endpoint(&node, "ipc:").ipc_path().unwrap().to_owned();
        drop(runtime);
        drop((node, other));
        assert!(!path.exists(), "the socket's file is still there");
        drop(kept);
    });
}

#[tokio::test]
async fn socket_files_are_gone_after_shutdown_and_after_drop() {
    let directory = tempfile::tempdir().unwrap();
    for dropped in [false, true] {
        let named = directory.path().join("node.sock");
        let node = ActiveMessageManager::builder()
            .listen(format!("ipc://{}", named.display()))
            .listen("tcp://127.0.0.1:0")
            .start()
            .await
            .unwrap();
        let paths: Vec<_> =
            node.endpoints().iter().filter_map(|at| at.ipc_path()).map(ToOwned::to_owned).collect();
        assert_eq!(paths.len(), 2, "{:?}", node.endpoints());
        assert!(paths.iter().all(|path| path.exists()));
        if dropped {
            drop(node);
        } else {
            end([node]).await;
        }
        assert!(paths.iter().all(|path| !path.exists()), "{paths:?}");
    }
}

#[tokio::test]
async fn tcp_beyond_this_machine_needs_allow_insecure() {
    for text in ["tcp://0.0.0.0:0", "tcp://*:0", "tcp://[::]:0"] {
        let error = ActiveMessageManager::builder().listen(text).start().await.unwrap_err();
        assert!(matches!(error, StartError::Bind(BindError::Insecure { .. })), "{text}: {error}");
        assert!(error.to_string().contains("allow_insecure"), "{error}");
    }
    let node = caller().await;
    let error = soon("the refusal", node.client().connect("tcp://192.0.2.1:5555")).await.unwrap_err();
    assert!(matches!(error, ConnectError::Insecure { .. }), "{error}");
    end([node]).await;
}

#[tokio::test]
async fn what_a_wildcard_stands_for_can_be_dialled() {
    let node =
        ActiveMessageManager::builder().listen("tcp://0.0.0.0:0").allow_insecure().start().await.unwrap();
    node.register(double()).unwrap();
    assert!(!node.endpoints().is_empty());
    for at in node.endpoints() {
        let text = at.to_string();
        assert!(!text.contains("0.0.0.0") && !text.contains("[::]") && !text.ends_with(":0"), "{text}");
        let other = ActiveMessageManager::builder().allow_insecure().no_ipc().start().await.unwrap();
        let peer = soon("connect", other.client().connect(at)).await.unwrap();
        assert_eq!(peer.endpoints(), node.endpoints());
        check_doubles(&peer).await;
        end([other]).await;
    }
    end([node]).await;
}

#[tokio::test]
async fn what_is_advertised_is_what_peers_are_told() {
    let node = ActiveMessageManager::builder()
        .listen("tcp://127.0.0.1:0")
        .advertise("tcp://node.example:5555")
        .no_ipc()
        .start()
        .await
        .unwrap();
    assert_eq!(node.endpoints(), ["tcp://node.example:5555".parse::<Endpoint>().unwrap()]);
    end([node]).await;
}

#[tokio::test]
async fn an_address_in_use_is_an_error_of_start() {
    let node = server().await;
    for at in node.endpoints() {
        let error = ActiveMessageManager::builder().listen(at).start().await.unwrap_err();
        assert!(matches!(error, StartError::Bind(BindError::InUse { .. })), "{at}: {error}");
    }
    end([node]).await;
}

#[test]
fn a_call_after_its_nodes_runtime_has_gone_fails_and_does_not_hang() {
    let runtime = new_runtime();
    let (nodes, peer) = runtime.block_on(async {
        let (node, other) = (server().await, caller().await);
        node.register(double()).unwrap();
        let peer = connect(&other, &node).await;
        check_doubles(&peer).await;
        ([node, other], peer)
    });
    drop(runtime);
    let answer = new_runtime().block_on(soon("the failure", peer.call::<i64>("double", &1)));
    assert!(answer.is_err(), "{answer:?}");
    drop(nodes);
}

#[tokio::test]
async fn calling_again_is_not_said_to_help_when_this_node_has_shut_down() {
    let (node, other) = (server().await, caller().await);
    node.register(double()).unwrap();
    let peer = connect(&other, &node).await;
    let me = other.client().myself();
    end([other]).await;
    for peer in [&peer, &me] {
        let error = soon("the failure", peer.call::<i64>("double", &1)).await.unwrap_err();
        // Who calls again for as long as it is safe and can help would never end.
        assert!(error.is_retry_safe() && !error.is_transient(), "{error}");
    }
    end([node]).await;
}
