//! Handlers as a user writes them: [`Handler`], whose constructor says where it runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::codec::{Decode, Encode, PayloadRef};
use super::context::{ActiveMessageContext, InlineContext};
use super::control::{ContractInfo, DispatchMode, ResponseType};
use super::handler_call::{
    Answer, Answered, Failure, HandlerCall, argument, blocking, empty_place, inline, inline_raw, reply_value,
    spawned,
};
use crate::api::call_error::HandlerError;
use crate::proto::payload::Payload;
use crate::wire::codes::NackCode;

/// A batch is handed over when it has so many messages, unless `batch` says otherwise.
const BATCH_COUNT: usize = 256;
/// A batch is handed over when its first message is this old, unless `batch` says otherwise.
const BATCH_AGE: Duration = Duration::from_millis(1);

/// A named function that peers can call. Made by the constructor that says where it runs, registered by
/// `ActiveMessageManager::register`.
///
/// ```
/// use dynamo_am::{Handler, Raw};
/// let echo = Handler::inline_raw("echo", |_cx, payload| Ok(payload.to_raw()));
/// let shout = Handler::unary("shout", |_cx, text: String| async move { Ok(text.to_uppercase()) }).limit(64);
/// assert_eq!((echo.name(), shout.name()), ("echo", "shout"));
/// ```
#[derive(Clone)]
pub struct Handler {
    pub(crate) name: String,
    pub(crate) contract: ContractInfo,
    pub(crate) call: HandlerCall,
    pub(crate) limit: Option<usize>,
    pub(crate) is_replacing: bool,
    /// Whether it takes a typed value, whatever its contract is called.
    pub(crate) is_typed: bool,
    /// An option that this kind of handler does not have; an error when it is registered.
    pub(crate) misfit: Option<&'static str>,
}

impl fmt::Debug for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handler")
            .field("name", &self.name)
            .field("contract", &self.contract)
            .finish_non_exhaustive()
    }
}

