//! One peer of a node: [`PeerCore`], the sending side of whatever link it has at the moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use super::dispatch::lane::Lanes;
use super::node::Node;
use super::sweep::Sleep;
use crate::api::port::{BoxFuture, Calls, Port, PortError, Ticket, Waiting};
use crate::clock;
use crate::endpoint::Endpoint;
use crate::id::{Incarnation, InstanceId};
use crate::proto::backoff::Backoff;
use crate::proto::outgoing::Outgoing;
use crate::transport::link::{Link, SendError};
use crate::wire::codes::Codec;

/// Another instance that this one knows.
#[derive(Debug)]
pub(crate) struct PeerCore {
    instance: InstanceId,
    node: Weak<Node>,
    /// The link that new messages leave by.
    link: RwLock<Option<Arc<Link>>>,
    state: Mutex<State>,
    changed: Notify,
    /// It said goodbye and has no other link: calls fail at once.
    said_bye: AtomicBool,
    /// It has left its link for another that has not come yet.
    is_moving: AtomicBool,
    /// The last event about it was that it is up.
    is_announced: AtomicBool,
    /// It is dialled again when its link is lost.
    is_redialled: AtomicBool,
    /// The pauses before it is dialled again.
    backoff: Mutex<Backoff>,
    pub(crate) lanes: Arc<Lanes>,
    sweep: Arc<Sleep>,
}

#[derive(Debug)]
struct State {
    incarnation: Incarnation,
    endpoints: Vec<Endpoint>,
    /// Live links that are not the one new messages leave by.
    others: Vec<Arc<Link>>,
    /// Why no link will come.
    gone: Option<PortError>,
    /// Where it is dialled when it is lost, and whether it is foreign: known once we have dialled it, whichever side
    /// dialled the link that stayed.
    route: Option<(Vec<Endpoint>, bool)>,
}

impl PeerCore {
    pub(crate) fn new(instance: InstanceId, node: &Arc<Node>, incarnation: Incarnation) -> Self {
        Self {
            instance,
            node: Arc::downgrade(node),
            link: RwLock::default(),
            state: Mutex::new(State {
                incarnation,
                endpoints: Vec::new(),
                others: Vec::new(),
                gone: None,
                route: None,
            }),
            changed: Notify::new(),
            said_bye: AtomicBool::new(false),
            is_moving: AtomicBool::new(false),
            is_announced: AtomicBool::new(false),
            is_redialled: AtomicBool::new(false),
            backoff: Mutex::new(Backoff::up_to(node.limits.redial_wait_max)),
            lanes: node.lanes.of(instance),
            sweep: node.sweep.clone(),
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        self.state.lock().incarnation
    }

    pub(crate) fn set_hello(&self, incarnation: Incarnation, endpoints: Vec<Endpoint>) {
        let mut state = self.state.lock();
        state.incarnation = incarnation;
        state.endpoints = endpoints;
    }

    /// The link that new messages leave by.
    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        self.link.read().clone()
    }

    /// All its live links.
    pub(crate) fn links(&self) -> Vec<Arc<Link>> {
        let first = self.link();
        let others = self.state.lock().others.clone();
        first.into_iter().chain(others).collect()
    }

    /// A link has come. It becomes the one that messages leave by if there is none that `stands`, or `preferred` says
    /// so; gives the link that it replaced.
    pub(crate) fn attach(
        &self,
        link: Arc<Link>,
        preferred: bool,
        stands: impl Fn(&Link) -> bool,
    ) -> Option<Arc<Link>> {
        let replaced = {
            let mut current = self.link.write();
            let mut state = self.state.lock();
            state.gone = None;
            if current.as_ref().is_some_and(|old| stands(old)) && !preferred {
                state.others.push(link);
                None
            } else {
                let old = current.replace(link);
                state.others.extend(old.clone());
                old
            }
        };
        self.said_bye.store(false, Ordering::Release);
        self.is_moving.store(false, Ordering::Release);
        self.changed.notify_waiters();
        replaced
    }

    /// A link has ended, or carries no new messages any more; another takes its place, if there is one. `true`
    /// when none is left.
    pub(crate) fn detach(&self, link: &Arc<Link>, is_over: bool) -> bool {
        let is_last = {
            let mut current = self.link.write();
            let mut state = self.state.lock();
            if is_over {
                state.others.retain(|other| !Arc::ptr_eq(other, link));
            }
            if current.as_ref().is_some_and(|old| Arc::ptr_eq(old, link)) {
                let next = state.others.iter().position(|other| other.is_usable());
                let old = match next {
                    Some(next) => current.replace(state.others.swap_remove(next)),
                    None => current.take(),
                };
                if !is_over {
                    state.others.extend(old);
                }
            }
            current.is_none()
        };
        self.changed.notify_waiters();
        is_last
    }

