//! The handlers of a node: [`Registry`].
//!
//! **Invariants.** A change of the table moves `generation`, so that a link which remembers its last handler
//! knows whether it still stands.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Semaphore, broadcast};

use super::counters::HandlerCounters;
use super::dispatch::batch::Batcher;
use super::dispatch::gate::Gate;
use super::node::Node;
use crate::api::control::ContractInfo;
use crate::api::control::check_name;
use crate::api::handler::Handler;
use crate::api::handler_call::HandlerCall;
use crate::error::RegisterError;
use crate::limits::Limits;

/// Names of blocking handlers run at most so many at once unless they say otherwise: threads are dear.
const BLOCKING_CONCURRENCY: usize = 64;
/// Events kept for a reader that lags.
const HANDLER_EVENTS_KEPT: usize = 256;

/// A registered handler with what runs of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: u64,
    pub(crate) name: Arc<str>,
    pub(crate) contract: ContractInfo,
    pub(crate) call: HandlerCall,
    pub(crate) is_system: bool,
    /// Whether it takes a typed value, which raw octets are not.
    pub(crate) is_typed: bool,
    pub(crate) gate: Gate,
    /// The same limit for messages that do not enter one by one: ordered ones, and batches.
    pub(crate) permits: Semaphore,
    pub(crate) batcher: Batcher,
    pub(crate) counters: HandlerCounters,
}

/// A change of the handlers.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerEvent {
    /// All handlers as they are: the first event, and again after events were missed.
    Snapshot(Vec<String>),
    /// A handler came, or took another's place.
    Registered(String),
    /// A handler went.
    Unregistered(String),
}

/// Changes of the handlers, beginning with a snapshot.
#[derive(Debug)]
pub struct HandlerEvents {
    registry: Arc<Registry>,
    receiver: broadcast::Receiver<HandlerEvent>,
    snapshot_due: bool,
}

impl HandlerEvents {
    /// The next event; `None` after the node's end. A reader that lags gets a fresh snapshot instead of what it
    /// missed.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<HandlerEvent> {
        loop {
            if std::mem::take(&mut self.snapshot_due) {
                self.receiver = self.registry.subscribe();
                return Some(HandlerEvent::Snapshot(self.registry.user_names()));
            }
            match self.receiver.recv().await {
                Ok(event) => return Some(event),
                Err(broadcast::error::RecvError::Lagged(_)) => self.snapshot_due = true,
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    }
}

/// Adds a user's handler to a node, and tells those who wait for it.
pub(crate) fn register(node: &Node, handler: Handler) -> Result<(), RegisterError> {
    if node.is_draining() {
        return Err(RegisterError::NodeStopped);
    }
    let name = handler.name().to_owned();
    let registered = node.registry.register(handler, &node.limits);
    if matches!(registered, Err(RegisterError::TooMany { .. })) {
        node.counters.limits.reached("handlers_max");
    }
    registered?;
    node.handler_waiters.registered(&name);
    Ok(())
}

/// The table of handlers.
#[derive(Debug)]
pub(crate) struct Registry {
    table: RwLock<HashMap<Box<[u8]>, Arc<Entry>>>,
    /// Handlers that are in the table no more, and may still have messages that wait.
    removed: Mutex<Vec<Weak<Entry>>>,
    generation: AtomicU64,
    next_id: AtomicU64,
    /// `None` after the node's end, so that readers see theirs.
    events: Mutex<Option<broadcast::Sender<HandlerEvent>>>,
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.drop_waiting();
    }
}

impl Registry {
    pub(crate) fn new() -> Self {
        Self {
            table: RwLock::default(),
            removed: Mutex::default(),
            generation: AtomicU64::new(0),
            next_id: AtomicU64::new(0),
            events: Mutex::new(Some(broadcast::channel(HANDLER_EVENTS_KEPT).0)),
        }
    }

    /// Moves with each change.
    #[inline]
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    #[inline]
    pub(crate) fn find(&self, name: &[u8]) -> Option<Arc<Entry>> {
        self.table.read().get(name).cloned()
    }

    /// Adds a user's handler.
    pub(crate) fn register(&self, handler: Handler, limits: &Limits) -> Result<(), RegisterError> {
        let name = handler.name.as_str();
        let invalid = |reason| RegisterError::Name { name: name.chars().take(64).collect(), reason };
        check_name(name).map_err(invalid)?;
        if name.starts_with('_') {
            return Err(invalid("names beginning with `_` belong to the runtime"));
        }
        if let Some(option) = handler.misfit {
            let kind = dispatch_name(&handler);
            return Err(RegisterError::Option { name: handler.name, option, kind });
        }
        self.insert(handler, limits, false)
    }