impl Handler {
    /// Runs on the link's reading task before the next message is looked at: a plain function, for what takes
    /// microseconds. It may only `try_send`.
    pub fn inline<T, R, F>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode,
        R: Encode,
        F: Fn(&InlineContext<'_>, T) -> Result<R, HandlerError> + Send + Sync + 'static,
    {
        Self::new(name, HandlerCall::Inline(inline(f)), T::type_name(), R::type_name(), DispatchMode::Inline)
    }

    /// As [`inline`](Self::inline), with the payload's octets lent as they are: nothing is copied or counted.
    pub fn inline_raw<R, F>(name: impl Into<String>, f: F) -> Self
    where
        R: Encode,
        F: Fn(&InlineContext<'_>, PayloadRef<'_>) -> Result<R, HandlerError> + Send + Sync + 'static,
    {
        Self::new(name, HandlerCall::Inline(inline_raw(f)), None, R::type_name(), DispatchMode::Inline)
    }

    /// Runs in a task of its own and answers with a value. At most `limit` run at once.
    pub fn unary<T, R, F, Fut>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode + Send,
        R: Encode,
        F: Fn(ActiveMessageContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        let call = HandlerCall::Spawned { call: spawned(f), is_ordered: false };
        Self::new(name, call, T::type_name(), R::type_name(), DispatchMode::Spawned)
    }

    /// As [`unary`](Self::unary), for handlers that have nothing to say but whether it worked; asking one for a
    /// response is refused.
    pub fn message<T, F, Fut>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode + Send,
        F: Fn(ActiveMessageContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let mut handler = Self::unary(name, f);
        handler.contract.kind = ResponseType::Message;
        handler.contract.resp = None;
        handler
    }

    /// Runs on a thread that may block. At most `limit` run at once.
    pub fn blocking<T, R, F>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode,
        R: Encode,
        F: Fn(ActiveMessageContext, T) -> Result<R, HandlerError> + Send + Sync + 'static,
    {
        let call = HandlerCall::Blocking(blocking(f));
        Self::new(name, call, T::type_name(), R::type_name(), DispatchMode::Blocking)
    }

    /// Takes many messages at a time. `Ok(())` answers all of them; a vector with one result per message, in
    /// order, answers each by itself. A message that does not decode is refused alone; cancelled ones are left
    /// out before the start.
    pub fn batched<T, O, F, Fut>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode + Send + 'static,
        O: BatchOutcome,
        F: Fn(Vec<T>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, HandlerError>> + Send + 'static,
    {
        Self::batched_with_contexts(name, move |batch: Vec<(ActiveMessageContext, T)>| {
            f(batch.into_iter().map(|(_, value)| value).collect())
        })
    }

    /// As [`batched`](Self::batched), with the context of each message.
    pub fn batched_with_contexts<T, O, F, Fut>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode + Send + 'static,
        O: BatchOutcome,
        F: Fn(Vec<(ActiveMessageContext, T)>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<O, HandlerError>> + Send + 'static,
    {
        let f = Arc::new(f);
        let call = HandlerCall::Batched {
            call: Arc::new(move |items| {
                let f = f.clone();
                Box::pin(async move { run_batch(&*f, items).await })
            }),
            count_max: BATCH_COUNT,
            age_max: BATCH_AGE,
        };
        let mut handler = Self::new(name, call, T::type_name(), O::type_name(), DispatchMode::Batched);
        if !O::HAS_RESPONSE {
            handler.contract.kind = ResponseType::Message;
        }
        handler
    }

    /// Answered later, by [`Reply`], from any task; for engines that batch by themselves. Until then it counts as
    /// running.
    pub fn deferred<T, R, F>(name: impl Into<String>, f: F) -> Self
    where
        T: Decode,
        R: Encode + 'static,
        F: Fn(ActiveMessageContext, T, Reply<R>) + Send + Sync + 'static,
    {
        let call = HandlerCall::Deferred(Arc::new(move |cx, payload, answer| {
            match argument::<T>(cx.handler(), cx.codec(), payload) {
                Ok(value) => f(cx.clone(), value, Reply::new(cx, answer)),
                Err(failure) => answer(Err(failure)),
            }
        }));
        Self::new(name, call, T::type_name(), R::type_name(), DispatchMode::Deferred)
    }

    /// A value that implements [`Service`], run in a task of its own.
    pub fn service<T, S>(name: impl Into<String>, service: S) -> Self
    where
        T: Decode + Send + 'static,
        S: Service<T>,
    {
        let service = Arc::new(service);
        Self::unary(name, move |cx, value: T| {
            let service = service.clone();
            async move { service.call(cx, value).await }
        })
    }

    fn new(
        name: impl Into<String>,
        call: HandlerCall,
        req: Option<&'static str>,
        resp: Option<&'static str>,
        dispatch: DispatchMode,
    ) -> Self {
        let contract = ContractInfo {
            kind: ResponseType::Unary,
            req: req.map(str::to_owned),
            resp: resp.map(str::to_owned),
            dispatch,
        };
        let is_typed = req.is_some();
        Self { name: name.into(), contract, call, limit: None, is_replacing: false, is_typed, misfit: None }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// At most `count` messages run at once (at least 1), or batches of a batched handler; the rest wait within
    /// their senders' credit. Not for
    /// inline handlers, of which one per link runs anyway.
    #[must_use]
    pub fn limit(mut self, count: usize) -> Self {
        if matches!(self.call, HandlerCall::Inline(_)) {
            self.misfit = Some("limit");
        }
        self.limit = Some(count.max(1));
        self
    }

    /// One at a time for each sender, in the order in which it sent them. For `unary` and `message`.
    #[must_use]
    pub fn ordered(mut self) -> Self {
        match &mut self.call {
            HandlerCall::Spawned { is_ordered, .. } => {
                *is_ordered = true;
                self.contract.dispatch = DispatchMode::Ordered;
            }
            _ => self.misfit = Some("ordered"),
        }
        self
    }

    /// Hands a batch over at `count` messages (at least 1), or when its first message is `age` old. For `batched`.
    #[must_use]
    pub fn batch(mut self, count: usize, age: Duration) -> Self {
        match &mut self.call {
            HandlerCall::Batched { count_max, age_max, .. } => {
                *count_max = count.max(1);
                *age_max = age;
            }
            _ => self.misfit = Some("batch"),
        }
        self
    }

    /// Takes the place of a handler of that name, if there is one.
    #[must_use]
    pub fn replace(mut self) -> Self {
        self.is_replacing = true;
        self
    }

    /// Names the contract, instead of the bare names of the argument's and the value's types.
    #[must_use]
    pub fn contract(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.contract.resp = Some(name.clone()).filter(|_| self.contract.kind == ResponseType::Unary);
        self.contract.req = Some(name);
        self
    }

    /// Wraps the handler: `f` runs instead, and runs it by [`Next::run`]. The last layer added runs first. For
    /// `unary`, `message` and `service`.
    ///
    /// ```
    /// # use dynamo_am::{Handler, HandlerError};
    /// let guarded = Handler::unary("sum", |_cx, (a, b): (i64, i64)| async move { Ok(a + b) }).layer(
    ///     |cx, next| async move {
    ///         if cx.extra("tenant").is_none() {
    ///             return Err(HandlerError::msg("no tenant was named"));
    ///         }
    ///         next.run(cx).await
    ///     },
    /// );
    /// # let _ = guarded;
    /// ```
    #[must_use]
    pub fn layer<F, Fut>(mut self, f: F) -> Self
    where
        F: Fn(ActiveMessageContext, Next) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<LayerReply, HandlerError>> + Send + 'static,
    {
        match &mut self.call {
            HandlerCall::Spawned { call, .. } => {
                let inner = call.clone();
                *call = Arc::new(move |cx, payload, place| {
                    let future = f(cx, Next { call: inner.clone(), payload });
                    place.set(async move { future.await?.0 });
                    Ok(())
                });
            }
            _ => self.misfit = Some("layer"),
        }
        self
    }
}

/// A handler as a value that implements a trait, for those with state and tests of their own.
pub trait Service<T>: Send + Sync + 'static {
    /// What it answers with.
    type Response: Encode;

    /// Handles one message.
    fn call(
        &self,
        cx: ActiveMessageContext,
        value: T,
    ) -> impl Future<Output = Result<Self::Response, HandlerError>> + Send;
}

/// The handler that a layer wraps.
pub struct Next {
    call: Arc<super::handler_call::SpawnedFn>,
    payload: Payload,
}

impl fmt::Debug for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Next").field("payload", &self.payload).finish_non_exhaustive()
    }
}

impl Next {
    /// Runs it. The reply also carries refusals and handler errors, so a layer that only looks on hands it back
    /// as it is.
    ///
    /// # Errors
    ///
    /// None of its own; the type is a layer's, so that `next.run(cx).await` can be its last line.
    pub async fn run(self, cx: ActiveMessageContext) -> Result<LayerReply, HandlerError> {
        let mut place = empty_place();
        let answered = match (self.call)(cx, self.payload, &mut place) {
            Ok(()) => place.await,
            Err(failure) => Err(failure),
        };
        Ok(LayerReply(answered))
    }
}

/// What the wrapped handler answered, encoded.
#[derive(Debug)]
pub struct LayerReply(Answered);

impl LayerReply {
    /// Whether it worked.
    #[must_use]
    pub const fn is_ok(&self) -> bool {
        self.0.is_ok()
    }
}

/// Answers a deferred message, once, from any task. Dropped, it answers with the error "reply dropped".
pub struct Reply<R> {
    parts: Option<(ActiveMessageContext, Answer)>,
    value: std::marker::PhantomData<fn(R)>,
}

impl<R> fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply").field("context", &self.parts.as_ref().map(|(cx, _)| cx)).finish()
    }
}

