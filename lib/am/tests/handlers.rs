//! Handlers whose own code misbehaves: whoever waits is told at once, and nobody else notices. And what batches,
//! layers, services and empty payloads are.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::time::Duration;

use common::{Rig, check_doubles, end, linked, soon};
use dynamo_am::{
    ActiveMessageContext, CallError, Codec, Handler, HandlerError, Limits, Raw, Refusal, Reply, Service,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::sync::{mpsc, watch};

/// A value that panics when it is encoded.
struct Explosive;

impl Serialize for Explosive {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        panic!("boom")
    }
}

/// An argument that panics when it is decoded.
#[derive(Debug)]
struct Touchy;

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("boom")
    }
}

fn check_panicked(name: &str, error: &CallError) {
    assert!(matches!(error, CallError::HandlerPanicked { .. }), "{name}: {error:?}");
    assert!(!error.is_retry_safe());
}

#[tokio::test]
async fn a_value_that_panics_when_it_is_encoded_is_told_to_the_caller_at_once() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let handlers = [
        Handler::inline("inline", |_cx, (): ()| Ok(Explosive)),
        Handler::unary("unary", |_cx, (): ()| async { Ok(Explosive) }),
        Handler::unary("ordered", |_cx, (): ()| async { Ok(Explosive) }).ordered(),
        Handler::blocking("blocking", |_cx, (): ()| Ok(Explosive)),
        Handler::batched("batched", |batch: Vec<()>| async move {
            Ok(batch.iter().map(|()| Ok(Explosive)).collect::<Vec<_>>())
        }),
        Handler::deferred("deferred", |_cx, (): (), reply: Reply<Explosive>| reply.ok(&Explosive)),
        Handler::deferred("deferred_later", |_cx, (): (), reply: Reply<Explosive>| {
            tokio::spawn(async move { reply.ok(&Explosive) });
        })
        .limit(1),
    ];
    for handler in handlers {
        let name = handler.name().to_owned();
        nodes[0].register(handler).unwrap();
        // Twice: the first must not keep the second from its place.
        for _ in 0..2 {
            let error = soon(&name, peer.call::<()>(&name, &())).await.unwrap_err();
            check_panicked(&name, &error);
        }
        check_doubles(&peer).await;
    }
    end(nodes).await;
}

#[tokio::test]
async fn an_argument_that_panics_when_it_is_decoded_is_told_to_the_caller_at_once() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let handlers = [
        Handler::inline("inline", |_cx, _: Touchy| Ok(())),
        Handler::unary("unary", |_cx, _: Touchy| async { Ok(()) }),
        Handler::unary("ordered", |_cx, _: Touchy| async { Ok(()) }).ordered(),
        Handler::blocking("blocking", |_cx, _: Touchy| Ok(())),
        Handler::batched("batched", |_: Vec<Touchy>| async { Ok(()) }),
        Handler::deferred("deferred", |_cx, _: Touchy, reply: Reply<()>| reply.ok(&())),
    ];
    for handler in handlers {
        let name = handler.name().to_owned();
        nodes[0].register(handler).unwrap();
        peer.notify(&name, &1).await.unwrap();
        let error = soon(&name, peer.confirm(&name, &1)).await.unwrap_err();
        check_panicked(&name, &error);
        check_doubles(&peer).await;
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_reply_lost_by_a_panic_of_another_task_is_told_to_the_caller_at_once() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let handler = Handler::deferred("lost", |_cx, (): (), reply: Reply<()>| {
        tokio::spawn(async move {
            let _reply = reply;
            panic!("boom");
        });
    });
    nodes[0].register(handler.limit(1)).unwrap();
    for _ in 0..2 {
        check_panicked("lost", &soon("an answer", peer.confirm("lost", &())).await.unwrap_err());
    }
    end(nodes).await;
}

#[tokio::test]
async fn an_error_of_any_length_reaches_the_caller_and_the_link_lives() {
    const LONG: usize = 3 << 20;
    check_long_errors(Limits::default(), LONG).await;
}

#[tokio::test]
async fn an_error_over_the_callers_payload_limit_reaches_it_and_the_link_lives() {
    check_long_errors(Limits { payload_len_max: 1000, ..Limits::default() }, 3000).await;
}

