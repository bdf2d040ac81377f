//! The real libzmq as a peer: sockets of every fitting type that connect to a node, and bound ones that a node
//! dials. Raw sockets that send garbage are in `foreign.rs`.
//!
//! The other side are the Python scripts in `interop/`, run with pyzmq.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
#[path = "interop/script.rs"]
mod script;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{caller, soon};
use dynamo_am::{
    ActiveMessageManager, CallError, Endpoint, Handler, HandlerError, InlineContext, Limits, LinkEvent, Peer,
    Raw,
};
use script::Script;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

const MIB: usize = 1 << 20;
/// As in the scripts.
const SIZES: [usize; 8] = [0, 1, 255, 256, 8191, 65536, MIB, 64 * MIB];
#[derive(Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[derive(Serialize)]
struct Total {
    total: i64,
}

/// The octets that the scripts send in a payload of that length.
fn pattern(len: usize) -> impl Iterator<Item = u8> {
    (0..251u8).cycle().take(len)
}

/// A node that listens on tcp and ipc, with the handlers that the scripts call; and the lengths of what `take` took.
async fn served(limits: Limits) -> (ActiveMessageManager, mpsc::Receiver<usize>) {
    let builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").listen("ipc://*");
    let node = builder.limits(limits).start().await.unwrap();
    let (taken, lengths) = mpsc::channel(1024);
    let count = AtomicU64::new(0);
    for handler in [
        Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }),
        Handler::inline("sum", |_cx, sum: Sum| Ok(Total { total: sum.a + sum.b })),
        Handler::inline("count", move |_cx, (): ()| Ok(count.fetch_add(1, Ordering::Relaxed))),
        Handler::message("log", |_cx, _line: String| async { Ok(()) }),
        Handler::unary("fail", |_cx, why: String| async move { Err::<(), _>(HandlerError::msg(why)) }),
        Handler::inline("panic", |_cx: &InlineContext<'_>, (): ()| -> Result<(), HandlerError> {
            panic!("on purpose")
        }),
        Handler::inline_raw("take", move |_cx, payload| {
            assert!(payload.iter().copied().eq(pattern(payload.len())) || *payload == *b"one more");
            taken.try_send(payload.len()).map_err(HandlerError::from)
        }),
    ] {
        node.register(handler).unwrap();
    }
    (node, lengths)
}