impl<R: Encode> Reply<R> {
    fn new(cx: ActiveMessageContext, answer: Answer) -> Self {
        Self { parts: Some((cx, answer)), value: std::marker::PhantomData }
    }

    /// Answers with a value.
    pub fn ok(mut self, value: &R) {
        // Encoded first: if that panics, the drop of this reply answers.
        let answered = self.parts.as_ref().map(|(cx, _)| reply_value(cx.wanted_codec(), value));
        if let (Some((_, answer)), Some(answered)) = (self.parts.take(), answered) {
            answer(answered);
        }
    }

    /// Answers with an error.
    pub fn err(mut self, error: HandlerError) {
        if let Some((_, answer)) = self.parts.take() {
            answer(Err(error.into()));
        }
    }
}

impl<R> Drop for Reply<R> {
    fn drop(&mut self) {
        if let Some((_, answer)) = self.parts.take() {
            let code = if std::thread::panicking() { NackCode::Panicked } else { NackCode::HandlerError };
            answer(Err(Failure { code, text: "reply dropped".to_owned() }));
        }
    }
}

/// What a batched handler may return: `()` for all, or one result per message.
pub trait BatchOutcome: Send + 'static {
    /// Whether messages get a value for an answer.
    const HAS_RESPONSE: bool;

    /// The name of the value's type.
    #[must_use]
    fn type_name() -> Option<&'static str> {
        None
    }

    #[doc(hidden)]
    fn into_answers(self, contexts: &[ActiveMessageContext]) -> Vec<BatchAnswer>;
}