/// Handlers that fail with long words, and serde's own, which repeat what they did not expect.
async fn check_long_errors(of_caller: Limits, len: usize) {
    let (nodes, peer) = linked(Limits::default(), of_caller).await;
    let words = move || "x".repeat(len);
    let handlers = [
        Handler::inline("inline", move |_cx, (): ()| Err::<(), _>(HandlerError::msg(words()))),
        Handler::unary("unary", move |_cx, (): ()| async move { Err::<(), _>(HandlerError::msg(words())) }),
        Handler::unary("panic", move |_cx, _: ()| async move {
            std::panic::panic_any(words());
            #[allow(unreachable_code, reason = "it says the type")]
            Ok(())
        }),
    ];
    for handler in handlers {
        let name = handler.name().to_owned();
        nodes[0].register(handler).unwrap();
        let error = soon("an error", peer.confirm(&name, &())).await.unwrap_err();
        let message = match &error {
            CallError::HandlerError { message, .. } | CallError::HandlerPanicked { message, .. } => message,
            other => panic!("{name}: {other:.300}"),
        };
        assert!(message.starts_with("xxxx"), "{name}");
        check_doubles(&peer).await;
    }
    let error = soon("an error", peer.call::<i64>("double", &words())).await.unwrap_err();
    let is_it = matches!(error, CallError::Refused { reason: Refusal::BadArgument, .. });
    assert!(is_it, "{error:.300}");
    check_doubles(&peer).await;
    end(nodes).await;
}

#[tokio::test]
async fn a_batch_answers_each_message_whatever_its_results_are() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let short = Handler::batched("short", |batch: Vec<i64>| async move {
        Ok(batch.into_iter().take(1).map(Ok).collect::<Vec<Result<i64, HandlerError>>>())
    });
    let long = Handler::batched("long", |batch: Vec<i64>| async move {
        Ok(batch.into_iter().chain([7, 8]).map(Ok).collect::<Vec<Result<i64, HandlerError>>>())
    });
    let failed =
        Handler::batched("failed", |_: Vec<i64>| async { Err::<(), _>(HandlerError::msg("no room")) });
    let panics = Handler::batched("panics", |batch: Vec<i64>| async move {
        assert!(batch.is_empty(), "boom");
        Ok(())
    });
    for handler in [short, long, failed, panics] {
        nodes[0].register(handler.batch(2, Duration::from_secs(60))).unwrap();
    }
    let pair = async |name: &str| {
        let calls = async { tokio::join!(peer.call::<i64>(name, &1), peer.call::<i64>(name, &2)) };
        soon(name, calls).await
    };
    let (first, second) = pair("short").await;
    assert_eq!(first, Ok(1));
    assert!(matches!(second, Err(CallError::HandlerError { .. })), "{second:?}");
    assert_eq!(pair("long").await, (Ok(1), Ok(2)));
    let both = async |name: &str| {
        soon(name, async { tokio::join!(peer.confirm(name, &1), peer.confirm(name, &2)) }).await
    };
    let (first, second) = both("failed").await;
    for result in [first, second] {
        let is_it = matches!(&result, Err(CallError::HandlerError { message, .. }) if message == "no room");
        assert!(is_it, "{result:?}");
    }
    let (first, second) = both("panics").await;
    check_panicked("panics", &first.unwrap_err());
    check_panicked("panics", &second.unwrap_err());
    end(nodes).await;
}

#[tokio::test]
async fn a_message_of_a_batch_that_does_not_decode_is_refused_alone() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let sum = Handler::batched("sum", |batch: Vec<i64>| async move {
        let sum: i64 = batch.iter().sum();
        Ok(batch.iter().map(|_| Ok(sum)).collect::<Vec<_>>())
    });
    nodes[0].register(sum.batch(3, Duration::from_secs(60))).unwrap();
    let (one, bad, two) = soon("a batch", async {
        tokio::join!(
            peer.call::<i64>("sum", &1),
            peer.call::<i64>("sum", "text"),
            peer.call::<i64>("sum", &2)
        )
    })
    .await;
    assert_eq!((one, two), (Ok(3), Ok(3)));
    assert!(matches!(bad, Err(CallError::Refused { reason: Refusal::BadArgument, .. })), "{bad:?}");
    end(nodes).await;
}

