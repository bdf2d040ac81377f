//! How calls fail: each way is an error of its own at the caller, at once, in every mode that waits, and says
//! whether the handler can have run and whether trying again can help.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{caller, server, soon};
use dynamo_am::{
    ActiveMessageManager, CallError, Client, Codec, Decode, Encode, Handler, HandlerError, Limits, Peer, Raw,
    Refusal, RegisterError, Reply, TrySendError,
};
use serde::{Deserialize, Serialize};

/// A server, and a caller linked to it.
struct Two {
    server: ActiveMessageManager,
    node: ActiveMessageManager,
    client: Client,
    peer: Peer,
}

impl Two {
    async fn start() -> Self {
        Self::with(Limits::default(), Limits::default()).await
    }

    async fn with(of_server: Limits, of_caller: Limits) -> Self {
        let server = ActiveMessageManager::builder()
            .listen("tcp://127.0.0.1:0")
            .limits(of_server)
            .start()
            .await
            .unwrap();
        let node = ActiveMessageManager::builder().limits(of_caller).start().await.unwrap();
        let client = node.client();
        let peer = soon("connect", client.connect(&server.endpoints()[0])).await.unwrap();
        Self { server, node, client, peer }
    }

    async fn end(self) {
        soon("shutdown", self.node.shutdown()).await.unwrap();
        soon("shutdown", self.server.shutdown()).await.unwrap();
    }

    /// The errors of the modes that wait for the handler's end, each in time.
    async fn end_errors(&self, name: &str, payload: &(impl Encode + ?Sized), codec: Codec) -> Vec<CallError> {
        let message = || self.client.active_message(name).payload(payload).codec(codec);
        let peer = &self.peer;
        let mut errors = Vec::new();
        soon("errors", async {
            errors.push(message().confirmed().send(peer).await.unwrap().ack().await.unwrap_err());
            let response = message().expect_response::<Raw>().send(peer).await.unwrap().response().await;
            errors.push(response.unwrap_err());
            let both = message().with_receipt().expect_response::<Raw>().send(peer).await.unwrap();
            errors.push(both.response().await.unwrap_err());
            // The receipt comes first: it says that the message was accepted, not what becomes of it.
            let both = message().with_receipt().expect_response::<Raw>().send(peer).await.unwrap();
            errors.push(match both.receipt().await {
                Ok((_receipt, pending)) => pending.response().await.unwrap_err(),
                Err(error) => error,
            });
        })
        .await;
        errors
    }

    /// The errors of all modes that wait, for messages that are not accepted.
    async fn all_errors(&self, name: &str, payload: &(impl Encode + ?Sized), codec: Codec) -> Vec<CallError> {
        let mut errors = self.end_errors(name, payload, codec).await;
        let message = self.client.active_message(name).payload(payload).codec(codec).with_receipt();
        let sent = message.send(&self.peer).await.unwrap();
        errors.push(soon("an error", sent.receipt()).await.unwrap_err());
        errors
    }

    /// The link serves on.
    async fn check_alive(&self) {
        self.server.register(Handler::inline("alive", |_cx, (): ()| Ok(1u8)).replace()).unwrap();
        assert_eq!(soon("an answer", self.peer.call::<u8>("alive", &())).await, Ok(1));
    }
}

fn reason_of(error: &CallError) -> Option<Refusal> {
    match error {
        CallError::Refused { reason, .. } => Some(*reason),
        _ => None,
    }
}

fn check_flags(error: &CallError, is_retry_safe: bool, is_transient: bool) {
    assert_eq!(error.is_retry_safe(), is_retry_safe, "whether a retry of this is safe: {error}");
    assert_eq!(error.is_transient(), is_transient, "whether a retry of this can help: {error}");
}

