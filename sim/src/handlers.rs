//! The handlers of a node: each does what the payload tells it, and writes down that it did.

use std::sync::Arc;
use std::time::Duration;

use dynamo_am::{
    ActiveMessageContext, ActiveMessageManager, Handler, HandlerError, InlineContext, PayloadRef, Raw,
    RegisterError, Reply,
};
use tokio::time::sleep;

use crate::calls::{self, Spec};
use crate::log::{Done, Event, Life, Log, Number};
use crate::message::{self, Kind, Mode, Outcome, Plan};

/// How few run at once in the handler that takes few, how many a batch has, and how old it gets.
#[derive(Debug, Clone, Copy)]
pub struct HandlerLimits {
    /// At once in the limited handler.
    pub limited: usize,
    /// Messages of a batch.
    pub batch: usize,
    /// How long its first one waits.
    pub batch_age: Duration,
}

/// What begins a panic that a payload asked for; the panic hook knows it.
pub const PANIC_ON_PURPOSE: &str = "sim: on purpose";

/// What handlers need to know of where they are.
#[derive(Debug, Clone)]
struct Here {
    log: Arc<Log>,
    life: Life,
}

/// A handler that runs; whatever becomes of it is written down.
#[derive(Debug)]
struct Running {
    log: Arc<Log>,
    number: Number,
    is_over: bool,
}

impl Running {
    fn end(mut self, done: Done) {
        self.is_over = true;
        self.log.push(Event::Done(self.number, done));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.is_over {
            let done = if std::thread::panicking() { Done::Panicked } else { Done::Dropped };
            self.log.push(Event::Done(self.number, done));
        }
    }
}

impl Here {
    fn start(
        &self,
        kind: Kind,
        octets: &[u8],
        sender: String,
        time_left: Option<Duration>,
    ) -> Result<(Running, Plan), HandlerError> {
        let Some((number, plan, is_intact)) = message::read(octets) else {
            self.log.wrong(format!("`{}` was given a payload that nobody sent", kind.name()));
            return Err(HandlerError::msg("no payload of this run"));
        };
        let at = self.life;
        self.log.push(Event::Start { number, at, kind, sender, time_left, is_intact });
        Ok((Running { log: self.log.clone(), number, is_over: false }, plan))
    }

    fn begin(
        &self,
        kind: Kind,
        cx: &ActiveMessageContext,
        raw: &Raw,
    ) -> Result<(Running, Plan), HandlerError> {
        self.start(kind, &raw.0, cx.sender().instance_id().to_string(), Some(cx.time_left()))
    }

    /// A handler that runs in a task.
    async fn work(&self, kind: Kind, cx: ActiveMessageContext, raw: Raw) -> Result<Raw, HandlerError> {
        let (running, plan) = self.begin(kind, &cx, &raw)?;
        pause(plan).await;
        if kind == Kind::Nested {
            self.call_on(&cx, running.number, plan).await;
        }
        if kind == Kind::Never {
            cx.cancelled().await;
        }
        finish(running, kind, &plan)
    }

    /// Calls another peer from within a handler.
    async fn call_on(&self, cx: &ActiveMessageContext, number: Number, plan: Plan) {
        let peers = cx.client().peers();
        let next = number as usize % peers.len().max(1);
        let Some(peer) = peers.get(next).cloned() else { return };
        // Every other one calls a handler that calls on in turn, until the depth or a limit ends it.
        let kind = if number.is_multiple_of(2) { Kind::Unary } else { Kind::Nested };
        let spec = Spec {
            kind,
            mode: Mode::Response,
            plan: Plan { outcome: Outcome::Well, payload_len: 0, reply_len: 8, ..plan },
            deadline: Duration::from_secs(4),
            task: 0,
            give_up_after: None,
            is_nested: true,
        };
        calls::run(&self.log, self.life, &cx.client(), &peer, spec).await;
    }
}

async fn pause(plan: Plan) {
    if plan.work_ms > 0 {
        sleep(Duration::from_millis(plan.work_ms.into())).await;
    }
}