#[tokio::test]
async fn a_handler_that_is_replaced_or_gone_still_ends_what_it_began() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let (gate, opened) = watch::channel(false);
    let (started, mut starts) = mpsc::channel(8);
    let gated = Handler::unary("job", move |_cx, (): ()| {
        started.try_send(()).unwrap();
        let mut gate = opened.clone();
        async move { gate.wait_for(|open| *open).await.map(|_| "old").map_err(HandlerError::from) }
    });
    nodes[0].register(gated).unwrap();
    let begin = || nodes[1].client().active_message("job").expect_response::<String>();
    let first = begin().send(&peer).await.unwrap();
    soon("the start", starts.recv()).await.unwrap();
    nodes[0].register(Handler::inline("job", |_cx, (): ()| Ok("new")).replace()).unwrap();
    assert_eq!(soon("an answer", peer.call::<String>("job", &())).await.as_deref(), Ok("new"));
    assert!(nodes[0].unregister("job"));
    let error = soon("a refusal", peer.call::<String>("job", &())).await.unwrap_err();
    assert!(matches!(error, CallError::Refused { reason: Refusal::NoHandler, .. }), "{error}");
    gate.send_replace(true);
    assert_eq!(soon("an answer", first.response()).await.as_deref(), Ok("old"));
    end(nodes).await;
}

/// Multiplies; a handler with a state of its own.
struct Times(i64);

impl Service<i64> for Times {
    type Response = i64;

    async fn call(&self, cx: ActiveMessageContext, n: i64) -> Result<i64, HandlerError> {
        assert_eq!(cx.handler(), "times");
        Ok(self.0 * n)
    }
}

#[tokio::test]
async fn the_last_layer_added_runs_first_and_may_answer_by_itself() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let (saw, mut seen) = mpsc::channel(8);
    let inner = saw.clone();
    let handler = Handler::service("times", Times(3))
        .layer(move |cx, next| {
            inner.try_send("inner").unwrap();
            next.run(cx)
        })
        .layer(move |cx, next| {
            saw.try_send("outer").unwrap();
            async move {
                match cx.extra("tenant") {
                    Some("panics") => panic!("boom"),
                    Some(_) => next.run(cx).await,
                    None => Err(HandlerError::msg("no tenant was named")),
                }
            }
        });
    nodes[0].register(handler).unwrap();
    let client = nodes[1].client();
    let call = async |tenant: Option<&str>| {
        let mut message = client.active_message("times").payload(&5i64);
        if let Some(tenant) = tenant {
            message = message.extra("tenant", tenant);
        }
        let sent = message.expect_response::<i64>().send(&peer).await.unwrap();
        soon("an answer", sent.response()).await
    };
    assert_eq!(call(Some("one")).await, Ok(15));
    let error = call(None).await.unwrap_err();
    let is_it = matches!(&error, CallError::HandlerError { message, .. } if message == "no tenant was named");
    assert!(is_it, "{error}");
    check_panicked("times", &call(Some("panics")).await.unwrap_err());
    let order: Vec<_> = std::iter::from_fn(|| seen.try_recv().ok()).collect();
    assert_eq!(order, ["outer", "inner", "outer", "outer"]);
    end(nodes).await;
}

#[tokio::test]
async fn empty_payloads_are_unit_none_and_no_octets_by_every_codec_and_way() {
    let rig = Rig::start().await;
    for handler in [
        Handler::inline_raw("length", |_cx, payload| Ok(payload.len())),
        Handler::unary("unit", |_cx, (): ()| async { Ok(()) }),
        Handler::unary("option", |_cx, value: Option<i64>| async move { Ok(value) }),
        Handler::unary("raw", |_cx, payload: Raw| async move { Ok(payload) }),
    ] {
        rig.server.register(handler).unwrap();
    }
    for caller in &rig.callers {
        for codec in [Codec::MessagePack, Codec::Json] {
            let what = format!("{codec:?} over {:?}", caller.via);
            let message = |name| caller.client.active_message(name).codec(codec);
            let length = message("length").payload(&()).expect_response::<usize>();
            assert_eq!(soon(&what, length.send(&caller.peer).await.unwrap().response()).await, Ok(0));
            let unit = message("unit").expect_response::<Raw>();
            assert_eq!(
                soon(&what, unit.send(&caller.peer).await.unwrap().response()).await,
                Ok(Raw::default())
            );
            let unit = message("unit").payload(&()).expect_response::<()>();
            assert_eq!(soon(&what, unit.send(&caller.peer).await.unwrap().response()).await, Ok(()));
            for value in [None, Some(-1)] {
                let option = message("option").payload(&value).expect_response::<Option<i64>>();
                let answer = soon(&what, option.send(&caller.peer).await.unwrap().response()).await;
                assert_eq!(answer, Ok(value), "{what}");
            }
        }
        let empty = soon("raw", caller.peer.call::<Raw>("raw", &Raw::default())).await;
        assert_eq!(empty, Ok(Raw::default()));
        assert_eq!(soon("raw", caller.peer.call::<Option<i64>>("option", &Raw::default())).await, Ok(None));
    }
    rig.end().await;
}