/// A handler of each kind that does `f` with what it got, besides those whose kind has no value.
fn each_kind<T, F>(f: F) -> Vec<Handler>
where
    T: Decode + Send + Clone + 'static,
    F: Fn(T) -> Result<i64, HandlerError> + Clone + Send + Sync + 'static,
{
    let [a, b, c, d, e, g, h] = std::array::from_fn(|_| f.clone());
    vec![
        Handler::inline("inline", move |_cx, value| a(value)),
        Handler::unary("unary", move |_cx, value| {
            let f = b.clone();
            async move { f(value) }
        }),
        Handler::unary("ordered", move |_cx, value| {
            let f = c.clone();
            async move { f(value) }
        })
        .ordered(),
        Handler::blocking("blocking", move |_cx, value| d(value)),
        Handler::batched("batched", move |batch: Vec<T>| {
            let f = e.clone();
            async move { Ok(batch.into_iter().map(f).collect::<Vec<_>>()) }
        }),
        Handler::deferred("deferred", move |_cx, value, reply: Reply<i64>| match g(value) {
            Ok(value) => reply.ok(&value),
            Err(error) => reply.err(error),
        }),
        Handler::unary("layered", move |_cx, value| {
            let f = h.clone();
            async move { f(value) }
        })
        .layer(|cx, next| async move { next.run(cx).await }),
    ]
}

async fn with_each_kind<T, F>(f: F) -> (Two, Vec<String>)
where
    T: Decode + Send + Clone + 'static,
    F: Fn(T) -> Result<i64, HandlerError> + Clone + Send + Sync + 'static,
{
    let two = Two::start().await;
    let mut names = Vec::new();
    for handler in each_kind(f) {
        names.push(handler.name().to_owned());
        two.server.register(handler).unwrap();
    }
    (two, names)
}

#[tokio::test]
async fn an_unknown_handler_is_refused_by_name() {
    let two = Two::start().await;
    for name in ["nobody", "_nobody", "Nobody\u{1F980}"] {
        for error in two.all_errors(name, &1, Codec::Json).await {
            assert_eq!(reason_of(&error), Some(Refusal::NoHandler), "{error}");
            check_flags(&error, true, false);
            assert!(error.to_string().contains(name), "{error}");
            assert_eq!((error.call().handler.as_str(), error.call().peer), (name, two.server.instance_id()));
            assert!(!error.call().id.is_empty());
        }
    }
    two.check_alive().await;
    two.end().await;
}

#[tokio::test]
async fn a_handlers_error_reaches_the_caller_in_its_own_words() {
    let (two, names) = with_each_kind(|_: i64| Err(HandlerError::msg("no such model"))).await;
    for name in names {
        for error in two.end_errors(&name, &1, Codec::MessagePack).await {
            let is_it =
                matches!(&error, CallError::HandlerError { message, .. } if message == "no such model");
            assert!(is_it, "{name}: {error}");
            check_flags(&error, false, false);
        }
    }
    two.end().await;
}

#[tokio::test]
async fn a_panic_is_told_from_an_error_and_ends_nothing_else() {
    let (two, names) = with_each_kind(|_: i64| panic!("boom")).await;
    for name in names.iter().filter(|name| *name != "deferred") {
        for error in two.end_errors(name, &1, Codec::MessagePack).await {
            check_panic(name, &error);
        }
        two.peer.notify(name, &1).await.unwrap();
        two.check_alive().await;
    }
    two.end().await;
}

#[tokio::test]
async fn a_panic_before_the_reply_was_kept_is_told_in_its_own_words() {
    let (two, _) = with_each_kind(|_: i64| panic!("boom")).await;
    for error in two.end_errors("deferred", &1, Codec::MessagePack).await {
        check_panic("deferred", &error);
    }
    two.check_alive().await;
    two.end().await;
}

fn check_panic(name: &str, error: &CallError) {
    let is_it = matches!(&error, CallError::HandlerPanicked { message, .. } if message.contains("boom"));
    assert!(is_it, "{name}: {error:?}");
    check_flags(error, false, false);
}