    /// The peer says that it takes no new messages on `link`: since another has taken its place, which is on its way
    /// if it is not here yet, or since it is going.
    pub(crate) fn handle_bye(&self, link: &Arc<Link>, moved: bool) {
        if self.detach(link, false) {
            let flag = if moved { &self.is_moving } else { &self.said_bye };
            flag.store(true, Ordering::Release);
            self.changed.notify_waiters();
        }
    }

    /// Notes that the peer is up or down; `true` when that is news.
    pub(crate) fn announce(&self, is_up: bool) -> bool {
        self.is_announced.swap(is_up, Ordering::AcqRel) != is_up
    }

    /// From now on a lost link is dialled again, or no more.
    pub(crate) fn set_redialled(&self, redialled: bool) {
        self.is_redialled.store(redialled, Ordering::Release);
        self.changed.notify_waiters();
    }

    pub(crate) fn is_redialled(&self) -> bool {
        self.is_redialled.load(Ordering::Acquire)
    }

    /// Notes where it was dialled.
    pub(crate) fn set_route(&self, endpoints: &[Endpoint], is_foreign: bool) {
        self.state.lock().route = Some((endpoints.to_vec(), is_foreign));
    }

    /// Where it was dialled.
    pub(crate) fn route(&self) -> Option<(Vec<Endpoint>, bool)> {
        self.state.lock().route.clone()
    }

    /// How long to wait before it is dialled again; `draw` is a random number.
    pub(crate) fn next_redial_wait(&self, draw: u32) -> Duration {
        self.backoff.lock().next_wait(draw)
    }

    /// Dialling it again fails for a reason that will hardly pass.
    pub(crate) fn redial_slowly(&self) {
        self.backoff.lock().jump_to_max();
    }

    /// A link to it has lasted.
    pub(crate) fn redial_soon(&self) {
        self.backoff.lock().reset();
    }

    /// No link will come any more: calls fail at once, and say why.
    pub(crate) fn give_up(&self, reason: PortError) {
        self.set_redialled(false);
        self.state.lock().gone = Some(reason);
        self.changed.notify_waiters();
    }

    pub(crate) fn node_stopped(&self) {
        self.link.write().take();
        self.state.lock().others.clear();
        self.give_up(PortError::Stopped("this node has shut down"));
    }

    /// What a call finds that has no link.
    fn without_link(&self) -> PortError {
        if let Some(gone) = self.state.lock().gone.clone() {
            return gone;
        }
        if self.node.upgrade().is_none_or(|node| node.is_stopped()) {
            return PortError::Stopped("this node has shut down");
        }
        if self.said_bye.load(Ordering::Acquire) {
            return PortError::Gone("the peer has shut down".to_owned());
        }
        if self.is_redialled() || self.is_moving.load(Ordering::Acquire) {
            return PortError::NotConnected;
        }
        PortError::Gone("the link to the peer has ended, and it is not one that this node dials".to_owned())
    }

    fn refused(&self, error: SendError) -> PortError {
        match error {
            SendError::Full => PortError::Full,
            SendError::PendingFull { limit } => {
                self.reached("pending_calls_max");
                PortError::PendingFull { limit }
            }
            SendError::TooLarge { limit } => {
                self.reached("payload_len_max");
                PortError::TooLarge { limit }
            }
            SendError::NeverAnswers => PortError::NeverAnswers,
            SendError::TakesNoMessages => PortError::TakesNoMessages,
            SendError::Retired if self.node.upgrade().is_some_and(|node| node.is_draining()) => {
                PortError::Stopped("this node is shutting down")
            }
            // The link is on its way out; whether another comes is for those who wait to see.
            SendError::Ended | SendError::Retired => match self.without_link() {
                gone @ (PortError::Gone(_) | PortError::Stopped(_)) if self.link().is_none() => gone,
                _ => PortError::NotConnected,
            },
        }
    }

    fn reached(&self, limit: &str) {
        if let Some(node) = self.node.upgrade() {
            node.counters.limits.reached(limit);
        }
    }

    fn ticket(message: &Outgoing<'_>, link: &Arc<Link>, id: u64) -> Ticket {
        let calls = message.mode.is_answered().then(|| link.clone() as Arc<dyn Calls>);
        Ticket { id, calls }
    }