#[tokio::test]
async fn a_receipt_of_a_codec_that_the_handler_lacks_is_a_refusal() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    nodes[0].register(Handler::unary("spawned", |_cx, n: i64| async move { Ok(n) })).unwrap();
    for name in ["double", "spawned"] {
        let raw = Raw::from(&b"\x05"[..]);
        let sent = nodes[1].client().active_message(name).codec(Codec::Raw);
        let sent = sent.payload(&raw).with_receipt().send(&peer).await.unwrap();
        let error = soon("a refusal", sent.receipt()).await.unwrap_err();
        let is_it = matches!(error, CallError::Refused { reason: Refusal::ContractMismatch, .. });
        assert!(is_it, "{name}: {error}");
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_named_contract_is_met_by_callers_that_name_it_and_by_no_others() {
    #[derive(Debug, serde::Serialize, serde::Deserialize)]
    struct Sum {
        a: i64,
    }
    const SUM: Sum = Sum { a: 1 };
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let sum = Handler::unary("sum", |_cx, sum: Sum| async move { Ok(sum) }).contract("sum.v1");
    nodes[0].register(sum).unwrap();
    let client = nodes[1].client();
    let ask = |name: Option<&'static str>| {
        let message = client.active_message("sum").payload(&SUM).with_receipt().expect_response::<Sum>();
        if let Some(name) = name { message.contract(name) } else { message }
    };
    let sent = ask(Some("sum.v1")).send(&peer).await.unwrap();
    let (receipt, answer) = soon("a receipt", sent.receipt()).await.unwrap();
    assert_eq!(receipt.contract().req.as_deref(), Some("sum.v1"));
    assert_eq!(soon("an answer", answer.response()).await.unwrap().a, 1);
    for other in [Some("sum.v2"), None] {
        let error = soon("a refusal", ask(other).send(&peer).await.unwrap().receipt()).await.unwrap_err();
        let is_it = matches!(error, CallError::Refused { reason: Refusal::ContractMismatch, .. });
        assert!(is_it, "{error}");
    }
    end(nodes).await;
}

#[tokio::test]
async fn a_context_that_is_kept_stays_that_of_its_own_message() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let (keep, mut kept) = mpsc::channel(100);
    for (name, is_ordered) in [("spawned", false), ("ordered", true)] {
        let keep = keep.clone();
        let handler = Handler::message(name, move |cx: ActiveMessageContext, n: u64| {
            // Every other one; what the rest leave behind is used again.
            let is_kept = n.is_multiple_of(2);
            if is_kept {
                keep.try_send((n, cx.clone(), cx.cancellation_token())).unwrap();
            }
            async { Ok(()) }
        });
        nodes[0].register(if is_ordered { handler.ordered() } else { handler }).unwrap();
        let mut ids = Vec::new();
        for n in 0..100_u64 {
            let message = nodes[1].client().active_message(name).payload(&n).extra("n", n.to_string());
            ids.push(message.send(&peer).await.unwrap().id());
        }
        for _ in 0..50 {
            let (n, cx, token) = soon("a context", kept.recv()).await.unwrap();
            let n_text = n.to_string();
            assert_eq!(cx.extra("n"), Some(n_text.as_str()));
            assert_eq!(cx.id(), ids[usize::try_from(n).unwrap()]);
            assert_eq!(cx.handler(), name);
            assert!(!token.is_cancelled());
        }
    }
    end(nodes).await;
}

#[tokio::test]
async fn ordered_messages_of_all_modes_are_handled_in_the_order_they_were_sent_in() {
    let (nodes, peer) = linked(Limits::default(), Limits::default()).await;
    let (note, mut noted) = mpsc::channel(600);
    let handler = move |_cx: ActiveMessageContext, n: u64| {
        note.try_send(n).unwrap();
        async move {
            if n.is_multiple_of(3) {
                tokio::task::yield_now().await;
            }
            Ok(n)
        }
    };
    nodes[0].register(Handler::unary("log", handler).ordered()).unwrap();
    let mut statuses = Vec::new();
    for n in 0..600_u64 {
        let message = nodes[1].client().active_message("log").payload(&n);
        match n % 20 {
            7 => statuses.push(tokio::spawn(message.confirmed().send(&peer).await.unwrap().ack())),
            _ => drop(message.send(&peer).await.unwrap()),
        }
    }
    for n in 0..600 {
        assert_eq!(soon("a message", noted.recv()).await, Some(n));
    }
    for status in statuses {
        soon("an ack", status).await.unwrap().unwrap();
    }
    end(nodes).await;
}