#[tokio::test]
async fn a_payload_that_does_not_decode_is_a_bad_argument_naming_handler_and_type() {
    let runs = Arc::new(AtomicUsize::new(0));
    let ran = runs.clone();
    let (two, names) = with_each_kind(move |n: i64| {
        ran.fetch_add(1, Ordering::Relaxed);
        Ok(n)
    })
    .await;
    let bad = [(Codec::MessagePack, Raw::from(&b"\xC1"[..])), (Codec::Json, Raw::from("{\"a\":"))];
    for name in names {
        for (codec, payload) in &bad {
            for error in two.end_errors(&name, payload, *codec).await {
                check_bad_argument(&error, &name);
            }
            for error in two.end_errors(&name, "text", *codec).await {
                check_bad_argument(&error, &name);
            }
        }
        let error = soon("an answer", two.peer.call::<i64>(&name, &())).await.unwrap_err();
        check_bad_argument(&error, &name); // an empty payload is `()` and `None`, and no number
        assert_eq!(soon("an answer", two.peer.call::<i64>(&name, &4)).await, Ok(4));
    }
    assert_eq!(runs.load(Ordering::Relaxed), 7, "a handler saw a payload that is none");
    two.end().await;
}

fn check_bad_argument(error: &CallError, name: &str) {
    assert_eq!(reason_of(error), Some(Refusal::BadArgument), "{name}: {error}");
    check_flags(error, true, false);
    let CallError::Refused { message, .. } = error else { unreachable!() };
    assert!(message.contains(name) && message.contains("i64"), "names handler and type: {message}");
}

#[tokio::test]
async fn a_codec_that_the_handler_lacks_is_refused() {
    let (two, names) = with_each_kind(|n: i64| Ok(n)).await;
    for name in names {
        for error in two.end_errors(&name, &Raw::from(&b"\x05"[..]), Codec::Raw).await {
            assert_eq!(reason_of(&error), Some(Refusal::ContractMismatch), "{name}: {error}");
            check_flags(&error, true, false);
            assert!(error.to_string().contains(&name), "{error}");
        }
        // The same octets, said to be MessagePack, are.
        let message = two.client.active_message(&name).codec(Codec::MessagePack);
        let raw = Raw::from(&b"\x05"[..]);
        let sent = message.payload(&raw).expect_response::<i64>().send(&two.peer).await.unwrap();
        assert_eq!(soon("an answer", sent.response()).await, Ok(5));
    }
    two.end().await;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Order {
    id: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Invoice {
    id: u64,
}

#[tokio::test]
async fn a_contract_that_does_not_fit_is_refused_with_a_receipt_and_not_run() {
    let two = Two::start().await;
    let runs = Arc::new(AtomicUsize::new(0));
    for (name, is_message) in [("place", false), ("tell", true)] {
        let runs = runs.clone();
        let run = move |order: Order| {
            runs.fetch_add(1, Ordering::Relaxed);
            Order { id: order.id + 1 }
        };
        let handler = if is_message {
            Handler::message(name, move |_cx, order| {
                run(order);
                async { Ok(()) }
            })
        } else {
            Handler::inline(name, move |_cx, order| Ok(run(order)))
        };
        two.server.register(handler).unwrap();
    }
    let order = Order { id: 1 };
    let message = |name| two.client.active_message(name).with_receipt();
    let invoice = message("place").payload(&Invoice { id: 1 }).send(&two.peer).await.unwrap();
    let reply = message("place").payload(&order).expect_response::<Invoice>().send(&two.peer).await.unwrap();
    let one_way = message("tell").payload(&order).expect_response::<Order>().send(&two.peer).await.unwrap();
    for error in [
        soon("a refusal", invoice.receipt()).await.unwrap_err(),
        soon("a refusal", reply.receipt()).await.unwrap_err(),
        soon("a refusal", one_way.receipt()).await.unwrap_err(),
    ] {
        assert_eq!(reason_of(&error), Some(Refusal::ContractMismatch), "{error}");
        check_flags(&error, true, false);
    }
    assert_eq!(runs.load(Ordering::Relaxed), 0);
    // What fits is accepted, and raw fits typed.
    let fits = message("place").payload(&order).expect_response::<Order>().send(&two.peer).await.unwrap();
    let (receipt, pending) = soon("a receipt", fits.receipt()).await.unwrap();
    assert_eq!(receipt.contract().req.as_deref(), Some("Order"));
    assert_eq!(soon("an answer", pending.response()).await, Ok(Order { id: 2 }));
    let raw = Raw::from(&b"{\"id\":4}"[..]);
    let fits = message("place").codec(Codec::Json).payload(&raw).expect_response::<Raw>();
    let (_, pending) = soon("a receipt", fits.send(&two.peer).await.unwrap().receipt()).await.unwrap();
    assert_eq!(soon("an answer", pending.response()).await, Ok(Raw::from("{\"id\":5}")));
    two.end().await;
}

#[tokio::test]
async fn a_response_asked_of_a_one_way_handler_is_refused() {
    let two = Two::start().await;
    two.server.register(Handler::message("log", |_cx, _line: String| async { Ok(()) })).unwrap();
    two.server.register(Handler::batched("point", |_: Vec<i64>| async { Ok(()) })).unwrap();
    for (name, payload) in [("log", &"x" as &dyn erased::Sent), ("point", &1i64)] {
        let error = payload.ask(&two, name).await;
        assert_eq!(reason_of(&error), Some(Refusal::ContractMismatch), "{error}");
        check_flags(&error, true, false);
        assert!(error.to_string().contains(name), "{error}");
    }
    two.end().await;
}

/// Payloads of several types in one list.
mod erased {
    use super::{CallError, Encode, Two, soon};
    use std::pin::Pin;

    pub(crate) trait Sent {
        fn ask<'a>(&'a self, two: &'a Two, name: &'a str) -> Pin<Box<dyn Future<Output = CallError> + 'a>>;
    }

    impl<T: Encode> Sent for T {
        fn ask<'a>(&'a self, two: &'a Two, name: &'a str) -> Pin<Box<dyn Future<Output = CallError> + 'a>> {
            Box::pin(async move { soon("a refusal", two.peer.call::<()>(name, self)).await.unwrap_err() })
        }
    }
}