/// The answer to one message of a batch.
#[derive(Debug)]
pub struct BatchAnswer(Answered);

impl BatchOutcome for () {
    const HAS_RESPONSE: bool = false;

    fn into_answers(self, contexts: &[ActiveMessageContext]) -> Vec<BatchAnswer> {
        contexts.iter().map(|_| BatchAnswer(Ok(None))).collect()
    }
}

impl<R: Encode + Send + 'static> BatchOutcome for Vec<Result<R, HandlerError>> {
    const HAS_RESPONSE: bool = true;

    fn type_name() -> Option<&'static str> {
        R::type_name()
    }

    fn into_answers(self, contexts: &[ActiveMessageContext]) -> Vec<BatchAnswer> {
        let mut results = self.into_iter();
        contexts
            .iter()
            .map(|cx| match results.next() {
                Some(Ok(value)) => BatchAnswer(reply_value(cx.wanted_codec(), &value)),
                Some(Err(error)) => BatchAnswer(Err(error.into())),
                None => {
                    BatchAnswer(Err(HandlerError::msg("the batch gave no result for this message").into()))
                }
            })
            .collect()
    }
}

async fn run_batch<T, O, F, Fut>(
    f: &F,
    items: Vec<(ActiveMessageContext, Payload)>,
) -> Vec<(ActiveMessageContext, Answered)>
where
    T: Decode,
    O: BatchOutcome,
    F: Fn(Vec<(ActiveMessageContext, T)>) -> Fut,
    Fut: Future<Output = Result<O, HandlerError>>,
{
    let mut answers = Vec::with_capacity(items.len());
    let mut batch = Vec::with_capacity(items.len());
    for (cx, payload) in items {
        if cx.is_cancelled() {
            answers.push((
                cx,
                Err(Failure { code: NackCode::Cancelled, text: "cancelled before it ran".into() }),
            ));
            continue;
        }
        match argument::<T>(cx.handler(), cx.codec(), payload) {
            Ok(value) => batch.push((cx, value)),
            Err(failure) => answers.push((cx, Err(failure))),
        }
    }
    if batch.is_empty() {
        return answers;
    }
    let contexts: Vec<_> = batch.iter().map(|(cx, _)| cx.clone()).collect();
    match f(batch).await {
        Ok(outcome) => {
            let results = outcome.into_answers(&contexts);
            answers.extend(contexts.into_iter().zip(results).map(|(cx, answer)| (cx, answer.0)));
        }
        Err(error) => {
            let failure = Failure::from(error);
            answers.extend(contexts.into_iter().map(|cx| (cx, Err(failure.clone()))));
        }
    }
    answers
}
