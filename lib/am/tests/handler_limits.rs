//! Handlers at their limits: no more run at once than may, who finds no place is told so and nothing else, and
//! those that wait are handled in the end.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{caller, check_doubles, connect, end, linked, server, soon};
use dynamo_am::{CallError, Handler, HandlerError, Limits, Refusal, RegisterError, Reply};
use tokio::sync::{mpsc, watch};

/// Waits until the gate is open.
async fn pass(mut gate: watch::Receiver<bool>) -> Result<(), HandlerError> {
    gate.wait_for(|open| *open).await.map(|_| ()).map_err(HandlerError::from)
}

/// As [`pass`], for who may block.
fn pass_blocking(gate: watch::Receiver<bool>) -> Result<(), HandlerError> {
    tokio::runtime::Handle::current().block_on(pass(gate))
}

/// A handler of each kind that can have a limit of one, which ends when the gate opens.
fn limited_to_one(gate: &watch::Receiver<bool>, started: &mpsc::Sender<()>) -> Vec<Handler> {
    let [a, b, c, d, e] = std::array::from_fn(|_| (gate.clone(), started.clone()));
    vec![
        Handler::unary("unary", move |_cx, (): ()| {
            a.1.try_send(()).unwrap();
            pass(a.0.clone())
        }),
        Handler::message("message", move |_cx, (): ()| {
            b.1.try_send(()).unwrap();
            pass(b.0.clone())
        }),
        Handler::unary("ordered", move |_cx, (): ()| {
            c.1.try_send(()).unwrap();
            pass(c.0.clone())
        })
        .ordered(),
        Handler::blocking("blocking", move |_cx, (): ()| {
            d.1.try_send(()).unwrap();
            pass_blocking(d.0.clone())
        }),
        Handler::deferred("deferred", move |_cx, (): (), reply: Reply<()>| {
            e.1.try_send(()).unwrap();
            let gate = e.0.clone();
            tokio::spawn(async move {
                pass(gate).await.unwrap();
                reply.ok(&());
            });
        }),
    ]
    .into_iter()
    .map(|handler| handler.limit(1))
    .collect()
}

fn check_overloaded(name: &str, error: &CallError) {
    let is_it = matches!(error, CallError::Refused { reason: Refusal::Overloaded, .. });
    assert!(is_it, "{name}: {error}");
}

#[tokio::test]
async fn a_receipt_is_never_said_for_a_message_that_is_refused() {
    let (nodes, peer) = linked(Limits { handler_queue_len: 1, ..Limits::default() }, Limits::default()).await;
    let (gate, opened) = watch::channel(false);
    let (started, mut starts) = mpsc::channel(8);
    let client = nodes[1].client();
    for handler in limited_to_one(&opened, &started) {
        let name = handler.name().to_owned();
        nodes[0].register(handler).unwrap();
        let message = || client.active_message(&name);
        let runs = message().confirmed().send(&peer).await.unwrap();
        soon("the start", starts.recv()).await.unwrap();
        let waits = message().confirmed().send(&peer).await.unwrap();
        // There is no place for a third.
        let third = message().with_receipt().send(&peer).await.unwrap();
        check_overloaded(&name, &soon("a refusal", third.receipt()).await.unwrap_err());
        if name != "message" {
            let both = message().with_receipt().expect_response::<()>().send(&peer).await.unwrap();
            check_overloaded(&name, &soon("a refusal", both.receipt()).await.unwrap_err());
        }
        gate.send_replace(true);
        soon("an ack", runs.ack()).await.unwrap();
        soon("an ack", waits.ack()).await.unwrap();
        soon("the start", starts.recv()).await.unwrap();
        gate.send_replace(false);
    }
    end(nodes).await;
}

