//! The real libzmq in trouble: nodes that restart under it, back-pressure, proxies, sockets that do not fit.
//! What goes well is in `interop.rs`.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;
#[path = "interop/script.rs"]
mod script;

use std::time::Duration;

use common::{caller, next_event, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, ConnectError, Endpoint, Handler, HandlerError, Limits, LinkEvent, Peer, Raw,
};
use script::Script;
use tokio::process::Command;
use tokio::sync::{mpsc, watch};

/// A node with the handlers that the scripts call, and what its handler `take` took.
struct Scene {
    node: ActiveMessageManager,
    taken: mpsc::Receiver<Raw>,
}

impl Scene {
    async fn start(limits: Limits) -> Self {
        Self::listen("tcp://127.0.0.1:0", limits).await
    }

    async fn listen(endpoint: &str, limits: Limits) -> Self {
        let builder = ActiveMessageManager::builder().listen(endpoint).listen("ipc://*").limits(limits);
        let node = builder.start().await.unwrap();
        let (take, taken) = mpsc::channel(64);
        let (gate, opened) = watch::channel(false);
        for handler in [
            Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }),
            Handler::inline_raw("take", move |_cx, payload| {
                take.try_send(payload.to_raw()).map_err(HandlerError::from)
            }),
            Handler::unary("gated", move |_cx, payload: Raw| {
                let mut opened = opened.clone();
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
        Self { node, taken }
    }

    async fn end(self) {
        soon("shutdown", self.node.shutdown()).await.unwrap();
    }

    /// Runs a scene of `troubled.py` over tcp and over ipc.
    async fn play(&self, scene: &str) {
        for at in &self.node.endpoints()[..2] {
            let mut script = Script::start("troubled", &[scene, &at.to_string()]).await;
            if matches!(scene, "held" | "crowd") {
                assert_eq!(script.line().await, "called");
            }
            script.done().await;
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
    let scene = Scene::start(Limits::default()).await;
    let at = scene.node.endpoints()[0].to_string();
    let mut script = Script::start("troubled", &["drained", &at]).await;
    assert_eq!(script.line().await, "called");
    let running = || !scene.node.client().peers().is_empty();
    until("the peer is known", running).await;
    // The call may still be on its way: what is sent before the Bye is taken.
    let health = scene.node.client().myself();
    soon("the call runs", async {
        while running_calls(&health).await == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let ((), shut) = tokio::join!(script.done(), scene.node.shutdown());
    shut.unwrap();
}

/// How many handlers run, besides the one that tells.
async fn running_calls(node: &Peer) -> u64 {
    #[derive(serde::Deserialize)]
    struct Health {
        running: u64,
    }
    soon("an answer", node.call::<Health>("_health_check", &())).await.unwrap().running.saturating_sub(1)
}

#[tokio::test]
async fn a_peer_that_is_held_back_is_not_taken_for_dead_nor_takes_us_for_it() {
    let few = Limits { credit_messages: 4, ..Limits::default() };
    // The gate stays open once it is, so each transport has its own node.
    for index in 0..2 {
        let scene = Scene::start(few.clone()).await;
        let at = scene.node.endpoints()[index].to_string();
        let mut script = Script::start("troubled", &["held", &at]).await;
        assert_eq!(script.line().await, "called");
        script.done().await;
        scene.end().await;
    }
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
