//! The real libzmq in trouble: nodes that restart under it, back-pressure, proxies, sockets that do not fit.
//! What goes well is in `interop.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
#[path = "interop/script.rs"]
mod script;

use std::time::Duration;

use common::{caller, next_event, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, ConnectError, Endpoint, Handler, HandlerError, Limits, LinkEvent, Peer,
    Raw,
};
use script::Script;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// A node with the handlers that the scripts call; what `take` took, and a word for each call of `gated`.
struct Scene {
    node: ActiveMessageManager,
    taken: mpsc::Receiver<Raw>,
    starts: mpsc::Receiver<()>,
}

impl Scene {
    async fn start(limits: Limits) -> Self {
        Self::listen("tcp://127.0.0.1:0", limits).await
    }

    async fn listen(endpoint: &str, limits: Limits) -> Self {
        let builder = ActiveMessageManager::builder().listen(endpoint).listen("ipc://*").limits(limits);
        let node = builder.start().await.unwrap();
        let (take, taken) = mpsc::channel(64);
        let (start, starts) = mpsc::channel(64);
        let (gate, opened) = watch::channel(false);
        for handler in [
            Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }),
            Handler::inline_raw("take", move |_cx, payload| {
                take.try_send(payload.to_raw()).map_err(HandlerError::from)
            }),
            Handler::unary("gated", move |_cx, payload: Raw| {
                let mut opened = opened.clone();
                let _ = start.try_send(());
                async move { opened.wait_for(|open| *open).await.map(|_| payload).map_err(HandlerError::from) }
            }),
            Handler::inline("open", move |_cx, (): ()| gate.send(true).map_err(HandlerError::from)),
            Handler::unary("forever", |cx, (): ()| async move {
                cx.cancelled().await;
                Ok(())
            }),
        ] {
            node.register(handler).unwrap();
        }
        Self { node, taken, starts }
    }

    async fn end(self) {
        soon("shutdown", self.node.shutdown()).await.unwrap();
    }

    /// Runs a scene of `troubled.py` over tcp and over ipc.
    async fn play(&self, scene: &str) {
        for at in &self.node.endpoints()[..2] {
            Script::start("troubled", &[scene, &at.to_string()]).await.done().await;
        }
    }
}

/// A socket that was connected to a node finds the one that comes after it, as its user knows from libzmq.
async fn check_restart(socket: &str) {
    let mut scene = Scene::start(Limits::default()).await;
    let at = scene.node.endpoints()[0].to_string();
    let mut script = Script::start("troubled", &["restart", &at, socket]).await;
    assert_eq!(script.line().await, "called");
    if socket == "PUSH" {
        assert_eq!(soon("a message", scene.taken.recv()).await, Some(Raw::from("before")));
    }
    scene.end().await;
    let mut again = Scene::listen(&at, Limits::default()).await;
    script.done().await;
    if socket == "PUSH" {
        assert_eq!(soon("a message", again.taken.recv()).await, Some(Raw::from("after")));
    }
    again.end().await;
}

#[tokio::test]
async fn an_idle_dealer_finds_a_restarted_node() {
    check_restart("DEALER").await;
}

#[tokio::test]
async fn an_idle_router_finds_a_restarted_node() {
    check_restart("ROUTER").await;
}

#[tokio::test]
async fn an_idle_req_finds_a_restarted_node() {
    check_restart("REQ").await;
}

#[tokio::test]
async fn an_idle_req_that_correlates_finds_a_restarted_node() {
    check_restart("REQ_CORRELATE").await;
}

#[tokio::test]
async fn an_idle_push_finds_a_restarted_node() {
    check_restart("PUSH").await;
}

#[tokio::test]
async fn a_node_that_goes_finishes_what_runs_and_refuses_what_comes() {
    let mut scene = Scene::start(Limits::default()).await;
    let at = scene.node.endpoints()[0].to_string();
    let mut script = Script::start("troubled", &["drained", &at]).await;
    assert_eq!(script.line().await, "called");
    soon("the call's start", scene.starts.recv()).await.unwrap();
    let ((), shut) = tokio::join!(script.done(), soon("shutdown", scene.node.shutdown()));
    shut.unwrap();
}