#[tokio::test]
async fn a_bad_name_is_an_error_before_anything_leaves() {
    let two = Two::start().await;
    let longest = "n".repeat(255);
    two.server.register(Handler::inline(longest.as_str(), |_cx, (): ()| Ok(3))).unwrap();
    assert_eq!(soon("an answer", two.peer.call::<i32>(&longest, &())).await, Ok(3));
    for name in [String::new(), "n".repeat(256), "\u{1F980}".repeat(64)] {
        let handler = Handler::inline(name.as_str(), |_cx, (): ()| Ok(()));
        assert!(matches!(two.server.register(handler), Err(RegisterError::Name { .. })));
        let message = || two.client.active_message(&name);
        let errors = [
            message().send(&two.peer).await.map(drop).unwrap_err(),
            message().confirmed().send(&two.peer).await.map(drop).unwrap_err(),
            message().expect_response::<()>().send(&two.peer).await.map(drop).unwrap_err(),
            message().with_receipt().send(&two.peer).await.map(drop).unwrap_err(),
            two.peer.notify(&name, &()).await.unwrap_err(),
            two.peer.call::<()>(&name, &()).await.unwrap_err(),
            match message().try_send(&two.peer) {
                Err(TrySendError::Failed(error)) => error,
                other => panic!("{other:?}"),
            },
        ];
        for error in errors {
            assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{error}");
            check_flags(&error, true, false);
        }
    }
    let system = Handler::inline("_mine", |_cx, (): ()| Ok(()));
    assert!(matches!(two.server.register(system), Err(RegisterError::Name { .. })));
    two.end().await;
}

