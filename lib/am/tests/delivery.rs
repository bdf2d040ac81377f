//! Every delivery mode with every kind of handler, by each codec and over each transport: what the caller gets.
//!
//! One test per cell of the table in `docs/delivery.md`, which the last test reads.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::time::Duration;

use common::{Caller, Rig, soon};
use dynamo_am::{
    ActiveMessageContext, ActiveMessageManager, CallError, Codec, DeliveryMode, DispatchMode, Handler,
    HandlerError, InlineContext, Raw, Refusal, Reply, ResponseType,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Pair {
    a: i64,
    b: i64,
}

const SENT: Pair = Pair { a: 7, b: -2 };

/// Who handled what: the mode, the codec, and the payload's values.
type Seen = (DeliveryMode, Codec, Pair);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// The handler runs; nobody is told.
    Runs,
    /// The caller is told after the handler has finished well.
    Ack,
    /// The caller gets the handler's value.
    Value,
    /// The caller is told that the handler was found and the message accepted.
    Receipt,
    /// The caller gets a receipt, then the value.
    ReceiptThenValue,
    /// The handler has no value: the caller is told at once, and the handler does not run.
    Refused,
}

impl Outcome {
    /// As the document says it.
    const fn text(self) -> &'static str {
        match self {
            Self::Runs => "runs",
            Self::Ack => "ack",
            Self::Value => "value",
            Self::Receipt => "receipt",
            Self::ReceiptThenValue => "receipt, then value",
            Self::Refused => "refused: contract mismatch",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types, reason = "the names are those of constructors and of tests")]
enum Kind {
    inline,
    inline_raw,
    unary,
    message,
    ordered,
    blocking,
    batched,
    batched_values,
    deferred,
}

impl Kind {
    const fn dispatch(self) -> DispatchMode {
        match self {
            Self::inline | Self::inline_raw => DispatchMode::Inline,
            Self::unary | Self::message => DispatchMode::Spawned,
            Self::ordered => DispatchMode::Ordered,
            Self::blocking => DispatchMode::Blocking,
            Self::batched | Self::batched_values => DispatchMode::Batched,
            Self::deferred => DispatchMode::Deferred,
        }
    }

    const fn response_type(self) -> ResponseType {
        match self {
            Self::message | Self::batched => ResponseType::Message,
            _ => ResponseType::Unary,
        }
    }
}

/// What travels: a typed value by one of the codecs, or raw octets.
trait Payload: std::fmt::Debug + dynamo_am::Encode + dynamo_am::Decode + Clone + Send + Sync + 'static {
    fn values(&self, codec: Codec) -> Pair;
}

impl Payload for Pair {
    fn values(&self, _codec: Codec) -> Pair {
        *self
    }
}

impl Payload for Raw {
    fn values(&self, codec: Codec) -> Pair {
        match codec {
            Codec::Raw => {
                let numbers: Vec<i64> = self
                    .chunks_exact(8)
                    .map(|octets| i64::from_be_bytes(octets.try_into().unwrap()))
                    .collect();
                Pair { a: numbers[0], b: numbers[1] }
            }
            _ => <Pair as dynamo_am::Decode>::decode(codec, self).unwrap(),
        }
    }
}

fn raw_sent() -> Raw {
    Raw::from([SENT.a.to_be_bytes(), SENT.b.to_be_bytes()].concat())
}