fn finish(running: Running, kind: Kind, plan: &Plan) -> Result<Raw, HandlerError> {
    match plan.outcome {
        Outcome::Well => {
            let reply = message::reply(running.number, kind, plan);
            running.end(Done::Well);
            Ok(reply)
        }
        Outcome::Fail => {
            running.end(Done::Failed);
            Err(HandlerError::msg("as told"))
        }
        Outcome::Panic => panic!("{PANIC_ON_PURPOSE}"),
    }
}

/// Registers all handlers at a node.
///
/// # Errors
///
/// When the node does not take one.
pub fn register(
    node: &ActiveMessageManager,
    log: &Arc<Log>,
    life: Life,
    limits: &HandlerLimits,
) -> Result<(), RegisterError> {
    let here = Here { log: log.clone(), life };
    for kind in [Kind::Inline, Kind::InlineToo] {
        node.register(inline(here.clone(), kind))?;
    }
    for kind in [Kind::Unary, Kind::Ordered, Kind::Limited, Kind::Nested, Kind::Never] {
        let handler = unary(here.clone(), kind);
        node.register(match kind {
            Kind::Ordered => handler.ordered(),
            Kind::Limited => handler.limit(limits.limited),
            _ => handler,
        })?;
    }
    node.register(without_response(here.clone()))?;
    node.register(deferred(here.clone()))?;
    node.register(batched(here).batch(limits.batch, limits.batch_age))
}

fn inline(here: Here, kind: Kind) -> Handler {
    Handler::inline_raw(kind.name(), move |cx: &InlineContext<'_>, octets: PayloadRef<'_>| {
        let sender = cx.sender().instance_id().to_string();
        let (running, plan) = here.start(kind, &octets, sender, cx.time_left())?;
        finish(running, kind, &plan)
    })
}

fn unary(here: Here, kind: Kind) -> Handler {
    Handler::unary(kind.name(), move |cx, raw: Raw| {
        let here = here.clone();
        async move { here.work(kind, cx, raw).await }
    })
}

fn without_response(here: Here) -> Handler {
    Handler::message(Kind::Message.name(), move |cx, raw: Raw| {
        let here = here.clone();
        async move { here.work(Kind::Message, cx, raw).await.map(drop) }
    })
}

fn deferred(here: Here) -> Handler {
    Handler::deferred(Kind::Deferred.name(), move |cx, raw: Raw, reply: Reply<Raw>| {
        let (running, plan) = match here.begin(Kind::Deferred, &cx, &raw) {
            Ok(begun) => begun,
            Err(error) => return reply.err(error),
        };
        tokio::spawn(async move {
            pause(plan).await;
            match plan.outcome {
                Outcome::Well => {
                    let value = message::reply(running.number, Kind::Deferred, &plan);
                    running.end(Done::Well);
                    reply.ok(&value);
                }
                Outcome::Fail => {
                    running.end(Done::Failed);
                    reply.err(HandlerError::msg("as told"));
                }
                // A reply that is dropped is an error too.
                Outcome::Panic => running.end(Done::Failed),
            }
        });
    })
}

fn batched(here: Here) -> Handler {
    Handler::batched_with_contexts(Kind::Batched.name(), move |batch: Vec<(ActiveMessageContext, Raw)>| {
        let here = here.clone();
        async move {
            let begun: Vec<_> = batch.iter().map(|(cx, raw)| here.begin(Kind::Batched, cx, raw)).collect();
            let longest = begun.iter().flatten().max_by_key(|(_, plan)| plan.work_ms);
            if let Some((_, plan)) = longest {
                pause(*plan).await;
            }
            if begun.iter().flatten().any(|(_, plan)| plan.outcome == Outcome::Panic) {
                panic!("{PANIC_ON_PURPOSE}");
            }
            Ok(begun
                .into_iter()
                .map(|begun| begun.and_then(|(running, plan)| finish(running, Kind::Batched, &plan)))
                .collect::<Vec<Result<Raw, HandlerError>>>())
        }
    })
}
