//! Lessons that this system rests on, each with a test that fails if it is lost:
//!
//! 1. Metrics never serialise anything: a value is serialised once for each send, however it is measured.
//! 2. Payloads are not copied: see `allocations.rs`, which counts.
//! 3. Who is known follows links, not messages. That no message pays for a look at the known set cannot be seen from
//!    outside; what can be is that the set follows connects and disconnects whatever is sent, and that a message of
//!    one among many peers allocates no more than a message of a single one.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

use common::{caller, connect, end, server, soon, until};
use dynamo_am::{ActiveMessageManager, CallError, Codec, Handler, HandlerError, Limits, Peer};
use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde::{Deserialize, Serialize};

/// Adds up all that is recorded, by name.
#[derive(Default)]
struct Recorded {
    numbers: Mutex<HashMap<String, Arc<AtomicU64>>>,
}

static RECORDED: LazyLock<Recorded> = LazyLock::new(Recorded::default);

impl Recorded {
    fn number(&self, key: &Key) -> Arc<AtomicU64> {
        self.numbers.lock().unwrap().entry(key.name().to_owned()).or_default().clone()
    }

    fn total(&self) -> u64 {
        self.numbers.lock().unwrap().values().map(|number| number.load(Ordering::Relaxed)).sum()
    }
}

struct Sizes(Arc<AtomicU64>);