/// A peer that sends heartbeats has so much running that it is not read for longer than either side waits.
async fn check_held(begin: &str) {
    let foreign_silence_max = Duration::from_secs(2);
    let few = Limits { credit_messages: 4, foreign_silence_max, ..Limits::default() };
    // The gate stays open once it is, so each transport has its own node.
    for index in 0..2 {
        let scene = Scene::start(few.clone()).await;
        let at = scene.node.endpoints()[index].to_string();
        Script::start("troubled", &["held", &at, begin]).await.done().await;
        scene.end().await;
    }
}

#[tokio::test]
async fn a_peer_that_is_held_back_neither_is_taken_for_dead_nor_takes_us_for_it() {
    check_held("late").await;
}

#[tokio::test]
async fn a_peer_that_is_held_back_before_its_first_heartbeat_does_not_take_us_for_dead() {
    check_held("early").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_reads_late_gets_every_answer() {
    let scene = Scene::start(Limits::default()).await;
    scene.play("late_reader").await;
    scene.end().await;
}

#[tokio::test]
async fn many_sockets_are_told_apart_whatever_they_call_themselves() {
    let scene = Scene::start(Limits::default()).await;
    scene.play("crowd").await;
    until("all are forgotten", || scene.node.client().peers().is_empty()).await;
    scene.end().await;
}

#[tokio::test]
async fn the_empty_message_of_a_probing_socket_is_ignored() {
    let scene = Scene::start(Limits::default()).await;
    scene.play("probing").await;
    scene.end().await;
}

#[tokio::test]
async fn a_foreign_call_can_be_cancelled_and_can_be_late() {
    let scene = Scene::start(Limits::default()).await;
    scene.play("cancelled").await;
    scene.end().await;
}

#[tokio::test]
async fn sockets_that_do_not_fit_are_not_let_in() {
    let scene = Scene::start(Limits::default()).await;
    let mut events = scene.node.client().link_events();
    scene.play("misfits").await;
    // The good one of each transport, and nobody else.
    for _ in 0..2 {
        let up = next_event(&mut events).await;
        assert!(matches!(up, LinkEvent::Up { is_own: false, .. }), "{up:?}");
        let down = next_event(&mut events).await;
        assert!(matches!(down, LinkEvent::Down { .. }), "{down:?}");
    }
    scene.end().await;
}

#[tokio::test]
async fn a_socket_that_falls_silent_is_forgotten_after_its_own_ttl() {
    let scene = Scene::start(Limits::default()).await;
    let mut events = scene.node.client().link_events();
    let at = scene.node.endpoints()[0].to_string();
    let mut script = Script::start("troubled", &["frozen", &at]).await;
    assert_eq!(script.line().await, "called");
    let up = next_event(&mut events).await;
    assert!(matches!(up, LinkEvent::Up { .. }), "{up:?}");
    // Its process stands still, as it would in a debugger: the connection stays open.
    let pid = script.child.id().unwrap().to_string();
    let stopped = Command::new("kill").args(["-STOP", &pid]).status().await.unwrap();
    assert!(stopped.success());
    let down = next_event(&mut events).await;
    assert!(matches!(&down, LinkEvent::Down { reason, .. } if reason.contains("silent")), "{down:?}");
    assert!(scene.node.client().peers().is_empty());
    // The call that it had running is cancelled: nothing keeps the node.
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_through_a_proxy_come_back_to_their_callers() {
    let scene = Scene::start(Limits::default()).await;
    let at = scene.node.endpoints()[0].to_string();
    for count in ["1", "3"] {
        Script::start("proxied", &[&at, count]).await.done().await;
    }
    scene.end().await;
}

/// A node of ours dials a socket that `bound.py` binds.
async fn dial(node: &ActiveMessageManager, socket: &str) -> (Script, Peer) {
    let mut script = Script::start("bound", &[socket, "tcp://127.0.0.1:*"]).await;
    let at: Endpoint = script.line().await.parse().unwrap();
    let peer = soon("connect", node.client().connect_foreign(at)).await.unwrap();
    (script, peer)
}

/// Asks what `peer` cannot take: an error at once, in every mode, and nothing is sent that would do harm.
async fn check_takes_nothing(peer: &Peer) {
    let notified = soon("an error", peer.notify("echo", &())).await;
    let confirmed = soon("an error", peer.confirm("echo", &())).await;
    let called = soon("an error", peer.call::<()>("echo", &())).await;
    for (mode, result) in [("notify", notified), ("confirm", confirmed), ("call", called)] {
        let error = result.expect_err(mode);
        assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{mode}: {error}");
    }
}

#[tokio::test]
async fn a_push_that_was_dialled_cannot_be_sent_to() {
    let mut scene = Scene::start(Limits::default()).await;
    let (script, peer) = dial(&scene.node, "PUSH").await;
    soon("a message", scene.taken.recv()).await.unwrap();
    check_takes_nothing(&peer).await;
    script.done().await;
    scene.end().await;
}

#[tokio::test]
async fn a_req_that_was_dialled_cannot_be_sent_to_and_goes_on() {
    let scene = Scene::start(Limits::default()).await;
    let (script, peer) = dial(&scene.node, "REQ").await;
    check_takes_nothing(&peer).await;
    script.done().await;
    scene.end().await;
}

/// A call that its caller gives up is cancelled at the peer, which may not understand that, and hurts no later one.
async fn check_given_up(socket: &str) {
    let node = caller().await;
    let (script, peer) = dial(&node, socket).await;
    let call = node.client().active_message("late").deadline(Duration::from_millis(100));
    let status = soon("room", call.expect_response::<()>().send(&peer)).await.unwrap();
    let error = soon("the deadline", status.response()).await.unwrap_err();
    assert!(matches!(error, CallError::DeadlineExceeded { maybe_executed: true, .. }), "{error}");
    for n in 0..10i64 {
        assert_eq!(soon("an answer", peer.call::<i64>("echo", &n)).await, Ok(n));
    }
    assert!(peer.is_connected());
    soon("an ack", peer.confirm("stop", &())).await.unwrap();
    script.done().await;
    soon("shutdown", node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_call_of_a_router_that_is_given_up_hurts_no_later_one() {
    check_given_up("ROUTER").await;
}

#[tokio::test]
async fn a_call_of_a_rep_that_is_given_up_hurts_no_later_one() {
    check_given_up("REP").await;
}

#[tokio::test]
async fn dialling_a_socket_that_does_not_fit_is_an_error_at_once_that_names_it() {
    let node = caller().await;
    for socket in ["PUB", "SUB", "XPUB", "PAIR"] {
        let mut script = Script::start("bound", &[socket, "tcp://127.0.0.1:*"]).await;
        let at = script.line().await;
        let error = soon("an error", node.client().connect_foreign(at.as_str())).await.unwrap_err();
        let ConnectError::Unreachable { attempts } = &error else { panic!("{error}") };
        assert!(attempts[0].reason.contains(socket), "{error}");
    }
    soon("shutdown", node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn who_dials_a_socket_as_a_node_or_a_node_as_a_socket_is_told_the_other_way() {
    let patience = Limits { connect_timeout: Duration::from_secs(1), ..Limits::default() };
    let node = ActiveMessageManager::builder().limits(patience).start().await.unwrap();
    let mut script = Script::start("bound", &["ROUTER", "tcp://127.0.0.1:*"]).await;
    let at = script.line().await;
    let error = soon("an error", node.client().connect(at.as_str())).await.unwrap_err();
    assert!(error.to_string().contains("`connect_foreign`"), "{error}");
    let scene = Scene::start(Limits::default()).await;
    let error =
        soon("an error", node.client().connect_foreign(&scene.node.endpoints()[0])).await.unwrap_err();
    assert!(error.to_string().contains("`connect`"), "{error}");
    soon("shutdown", node.shutdown()).await.unwrap();
    scene.end().await;
}