#[tokio::test]
async fn extras_that_are_reserved_or_too_many_are_an_error_before_anything_leaves() {
    let two = Two::start().await;
    two.server
        .register(Handler::unary(
            "echo",
            |cx, (): ()| async move { Ok(cx.extra("tenant").map(str::to_owned)) },
        ))
        .unwrap();
    let message = || two.client.active_message("echo");
    let mut many = message();
    for n in 0..65 {
        many = many.extra(format!("k{n}"), "v");
    }
    let bad = [many, message().extra("am.kind", "unary"), message().extra("long", "v".repeat(8 * 1024 + 1))];
    for message in bad {
        let error = message.send(&two.peer).await.map(drop).unwrap_err();
        assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{error}");
    }
    let sent =
        message().extra("tenant", "t1").expect_response::<Option<String>>().send(&two.peer).await.unwrap();
    assert_eq!(soon("an answer", sent.response()).await, Ok(Some("t1".to_owned())));
    two.end().await;
}

#[tokio::test]
async fn a_payload_over_the_peers_limit_is_not_sent_and_the_link_lives() {
    let small = Limits { payload_len_max: 1000, ..Limits::default() };
    let two = Two::with(small, Limits::default()).await;
    two.server.register(Handler::inline_raw("length", |_cx, payload| Ok(payload.len()))).unwrap();
    let message = || two.client.active_message("length");
    let long = Raw::from(vec![1u8; 1001]);
    let errors = [
        message().payload(&long).send(&two.peer).await.map(drop).unwrap_err(),
        message().payload(&long).confirmed().send(&two.peer).await.map(drop).unwrap_err(),
        message().payload(&long).expect_response::<usize>().send(&two.peer).await.map(drop).unwrap_err(),
        message().payload(&long).with_receipt().send(&two.peer).await.map(drop).unwrap_err(),
        two.peer.notify("length", &long).await.unwrap_err(),
    ];
    for error in errors {
        assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{error}");
        check_flags(&error, true, false);
        assert!(error.to_string().contains("1000"), "the limit is named: {error}");
    }
    assert_eq!(soon("an answer", two.peer.call("length", &Raw::from(vec![1u8; 1000]))).await, Ok(1000usize));
    two.end().await;
}

#[tokio::test]
async fn an_answer_over_the_callers_limit_is_an_error_at_once_and_the_link_lives() {
    check_long_answers(1000, 1001).await;
}

#[tokio::test]
async fn an_answer_in_parts_over_the_callers_limit_is_an_error_at_once_and_the_link_lives() {
    check_long_answers(2 << 20, 3 << 20).await;
}

async fn check_long_answers(limit: usize, too_long: usize) {
    let small = Limits { payload_len_max: limit as u64, ..Limits::default() };
    let two = Two::with(Limits::default(), small).await;
    let sized = |n: usize| Raw::from(vec![1u8; n]);
    two.server.register(Handler::inline("inline", move |_cx, n: usize| Ok(sized(n)))).unwrap();
    two.server.register(Handler::unary("unary", move |_cx, n: usize| async move { Ok(sized(n)) })).unwrap();
    for name in ["inline", "unary"] {
        let error = soon("an error", two.peer.call::<Raw>(name, &too_long)).await.unwrap_err();
        // The handler has run, so this is no refusal.
        check_flags(&error, false, false);
        assert_eq!(soon("an answer", two.peer.call::<Raw>(name, &limit)).await, Ok(sized(limit)));
    }
    two.end().await;
}

#[tokio::test]
async fn octets_behind_a_value_are_a_bad_argument() {
    let (two, names) = with_each_kind(|n: i64| Ok(n)).await;
    for name in names {
        for (codec, octets) in [(Codec::MessagePack, &b"\x05\x05"[..]), (Codec::Json, b"5 5")] {
            let raw = Raw::from(octets);
            let sent = two.client.active_message(&name).codec(codec).payload(&raw).confirmed();
            let error = soon("an answer", sent.send(&two.peer).await.unwrap().ack()).await.unwrap_err();
            check_bad_argument(&error, &name);
        }
    }
    two.end().await;
}