    async fn send_when_possible(&self, message: Waiting) -> Result<Ticket, PortError> {
        loop {
            let changed = self.changed.notified();
            let mut changed = std::pin::pin!(changed);
            changed.as_mut().enable();
            let Some(link) = self.link() else {
                match self.without_link() {
                    PortError::NotConnected => changed.await,
                    gone => return Err(gone),
                }
                continue;
            };
            match self.send_on(&link, &message).await {
                Err(SendError::Ended | SendError::Retired) => {
                    // A message that waited for this link's credit when it ended has not been sent.
                    if link.end_reason().is_some() || link.is_retired() {
                        if self.link().is_some_and(|now| !Arc::ptr_eq(&now, &link)) {
                            continue;
                        }
                        let node_drains = self.node.upgrade().is_none_or(|node| node.is_draining());
                        if node_drains {
                            return Err(PortError::Stopped("this node is shutting down"));
                        }
                        if self.link().is_none()
                            && let gone @ (PortError::Gone(_) | PortError::Stopped(_)) = self.without_link()
                        {
                            return Err(gone);
                        }
                    }
                    changed.await;
                }
                sent => {
                    let id = sent.map_err(|error| self.refused(error))?;
                    return Ok(Self::ticket(&message.as_outgoing(clock::now()), &link, id));
                }
            }
        }
    }

    async fn send_on(&self, link: &Arc<Link>, message: &Waiting) -> Result<u64, SendError> {
        /// Leaves the queue however the wait ends.
        struct Place<'a>(&'a Link, Option<u64>);
        impl Drop for Place<'_> {
            fn drop(&mut self) {
                self.0.leave_queue(&mut self.1);
            }
        }
        let mut place = Place(link, None);
        std::future::poll_fn(|cx| link.poll_send(&message.as_outgoing(clock::now()), &mut place.1, cx)).await
    }
}

impl Port for PeerCore {
    fn instance(&self) -> InstanceId {
        self.instance
    }

    fn incarnation(&self) -> Incarnation {
        Self::incarnation(self)
    }

    #[inline]
    fn try_send(&self, message: &Outgoing<'_>, watcher: Option<&Waker>) -> Result<Ticket, PortError> {
        let link = self.link.read();
        let Some(link) = link.as_ref() else { return Err(self.without_link()) };
        match link.try_send(message, watcher) {
            Ok(id) => {
                if message.mode.is_answered() {
                    self.sweep.wake();
                }
                Ok(Self::ticket(message, link, id))
            }
            Err(error @ (SendError::Ended | SendError::Retired)) => {
                let node_drains = self.node.upgrade().is_none_or(|node| node.is_draining());
                match error {
                    _ if node_drains => Err(PortError::Stopped("this node is shutting down")),
                    _ => Err(PortError::NotConnected),
                }
            }
            Err(error) => Err(self.refused(error)),
        }
    }

    #[inline]
    fn try_notify(&self, handler: &str, codec: Codec, payload: &[u8]) -> bool {
        self.link.read().as_ref().is_some_and(|link| link.try_notify(handler, codec, payload))
    }

    fn send(self: Arc<Self>, message: Waiting) -> BoxFuture<'static, Result<Ticket, PortError>> {
        Box::pin(async move {
            let nested = message.depth > 0;
            let deadline = message.deadline;
            let nested_wait = self.node.upgrade().map_or(Duration::ZERO, |node| node.limits.nested_wait_max);
            let until = if nested { deadline.min(clock::now() + nested_wait) } else { deadline };
            let sent = self.send_when_possible(message);
            match tokio::time::timeout_at(until.into(), sent).await {
                Ok(sent) => sent,
                Err(_) if until < deadline => {
                    self.reached("nested_wait_max");
                    Err(PortError::Overloaded)
                }
                Err(_) => Err(PortError::Expired),
            }
        })
    }

    fn endpoints(&self) -> Vec<Endpoint> {
        self.state.lock().endpoints.clone()
    }

    fn is_connected(&self) -> bool {
        self.link.read().is_some()
    }
}

impl Calls for Link {
    fn poll_outcome(
        &self,
        id: u64,
        cx: &std::task::Context<'_>,
    ) -> std::task::Poll<crate::proto::pending::Outcome> {
        Self::poll_outcome(self, id, cx)
    }

    fn poll_receipt(
        &self,
        id: u64,
        cx: &std::task::Context<'_>,
    ) -> std::task::Poll<Result<crate::proto::pending::ReceiptReply, crate::proto::pending::Outcome>> {
        Self::poll_receipt(self, id, cx)
    }

    fn abandon(&self, id: u64) {
        Self::abandon(self, id);
    }
}