impl HistogramFn for Sizes {
    fn record(&self, _value: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

struct Recording;

impl Recorder for Recording {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(RECORDED.number(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(RECORDED.number(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(Arc::new(Sizes(RECORDED.number(key))))
    }
}

/// The recorder is the process's; whoever comes first installs it.
fn record() {
    static INSTALLED: LazyLock<()> = LazyLock::new(|| {
        metrics::set_global_recorder(Recording).map_err(|_| "another recorder").unwrap();
    });
    LazyLock::force(&INSTALLED);
}

/// A value that counts how often it is serialised.
#[derive(Clone, Default)]
struct Counted {
    times: Arc<AtomicUsize>,
}

impl Serialize for Counted {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.times.fetch_add(1, Ordering::Relaxed);
        Seen { number: 5 }.serialize(serializer)
    }
}

impl Counted {
    /// How often since it was asked last.
    fn take(&self) -> usize {
        self.times.swap(0, Ordering::Relaxed)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Seen {
    number: u32,
}

/// What the handler takes bears the name that the caller's type has, so that their contracts fit.
mod received {
    #[derive(Debug, serde::Deserialize)]
    pub(crate) struct Counted {
        pub(crate) number: u32,
    }
}

async fn two_recorded(limits: Limits) -> ([ActiveMessageManager; 2], Peer) {
    record();
    let server =
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(limits).start().await.unwrap();
    let node = caller().await;
    let peer = connect(&node, &server).await;
    ([node, server], peer)
}

#[tokio::test]
async fn a_value_is_serialised_once_for_each_send_with_metrics_on() {
    let (nodes, peer) = two_recorded(Limits::default()).await;
    nodes[1]
        .register(Handler::unary("take", |_cx, value: received::Counted| async move {
            Ok(Seen { number: value.number })
        }))
        .unwrap();
    let client = nodes[0].client();
    let value = Counted::default();
    let seen = Ok(Seen { number: 5 });
    let recorded_before = RECORDED.total();
    for codec in [Codec::MessagePack, Codec::Json] {
        let message = || client.active_message("take").payload(&value).codec(codec);
        message().send(&peer).await.unwrap();
        assert_eq!(value.take(), 1, "fire and forget");
        soon("an ack", message().confirmed().send(&peer).await.unwrap().ack()).await.unwrap();
        assert_eq!(value.take(), 1, "confirmed");
        let sent = message().expect_response::<Seen>().send(&peer).await.unwrap();
        assert_eq!(soon("an answer", sent.response()).await, seen);
        assert_eq!(value.take(), 1, "with response");
        soon("a receipt", message().with_receipt().send(&peer).await.unwrap().receipt()).await.unwrap();
        assert_eq!(value.take(), 1, "with receipt");
        let sent = message().with_receipt().expect_response::<Seen>().send(&peer).await.unwrap();
        assert_eq!(soon("an answer", sent.response()).await, seen);
        assert_eq!(value.take(), 1, "with receipt and response");
        message().try_send(&peer).unwrap();
        assert_eq!(value.take(), 1, "try_send");
        let peers = vec![peer.clone(); 5];
        for sent in message().send_to_all(&peers).await {
            sent.unwrap();
        }
        assert_eq!(value.take(), 1, "send_to_all");
    }
    soon("room", peer.notify("take", &value)).await.unwrap();
    assert_eq!(value.take(), 1, "notify");
    let _: Seen = soon("an answer", peer.call("take", &value)).await.unwrap();
    assert_eq!(value.take(), 1, "call");
    until("something was recorded", || RECORDED.total() > recorded_before).await;
    end(nodes).await;
}

#[tokio::test]
async fn an_answer_is_serialised_once_with_metrics_on() {
    let (nodes, peer) = two_recorded(Limits::default()).await;
    let value = Counted::default();
    let [a, b, c, d] = std::array::from_fn(|_| value.clone());
    for handler in [
        Handler::inline("inline", move |_cx, (): ()| Ok(a.clone())),
        Handler::unary("unary", move |_cx, (): ()| {
            let value = b.clone();
            async move { Ok(value) }
        }),
        Handler::blocking("blocking", move |_cx, (): ()| Ok(c.clone())),
        Handler::deferred("deferred", move |_cx, (): (), reply: dynamo_am::Reply<Counted>| reply.ok(&d)),
    ] {
        let name = handler.name().to_owned();
        nodes[1].register(handler).unwrap();
        let seen: Seen = soon("an answer", peer.call(&name, &())).await.unwrap();
        assert_eq!((seen.number, value.take()), (5, 1), "{name}");
        soon("an ack", peer.confirm(&name, &())).await.unwrap();
        assert_eq!(value.take(), 0, "{name}: nobody asked for the value");
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_value_that_waits_for_credit_is_serialised_once() {
    let (nodes, peer) = two_recorded(Limits { credit_messages: 1, ..Limits::default() }).await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    nodes[1]
        .register(Handler::unary("gated", move |_cx, seen: Seen| {
            let mut opened = opened.clone();
            async move { opened.wait_for(|open| *open).await.map(|_| seen).map_err(HandlerError::from) }
        }))
        .unwrap();
    let (first, waiting, one_way) = (Counted::default(), Counted::default(), Counted::default());
    soon("credit", peer.notify("gated", &first)).await.unwrap();
    let sends = async {
        let called = async { peer.call::<Seen>("gated", &waiting).await };
        let notified = async { peer.notify("gated", &one_way).await };
        tokio::join!(called, notified)
    };
    let mut sends = std::pin::pin!(sends);
    assert!(futures::poll!(&mut sends).is_pending());
    gate.send_replace(true);
    let (called, notified): (Result<Seen, CallError>, _) = soon("the sends", sends).await;
    assert_eq!((called, notified), (Ok(Seen { number: 5 }), Ok(())));
    assert_eq!([first.take(), waiting.take(), one_way.take()], [1, 1, 1]);
    end(nodes).await;
}

#[tokio::test]
async fn the_known_set_follows_links_and_not_messages() {
    let node = server().await;
    node.register(Handler::inline("who", |cx, (): ()| Ok(cx.sender().instance_id().to_string()))).unwrap();
    let client = node.client();
    let mut others = Vec::new();
    for count in 1..=8 {
        let other = caller().await;
        let peer = connect(&other, &node).await;
        // Known from its link's beginning, before it has sent anything.
        until("it is known", || client.peer(other.instance_id()).is_some()).await;
        assert_eq!(client.peers().len(), count);
        let who: String = soon("an answer", peer.call("who", &())).await.unwrap();
        assert_eq!(who, other.instance_id().to_string());
        others.push((other, peer));
    }
    while let Some((other, peer)) = others.pop() {
        for (_, peer) in &others {
            soon("room", peer.notify("who", &())).await.unwrap();
        }
        other.client().disconnect(&peer).await;
        until("it is forgotten", || client.peer(other.instance_id()).is_none()).await;
        assert_eq!(client.peers().len(), others.len());
        end([other]).await;
    }
    end([node]).await;
}