#[tokio::test]
async fn an_answer_that_is_not_what_was_expected_says_that_the_handler_ran() {
    let two = Two::start().await;
    two.server.register(Handler::inline("word", |_cx, (): ()| Ok("word"))).unwrap();
    two.server.register(Handler::inline("raw", |_cx, (): ()| Ok(Raw::from(&b"\xC1"[..])))).unwrap();
    let error = soon("an answer", two.peer.call::<i64>("word", &())).await.unwrap_err();
    assert!(matches!(&error, CallError::BadResponse { expected: "i64", .. }), "{error}");
    check_flags(&error, false, false);
    let error = soon("an answer", two.peer.call::<i64>("raw", &())).await.unwrap_err();
    assert!(matches!(&error, CallError::BadResponse { .. }), "{error}");
    two.end().await;
}

#[tokio::test]
async fn a_deadline_that_passes_says_that_the_handler_may_have_run() {
    let two = Two::start().await;
    let (cancelled, mut seen) = tokio::sync::mpsc::channel(8);
    two.server
        .register(Handler::unary("forever", move |cx, (): ()| {
            let cancelled = cancelled.clone();
            async move {
                cx.cancelled().await;
                let _ = cancelled.send(()).await;
                Ok(())
            }
        }))
        .unwrap();
    let message = || two.client.active_message("forever").deadline(Duration::from_millis(50));
    let confirmed = message().confirmed().send(&two.peer).await.unwrap();
    let asked = message().expect_response::<()>().send(&two.peer).await.unwrap();
    let both = message().with_receipt().expect_response::<()>().send(&two.peer).await.unwrap();
    let (_, pending) = soon("a receipt", both.receipt()).await.unwrap();
    for error in [
        soon("the deadline", confirmed.ack()).await.unwrap_err(),
        soon("the deadline", asked.response()).await.unwrap_err(),
        soon("the deadline", pending.response()).await.unwrap_err(),
    ] {
        assert!(matches!(error, CallError::DeadlineExceeded { maybe_executed: true, .. }), "{error}");
        check_flags(&error, false, true);
    }
    for _ in 0..3 {
        soon("the handler hears that nobody waits", seen.recv()).await.unwrap();
    }
    two.end().await;
}

#[tokio::test]
async fn a_dropped_call_cancels_its_handler() {
    let two = Two::start().await;
    let (events, mut seen) = tokio::sync::mpsc::channel(8);
    two.server
        .register(Handler::unary("forever", move |cx, (): ()| {
            let events = events.clone();
            async move {
                events.send("runs").await.unwrap();
                cx.cancelled().await;
                events.send("cancelled").await.unwrap();
                Ok(())
            }
        }))
        .unwrap();
    let sent = two.client.active_message("forever").expect_response::<()>().send(&two.peer).await.unwrap();
    assert_eq!(soon("the start", seen.recv()).await, Some("runs"));
    drop(sent);
    assert_eq!(soon("the end", seen.recv()).await, Some("cancelled"));
    two.end().await;
}

#[tokio::test]
async fn a_handler_at_its_limit_refuses_what_it_cannot_queue() {
    let two = Two::with(Limits { handler_queue_len: 1, ..Limits::default() }, Limits::default()).await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    two.server
        .register(
            Handler::unary("gated", move |_cx, (): ()| {
                let mut opened = opened.clone();
                async move { opened.wait_for(|open| *open).await.map(|_| ()).map_err(HandlerError::from) }
            })
            .limit(1),
        )
        .unwrap();
    let call = || two.client.active_message("gated").expect_response::<()>().send(&two.peer);
    let (runs, waits) = (call().await.unwrap(), call().await.unwrap());
    let error = soon("a refusal", call().await.unwrap().response()).await.unwrap_err();
    assert_eq!(reason_of(&error), Some(Refusal::Overloaded), "{error}");
    check_flags(&error, true, true);
    gate.send_replace(true);
    assert_eq!(soon("an answer", runs.response()).await, Ok(()));
    assert_eq!(soon("an answer", waits.response()).await, Ok(()));
    two.end().await;
}