    /// Adds a handler of the runtime.
    pub(crate) fn register_system(&self, handler: Handler, limits: &Limits) -> Result<(), RegisterError> {
        self.insert(handler, limits, true)
    }

    fn insert(&self, handler: Handler, limits: &Limits, is_system: bool) -> Result<(), RegisterError> {
        let concurrency = handler.limit.unwrap_or(match handler.call {
            HandlerCall::Blocking(_) => BLOCKING_CONCURRENCY.min(limits.handler_concurrency),
            HandlerCall::Deferred(_) if is_system => limits.handler_waiters_max,
            _ => limits.handler_concurrency,
        });
        let entry = Arc::new(Entry {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            name: handler.name.as_str().into(),
            contract: handler.contract,
            call: handler.call,
            is_system,
            is_typed: handler.is_typed,
            gate: Gate::new(concurrency, limits.handler_queue_len),
            permits: Semaphore::new(concurrency.min(Semaphore::MAX_PERMITS)),
            batcher: Batcher::default(),
            counters: HandlerCounters::new(&handler.name),
        });
        {
            let mut table = self.table.write();
            let is_taken = table.contains_key(handler.name.as_bytes());
            if is_taken && !handler.is_replacing {
                return Err(RegisterError::Taken { name: handler.name });
            }
            if !is_taken && table.len() >= limits.handlers_max {
                return Err(RegisterError::TooMany { limit: limits.handlers_max });
            }
            let replaced = table.insert(handler.name.as_bytes().into(), entry);
            self.generation.fetch_add(1, Ordering::Release);
            drop(table);
            replaced.iter().for_each(|entry| self.note_removed(entry));
        }
        if !is_system {
            self.emit(HandlerEvent::Registered(handler.name));
        }
        Ok(())
    }

    /// Removes a user's handler; what runs of it runs on.
    pub(crate) fn unregister(&self, name: &str) -> bool {
        if name.starts_with('_') {
            return false;
        }
        let removed = {
            let mut table = self.table.write();
            self.generation.fetch_add(1, Ordering::Release);
            table.remove(name.as_bytes())
        };
        removed.iter().for_each(|entry| self.note_removed(entry));
        let removed = removed.is_some();
        if removed {
            self.emit(HandlerEvent::Unregistered(name.to_owned()));
        }
        removed
    }

    /// All handlers by name.
    pub(crate) fn list(&self, with_system: bool) -> Vec<Arc<Entry>> {
        let mut entries: Vec<_> =
            self.table.read().values().filter(|entry| with_system || !entry.is_system).cloned().collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        entries
    }

    fn note_removed(&self, entry: &Arc<Entry>) {
        let mut removed = self.removed.lock();
        removed.retain(|entry| entry.strong_count() > 0);
        removed.push(Arc::downgrade(entry));
    }

    /// The node has ended: so do the events, and nobody will run what waits.
    pub(crate) fn close(&self) {
        self.events.lock().take();
        self.drop_waiting();
    }

    /// Jobs that wait hold their handler, which holds them.
    fn drop_waiting(&self) {
        let mut entries: Vec<_> = self.table.read().values().cloned().collect();
        entries.extend(self.removed.lock().iter().filter_map(Weak::upgrade));
        for entry in entries {
            drop((entry.gate.take_waiting(), entry.batcher.take_waiting()));
        }
    }

    fn emit(&self, event: HandlerEvent) {
        if let Some(events) = &*self.events.lock() {
            let _ = events.send(event);
        }
    }

    fn subscribe(&self) -> broadcast::Receiver<HandlerEvent> {
        match &*self.events.lock() {
            Some(events) => events.subscribe(),
            // Nobody sends any more, so the stream is over at once.
            None => broadcast::channel(1).1,
        }
    }

    fn user_names(&self) -> Vec<String> {
        self.list(false).iter().map(|entry| entry.name.to_string()).collect()
    }

    pub(crate) fn events(self: &Arc<Self>) -> HandlerEvents {
        HandlerEvents { registry: self.clone(), receiver: self.subscribe(), snapshot_due: true }
    }
}

const fn dispatch_name(handler: &Handler) -> &'static str {
    match handler.call {
        HandlerCall::Inline(_) => "inline",
        HandlerCall::Spawned { .. } => "unary and message",
        HandlerCall::Blocking(_) => "blocking",
        HandlerCall::Batched { .. } => "batched",
        HandlerCall::Deferred(_) => "deferred",
    }
}