/// A handler of that kind which answers with its payload, and tells `seen`.
fn handler<P: Payload>(kind: Kind, name: &str, seen: &mpsc::Sender<Seen>) -> Handler {
    let seen = seen.clone();
    let note = move |mode, codec, payload: &P| seen.try_send((mode, codec, payload.values(codec))).unwrap();
    let of_context = note.clone();
    let note_of = move |cx: &ActiveMessageContext, payload: &P| of_context(cx.mode(), cx.codec(), payload);
    match kind {
        Kind::inline => Handler::inline(name, move |cx: &InlineContext<'_>, payload: P| {
            note(cx.mode(), cx.codec(), &payload);
            Ok(payload)
        }),
        Kind::inline_raw => unreachable!("it has no type parameter"),
        Kind::unary => Handler::unary(name, move |cx, payload: P| {
            note_of(&cx, &payload);
            async move { Ok(payload) }
        }),
        Kind::message => Handler::message(name, move |cx, payload: P| {
            note_of(&cx, &payload);
            async move { Ok(()) }
        }),
        Kind::ordered => Handler::unary(name, move |cx, payload: P| {
            note_of(&cx, &payload);
            async move { Ok(payload) }
        })
        .ordered(),
        Kind::blocking => Handler::blocking(name, move |cx, payload: P| {
            note_of(&cx, &payload);
            Ok(payload)
        }),
        Kind::batched => {
            Handler::batched_with_contexts(name, move |batch: Vec<(ActiveMessageContext, P)>| {
                batch.iter().for_each(|(cx, payload)| note_of(cx, payload));
                async move { Ok(()) }
            })
        }
        Kind::batched_values => {
            Handler::batched_with_contexts(name, move |batch: Vec<(ActiveMessageContext, P)>| {
                batch.iter().for_each(|(cx, payload)| note_of(cx, payload));
                async move { Ok(batch.into_iter().map(|(_, payload)| Ok(payload)).collect::<Vec<_>>()) }
            })
        }
        Kind::deferred => Handler::deferred(name, move |cx, payload: P, reply: Reply<P>| {
            note_of(&cx, &payload);
            tokio::spawn(async move { reply.ok(&payload) });
        }),
    }
}

fn inline_raw(name: &str, seen: &mpsc::Sender<Seen>) -> Handler {
    let seen = seen.clone();
    Handler::inline_raw(name, move |cx, payload| {
        let raw = payload.to_raw();
        seen.try_send((cx.mode(), cx.codec(), raw.values(cx.codec()))).unwrap();
        Ok(raw)
    })
}

fn register(server: &ActiveMessageManager, kind: Kind, seen: &mpsc::Sender<Seen>) {
    let (typed, raw) = match kind {
        Kind::inline_raw => (inline_raw("typed", seen), inline_raw("raw", seen)),
        _ => (handler::<Pair>(kind, "typed", seen), handler::<Raw>(kind, "raw", seen)),
    };
    server.register(typed).unwrap();
    server.register(raw).unwrap();
}

/// One cell: each codec over each transport.
async fn check(mode: DeliveryMode, kind: Kind, outcome: Outcome) {
    let (seen, mut handled) = mpsc::channel(64);
    let rig = Rig::start().await;
    register(&rig.server, kind, &seen);
    for caller in &rig.callers {
        for codec in [Codec::MessagePack, Codec::Json, Codec::Raw] {
            let case = Case { caller, codec, mode, kind, outcome };
            match codec {
                Codec::Raw => case.run("raw", &raw_sent(), &mut handled).await,
                _ => case.run("typed", &SENT, &mut handled).await,
            }
        }
    }
    rig.end().await;
    assert!(handled.try_recv().is_err(), "a message was handled twice");
}

struct Case<'a> {
    caller: &'a Caller,
    codec: Codec,
    mode: DeliveryMode,
    kind: Kind,
    outcome: Outcome,
}