/// Runs the client script of one socket type over tcp and ipc, while a node of ours goes on calling.
async fn check_client(socket: &str) {
    let (node, mut lengths) = served(Limits::default()).await;
    let own = caller().await;
    let peer = soon("connect", own.client().connect(&node.endpoints()[0])).await.unwrap();
    for at in &node.endpoints()[..2] {
        Script::start("client", &[socket, &at.to_string()]).await.done().await;
        let echoed = soon("an answer", peer.call::<Raw>("echo", &Raw::from("own"))).await;
        assert_eq!(echoed, Ok(Raw::from("own")));
        if socket == "PUSH" {
            for expected in SIZES.into_iter().chain([8; 100]) {
                assert_eq!(soon("a message", lengths.recv()).await, Some(expected));
            }
        }
    }
    own.shutdown().await.unwrap();
    soon("shutdown", node.shutdown()).await.unwrap();
    assert!(lengths.try_recv().is_err(), "a PUSH's message that asks for an answer was run");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dealer_calls_a_node() {
    check_client("DEALER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_calls_a_node() {
    check_client("ROUTER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_req_calls_a_node() {
    check_client("REQ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_req_that_correlates_calls_a_node() {
    check_client("REQ_CORRELATE").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_sends_to_a_node() {
    check_client("PUSH").await;
}

/// Starts the script that binds, once over tcp and once over ipc, and has `node` dial it.
async fn dial(node: &ActiveMessageManager, socket: &str, endpoint: &str) -> (Script, Peer) {
    let mut script = Script::start("bound", &[socket, endpoint]).await;
    let at: Endpoint = script.line().await.parse().unwrap();
    let peer = soon("connect", node.client().connect_foreign(at)).await.unwrap();
    (script, peer)
}

fn endpoints() -> (tempfile::TempDir, [String; 2]) {
    let directory = tempfile::tempdir().unwrap();
    let ipc = format!("ipc://{}", directory.path().join("socket").display());
    (directory, ["tcp://127.0.0.1:*".to_owned(), ipc])
}

/// Calls a bound socket that echoes.
async fn check_echoes(socket: &str) {
    let (_directory, endpoints) = endpoints();
    for endpoint in &endpoints {
        let node = caller().await;
        let (script, peer) = dial(&node, socket, endpoint).await;
        for size in SIZES {
            let payload = Raw::from(pattern(size).collect::<Vec<u8>>());
            let echoed = soon("an echo", peer.call::<Raw>("echo", &payload)).await.unwrap();
            assert!(echoed == payload, "{echoed:?} came back for {payload:?}");
        }
        let calls = (0..100i64).map(|n| {
            let peer = peer.clone();
            async move { (n, peer.call::<i64>("echo", &n).await) }
        });
        for (n, answer) in soon("answers", futures::future::join_all(calls)).await {
            assert_eq!(answer, Ok(n));
        }
        let error = soon("an error", peer.call::<()>("fail", &())).await.unwrap_err();
        let is_it =
            matches!(&error, CallError::HandlerError { message, .. } if message == "failed on purpose");
        assert!(is_it, "{error}");
        soon("an ack", peer.confirm("stop", &())).await.unwrap();
        soon("disconnect", node.client().disconnect(&peer)).await;
        script.done().await;
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_router_is_called() {
    check_echoes("ROUTER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_rep_is_called() {
    check_echoes("REP").await;
}

/// A bound socket that calls the node which has dialled it.
async fn check_called_by(socket: &str) {
    let (_directory, endpoints) = endpoints();
    for endpoint in &endpoints {
        let (node, _lengths) = served(Limits::default()).await;
        let (mut script, peer) = dial(&node, socket, endpoint).await;
        if socket == "DEALER" {
            assert_eq!(script.line().await, "called");
            let echoed = soon("an echo", peer.call::<i64>("echo", &7)).await;
            assert_eq!(echoed, Ok(7));
            soon("an ack", peer.confirm("stop", &())).await.unwrap();
        }
        script.done().await;
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_req_calls_the_node_that_dials_it() {
    check_called_by("REQ").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_dealer_calls_the_node_that_dials_it_and_is_called() {
    check_called_by("DEALER").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_pull_is_sent_to() {
    let (_directory, endpoints) = endpoints();
    for endpoint in &endpoints {
        let node = caller().await;
        let (mut script, peer) = dial(&node, "PULL", endpoint).await;
        for size in SIZES {
            let payload = Raw::from(pattern(size).collect::<Vec<u8>>());
            soon("room", peer.notify("take", &payload)).await.unwrap();
            assert_eq!(script.line().await, format!("take {size}"));
        }
        soon("room", peer.notify("stop", &())).await.unwrap();
        script_stops(script).await;
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn a_bound_pull_that_is_asked_for_an_answer_is_an_error_at_once() {
    let node = caller().await;
    let (script, peer) = dial(&node, "PULL", "tcp://127.0.0.1:*").await;
    let confirmed = soon("an error", peer.confirm("take", &())).await;
    let called = soon("an error", peer.call::<()>("take", &())).await;
    for error in [confirmed.unwrap_err(), called.unwrap_err()] {
        assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{error}");
    }
    soon("room", peer.notify("stop", &())).await.unwrap();
    script_stops(script).await;
    soon("shutdown", node.shutdown()).await.unwrap();
}

async fn script_stops(mut script: Script) {
    assert_eq!(script.line().await, "stop 0");
    script.done().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_push_sends_to_the_node_that_dials_it() {
    let (_directory, endpoints) = endpoints();
    for endpoint in &endpoints {
        let (node, mut lengths) = served(Limits::default()).await;
        let (script, _peer) = dial(&node, "PUSH", endpoint).await;
        for size in SIZES {
            assert_eq!(soon("a message", lengths.recv()).await, Some(size));
        }
        script.done().await;
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn an_idle_socket_with_heartbeats_keeps_its_connection() {
    check_idle(Limits::default(), 100, 1200).await;
}

/// A DEALER that is idle for so long, twice, by tcp and by ipc.
async fn check_idle(limits: Limits, heartbeat_ms: u32, idle_ms: u32) {
    let (node, _lengths) = served(limits).await;
    for at in &node.endpoints()[..2] {
        let arguments = [at.to_string(), heartbeat_ms.to_string(), idle_ms.to_string()];
        Script::start("idle", &arguments.each_ref().map(String::as_str)).await.done().await;
    }
    soon("shutdown", node.shutdown()).await.unwrap();
}

/// Limits by which a node pings a silent peer after `ping_ms`, and takes it for dead after four times that.
fn impatient(ping_ms: u64) -> Limits {
    Limits {
        ping_after: Duration::from_millis(ping_ms),
        silence_max: Duration::from_millis(4 * ping_ms),
        foreign_silence_max: Duration::from_millis(4 * ping_ms),
        ..Limits::default()
    }
}

#[tokio::test]
async fn an_idle_socket_that_answers_our_heartbeats_keeps_its_connection() {
    check_idle(impatient(500), 0, 3500).await;
}

#[tokio::test]
async fn heartbeats_come_as_often_as_the_limits_say() {
    check_idle(impatient(100), 0, 1200).await;
}

#[tokio::test]
async fn a_dialled_socket_keeps_its_connection_by_heartbeats_of_both_sides() {
    let (_directory, endpoints) = endpoints();
    for endpoint in &endpoints {
        let node = ActiveMessageManager::builder().limits(impatient(500)).start().await.unwrap();
        let mut script = Script::start("bound", &["ROUTER", endpoint, "100"]).await;
        let at: Endpoint = script.line().await.parse().unwrap();
        let peer = soon("connect", node.client().connect_foreign(at)).await.unwrap();
        let mut events = node.client().link_events();
        assert_eq!(soon("an answer", peer.call::<i64>("echo", &1)).await, Ok(1));
        let idle = tokio::time::timeout(Duration::from_millis(3500), events.next()).await;
        assert!(idle.is_err(), "an idle link: {idle:?}");
        assert_eq!(soon("an answer", peer.call::<i64>("echo", &2)).await, Ok(2));
        soon("an ack", peer.confirm("stop", &())).await.unwrap();
        script.done().await;
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn a_dialled_socket_that_comes_back_is_dialled_again() {
    let node = caller().await;
    let mut events = node.client().link_events();
    let mut script = Script::start("bound", &["ROUTER", "tcp://127.0.0.1:*"]).await;
    let at = script.line().await;
    let peer = soon("connect", node.client().connect_foreign(at.as_str())).await.unwrap();
    let up = soon("the link", events.next()).await;
    assert!(matches!(up, Some(LinkEvent::Up { is_own: false, .. })), "{up:?}");
    assert_eq!(soon("an answer", peer.call::<i64>("echo", &1)).await, Ok(1));
    script.child.kill().await.unwrap();
    let down = soon("the loss", events.next()).await;
    assert!(matches!(down, Some(LinkEvent::Down { .. })), "{down:?}");
    let mut again = Script::start("bound", &["ROUTER", &at]).await;
    assert_eq!(again.line().await, at);
    assert_eq!(soon("an answer", peer.call::<i64>("echo", &2)).await, Ok(2));
    soon("an ack", peer.confirm("stop", &())).await.unwrap();
    again.done().await;
    soon("shutdown", node.shutdown()).await.unwrap();
}