#[tokio::test]
async fn a_lost_peer_fails_its_pending_calls_at_once() {
    let two = Two::start().await;
    let (started, mut starts) = tokio::sync::mpsc::channel(8);
    two.server
        .register(Handler::unary("forever", move |_cx, (): ()| {
            started.try_send(()).unwrap();
            std::future::pending::<Result<(), HandlerError>>()
        }))
        .unwrap();
    let message = || two.client.active_message("forever");
    let confirmed = message().confirmed().send(&two.peer).await.unwrap();
    let asked = message().expect_response::<()>().send(&two.peer).await.unwrap();
    let both = message().with_receipt().expect_response::<()>().send(&two.peer).await.unwrap();
    for _ in 0..3 {
        soon("the start", starts.recv()).await.unwrap();
    }
    drop(two.server);
    for error in [
        soon("the loss", confirmed.ack()).await.unwrap_err(),
        soon("the loss", asked.response()).await.unwrap_err(),
        soon("the loss", both.response()).await.unwrap_err(),
    ] {
        assert!(matches!(error, CallError::PeerLost { maybe_executed: true, .. }), "{error}");
        check_flags(&error, false, true);
    }
    soon("shutdown", two.node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_one_way_message_that_cannot_be_handled_disturbs_nothing() {
    let two = Two::start().await;
    two.server.register(Handler::unary("number", |_cx, n: i64| async move { Ok(n) })).unwrap();
    for _ in 0..100 {
        two.peer.notify("nobody", &1).await.unwrap();
        two.peer.notify("number", "no number").await.unwrap();
    }
    assert_eq!(soon("an answer", two.peer.call::<i64>("number", &3)).await, Ok(3));
    two.end().await;
}

#[tokio::test]
async fn a_reply_that_is_dropped_is_an_error() {
    let two = Two::start().await;
    two.server.register(Handler::deferred("lost", |_cx, (): (), reply: Reply<()>| drop(reply))).unwrap();
    let error = soon("an answer", two.peer.call::<()>("lost", &())).await.unwrap_err();
    assert!(
        matches!(&error, CallError::HandlerError { message, .. } if message == "reply dropped"),
        "{error}"
    );
    two.end().await;
}

#[tokio::test]
async fn the_id_in_an_error_is_the_one_that_the_handler_sees() {
    let two = Two::start().await;
    two.server
        .register(Handler::unary("who", |cx, (): ()| async move { Err::<(), _>(HandlerError::msg(cx.id())) }))
        .unwrap();
    two.server
        .register(Handler::inline("here", |cx, (): ()| Err::<(), _>(HandlerError::msg(cx.id()))))
        .unwrap();
    for name in ["who", "here"] {
        let sent = two.client.active_message(name).confirmed().send(&two.peer).await.unwrap();
        let id = sent.id().to_string();
        let error = soon("an answer", sent.ack()).await.unwrap_err();
        assert!(matches!(&error, CallError::HandlerError { message, .. } if *message == id), "{error}");
        assert_eq!(error.call().id, id);
        assert!(error.to_string().contains(&id));
    }
    two.end().await;
}

#[tokio::test]
async fn calls_nested_too_deep_end_with_an_error() {
    let node = server().await;
    node.register(Handler::unary("down", |cx, (): ()| async move {
        let depth = cx.depth();
        match cx.client().myself().call::<u8>("down", &()).await {
            Ok(deepest) => Ok(deepest),
            Err(CallError::NotSent { transient: false, .. }) => Ok(depth),
            Err(error) => Err(error.into()),
        }
    }))
    .unwrap();
    let outside = caller().await;
    let peer = soon("connect", outside.client().connect(&node.endpoints()[0])).await.unwrap();
    assert_eq!(soon("an answer", peer.call::<u8>("down", &())).await, Ok(16));
    outside.shutdown().await.unwrap();
    node.shutdown().await.unwrap();
}