impl Case<'_> {
    async fn run<P: Payload>(&self, name: &str, payload: &P, handled: &mut mpsc::Receiver<Seen>) {
        let what = format!("{:?} by {:?} over {:?}", self.mode, self.codec, self.caller.via);
        let result = soon(&what, self.send(name, payload)).await;
        if self.outcome == Outcome::Refused {
            let error = result.expect_err(&what);
            let is_mismatch = matches!(error, CallError::Refused { reason: Refusal::ContractMismatch, .. });
            assert!(is_mismatch, "{what}: {error}");
            assert!(handled.try_recv().is_err(), "{what}: a refused message was handled");
            return;
        }
        let value = result.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(value.map(|value| value.values(self.codec)), self.mode_value(), "{what}");
        // Who was told that the handler has finished finds its traces; who was not waits for them.
        let told_after = matches!(self.outcome, Outcome::Ack | Outcome::Value | Outcome::ReceiptThenValue);
        let seen = if told_after {
            handled.try_recv().expect(&what)
        } else {
            soon(&what, handled.recv()).await.unwrap()
        };
        assert_eq!(seen, (self.mode, self.codec, SENT), "{what}");
    }

    fn mode_value(&self) -> Option<Pair> {
        matches!(self.outcome, Outcome::Value | Outcome::ReceiptThenValue).then_some(SENT)
    }

    async fn send<P: Payload>(&self, name: &str, payload: &P) -> Result<Option<P>, CallError> {
        let peer = &self.caller.peer;
        let message = self.caller.client.active_message(name).payload(payload).codec(self.codec);
        match self.mode {
            DeliveryMode::FireAndForget => message.send(peer).await.map(|_| None),
            DeliveryMode::Confirmed => message.confirmed().send(peer).await?.ack().await.map(|()| None),
            DeliveryMode::WithResponse => {
                message.expect_response::<P>().send(peer).await?.response().await.map(Some)
            }
            DeliveryMode::WithReceipt => {
                let receipt = message.with_receipt().send(peer).await?.receipt().await?;
                self.check_receipt(name, &receipt);
                Ok(None)
            }
            DeliveryMode::WithReceiptAndResponse => {
                let sent = message.with_receipt().expect_response::<P>().send(peer).await?;
                let (receipt, pending) = sent.receipt().await?;
                self.check_receipt(name, &receipt);
                pending.response().await.map(Some)
            }
        }
    }

    fn check_receipt(&self, name: &str, receipt: &dynamo_am::ReceiptAck) {
        assert_eq!(receipt.handler(), name);
        assert_eq!(receipt.contract().dispatch, self.kind.dispatch());
        assert_eq!(receipt.contract().kind, self.kind.response_type());
    }
}

macro_rules! cells {
    ($($mode:ident = $code:ident { $($kind:ident: $outcome:ident,)+ })+) => {
        const CELLS: &[(&str, &str, Outcome)] =
            &[$($((stringify!($mode), stringify!($kind), Outcome::$outcome),)+)+];
        $(
            mod $mode {
                use super::{DeliveryMode, Kind, Outcome, check};
                $(
                    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                    async fn $kind() {
                        check(DeliveryMode::$code, Kind::$kind, Outcome::$outcome).await;
                    }
                )+
            }
        )+
    };
}

cells! {
    fire_and_forget = FireAndForget {
        inline: Runs, inline_raw: Runs, unary: Runs, message: Runs, ordered: Runs,
        blocking: Runs, batched: Runs, batched_values: Runs, deferred: Runs,
    }
    confirmed = Confirmed {
        inline: Ack, inline_raw: Ack, unary: Ack, message: Ack, ordered: Ack,
        blocking: Ack, batched: Ack, batched_values: Ack, deferred: Ack,
    }
    with_response = WithResponse {
        inline: Value, inline_raw: Value, unary: Value, message: Refused, ordered: Value,
        blocking: Value, batched: Refused, batched_values: Value, deferred: Value,
    }
    with_receipt = WithReceipt {
        inline: Receipt, inline_raw: Receipt, unary: Receipt, message: Receipt, ordered: Receipt,
        blocking: Receipt, batched: Receipt, batched_values: Receipt, deferred: Receipt,
    }
    with_receipt_and_response = WithReceiptAndResponse {
        inline: ReceiptThenValue, inline_raw: ReceiptThenValue, unary: ReceiptThenValue,
        message: Refused, ordered: ReceiptThenValue, blocking: ReceiptThenValue,
        batched: Refused, batched_values: ReceiptThenValue, deferred: ReceiptThenValue,
    }
}