/// Counts those who are in, and remembers the most.
#[derive(Clone, Default)]
struct Room {
    inside: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Room {
    fn enter(&self) -> Guest {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(inside, Ordering::SeqCst);
        Guest(self.clone())
    }
}

struct Guest(Room);

impl Guest {
    /// Gives others every chance to come in, too.
    async fn stay(self) -> Result<(), HandlerError> {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        Ok(())
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Three senders call a handler whose limit is 2, made by `make`, 20 times each.
async fn check_limit(make: impl FnOnce(Room) -> Handler) {
    let room = Room::default();
    let server = server().await;
    let handler = make(room.clone());
    let name = handler.name().to_owned();
    // A kind without such an option has to say so, as it does for `ordered` and `batch`.
    match server.register(handler.limit(2)) {
        Err(RegisterError::Option { option: "limit", .. }) => return end([server]).await,
        result => result.unwrap(),
    }
    let callers = [caller().await, caller().await, caller().await];
    let mut peers = Vec::new();
    for node in &callers {
        peers.push(connect(node, &server).await);
    }
    let calls = (0..60).map(|n| peers[n % peers.len()].confirm(&name, &()));
    for result in soon("answers", futures::future::join_all(calls)).await {
        assert_eq!(result, Ok(()), "{name}");
    }
    let most = room.most.load(Ordering::SeqCst);
    assert!(most <= 2, "{most} ran at once in `{name}`, whose limit is 2");
    end(callers).await;
    end([server]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_spawned_messages_than_the_limit_run_at_once() {
    check_limit(|room| {
        Handler::unary("unary", move |_cx, (): ()| {
            let room = room.clone();
            async move { room.enter().stay().await }
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_ordered_messages_than_the_limit_run_at_once_whoever_sent_them() {
    check_limit(|room| {
        Handler::unary("ordered", move |_cx, (): ()| {
            let room = room.clone();
            async move { room.enter().stay().await }
        })
        .ordered()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_blocking_messages_than_the_limit_run_at_once() {
    check_limit(|room| {
        Handler::blocking("blocking", move |_cx, (): ()| {
            tokio::runtime::Handle::current().block_on(room.enter().stay())
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_batches_than_the_limit_run_at_once() {
    check_limit(|room| {
        Handler::batched("batched", move |batch: Vec<()>| {
            let room = room.clone();
            async move {
                drop(batch);
                room.enter().stay().await
            }
        })
        .batch(2, Duration::from_millis(1))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_deferred_messages_than_the_limit_run_at_once() {
    check_limit(|room| {
        Handler::deferred("deferred", move |_cx, (): (), reply: Reply<()>| {
            let guest = room.enter();
            tokio::spawn(async move {
                guest.stay().await.unwrap();
                reply.ok(&());
            });
        })
    })
    .await;
}

/// Set in the process that runs a test which could take its whole process with it.
const ALONE: &str = "DYNAMO_AM_TEST_ALONE";

/// Runs `test`, a test of this program, in a process of its own; `false` in that process.
async fn ran_alone(test: &str) -> bool {
    if std::env::var_os(ALONE).is_some() {
        return false;
    }
    let mut command = tokio::process::Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture"]).env(ALONE, "1").kill_on_drop(true);
    let output = soon("the end of the process", command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{test}` ended its process with {}: {said:.2000}", output.status);
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_number_of_deferred_messages_that_are_answered_at_once_may_wait_for_one() {
    const WAITING: usize = 4000;
    if ran_alone("any_number_of_deferred_messages_that_are_answered_at_once_may_wait_for_one").await {
        return;
    }
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let (first, mut replies) = mpsc::channel::<Reply<()>>(1);
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = runs.clone();
    let handler = Handler::deferred("deferred", move |_cx, (): (), reply: Reply<()>| {
        if counter.fetch_add(1, Ordering::SeqCst) == 0 {
            first.try_send(reply).unwrap();
        } else {
            reply.ok(&());
        }
    });
    nodes[0].register(handler.limit(1)).unwrap();
    for _ in 0..WAITING {
        peer.notify("deferred", &()).await.unwrap();
    }
    // What was sent before it has arrived when it is answered.
    check_doubles(&peer).await;
    let reply = soon("the first", replies.recv()).await.unwrap();
    tokio::spawn(async move { reply.ok(&()) }).await.unwrap();
    common::until("all have run", || runs.load(Ordering::SeqCst) == WAITING).await;
    end(nodes).await;
}

#[tokio::test]
async fn a_batch_that_is_not_full_yet_is_handled_when_the_node_shuts_down() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let handler = Handler::batched("sum", |batch: Vec<i64>| async move {
        Ok(batch.iter().map(|n| Ok(n * 2)).collect::<Vec<_>>())
    });
    nodes[0].register(handler.batch(100, Duration::from_secs(3600))).unwrap();
    let call = nodes[1].client().active_message("sum").payload(&4i64).expect_response::<i64>();
    let call = call.send(&peer).await.unwrap();
    // What was sent before it has arrived when it is answered.
    check_doubles(&peer).await;
    let [server, node] = nodes;
    let (ended, answer) =
        soon("the shutdown", async { tokio::join!(server.shutdown(), call.response()) }).await;
    assert_eq!(answer, Ok(8));
    ended.unwrap();
    end([node]).await;
}