/// A value that cannot be encoded.
struct Unspeakable;

impl Serialize for Unspeakable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("nobody should have asked"))
    }
}

#[tokio::test]
async fn a_value_that_nobody_asked_for_is_not_encoded() {
    let node = common::caller().await;
    node.register(Handler::unary("spawned", |_cx, (): ()| async { Ok(Unspeakable) })).unwrap();
    node.register(Handler::inline("inline", |_cx, (): ()| Ok(Unspeakable))).unwrap();
    let me = node.client().myself();
    for name in ["spawned", "inline"] {
        soon("an ack", me.confirm(name, &())).await.unwrap();
        let error = soon("an answer", me.call::<()>(name, &())).await.unwrap_err();
        assert!(matches!(error, CallError::HandlerError { .. }), "{error}");
    }
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_ack_waits_for_the_handlers_end_and_a_receipt_does_not() {
    let node = common::caller().await;
    let (gate, opened) = tokio::sync::watch::channel(false);
    node.register(Handler::unary("gated", move |_cx, (): ()| {
        let mut opened = opened.clone();
        async move { opened.wait_for(|open| *open).await.map(|_| 5).map_err(HandlerError::from) }
    }))
    .unwrap();
    let client = node.client();
    let me = client.myself();
    let acked = client.active_message("gated").confirmed().send(&me).await.unwrap();
    let both =
        client.active_message("gated").with_receipt().expect_response::<i32>().send(&me).await.unwrap();
    let (_receipt, answer) = soon("a receipt of a handler that is stuck", both.receipt()).await.unwrap();
    let mut ack = std::pin::pin!(acked.ack());
    // The receipt came by the same link, later: an ack that is not there now was not sent before it.
    assert!(futures::FutureExt::now_or_never(&mut ack).is_none());
    gate.send_replace(true);
    soon("the ack", ack).await.unwrap();
    assert_eq!(soon("the value", answer.response()).await, Ok(5));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn batched_messages_arrive_together_and_are_answered_one_by_one() {
    let node = common::caller().await;
    node.register(
        Handler::batched("half", |batch: Vec<i64>| async move {
            let length = batch.len();
            Ok(batch
                .into_iter()
                .map(|n| if n % 2 == 0 { Ok((n / 2, length)) } else { Err(HandlerError::msg("odd")) })
                .collect::<Vec<_>>())
        })
        .batch(3, Duration::from_secs(10)),
    )
    .unwrap();
    let me = node.client().myself();
    let (four, five, six) = soon("a batch", async {
        tokio::join!(
            me.call::<(i64, usize)>("half", &4),
            me.call::<(i64, usize)>("half", &5),
            me.call::<(i64, usize)>("half", &6)
        )
    })
    .await;
    assert_eq!((four, six), (Ok((2, 3)), Ok((3, 3))));
    assert!(matches!(five, Err(CallError::HandlerError { message, .. }) if message == "odd"));
    node.shutdown().await.unwrap();
}

#[test]
fn each_cell_of_the_document_has_a_test() {
    let document = include_str!("../../../docs/delivery.md");
    let mut rows = document.lines().filter(|line| line.starts_with('|')).map(|line| {
        line.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    });
    let header: Vec<String> = rows.next().unwrap();
    let mut told = Vec::new();
    for row in rows.skip(1) {
        let row: Vec<String> = row;
        assert_eq!(row.len(), header.len(), "a row of the table has cells missing: {row:?}");
        for (mode, outcome) in header.iter().zip(&row).skip(1) {
            told.push((mode.clone(), row[0].clone(), outcome.clone()));
        }
    }
    let mut tested: Vec<_> = CELLS
        .iter()
        .map(|&(mode, kind, outcome)| (mode.to_owned(), kind.to_owned(), outcome.text().to_owned()))
        .collect();
    told.sort();
    tested.sort();
    assert_eq!(told, tested);
}
