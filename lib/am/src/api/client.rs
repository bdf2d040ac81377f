//! The calling side: [`Client`] finds peers, [`Peer`] is one of them.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::builder::{MessageBuilder, NoPayload};
use super::codec::{Decode, Encode, sent_codec, with_encoded};
use super::context::Request;
use super::handler::Handler;
use super::link_event::LinkEvents;
use super::port::{NodePort, Port, PortError, Probe, Waiting};
use super::status::{FireAndForget, MessageStatus};
use crate::api::call_error::CallError;
use crate::api::control::check_name;
use crate::clock;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{ConnectError, RegisterError};
use crate::id::{Incarnation, InstanceId};
use crate::proto::outgoing::Outgoing;
use crate::wire::codes::DeliveryMode;

/// What calls inherit: nothing, or deadline, depth and cancellation of the call that they are made in.
#[derive(Clone, Debug)]
pub(crate) enum Scope {
    Root,
    Nested(Arc<Request>),
}

impl Scope {
    pub(crate) fn depth(&self) -> u8 {
        match self {
            Self::Root => 0,
            Self::Nested(request) => request.facts.depth.saturating_add(1),
        }
    }

    /// The deadline of a call that asks for `timeout`: never later than the outer call's.
    pub(crate) fn deadline(&self, timeout: Duration) -> Instant {
        let own = clock::now() + timeout;
        match self {
            Self::Root => own,
            Self::Nested(request) => own.min(request.facts.deadline),
        }
    }
}

/// Something that names an endpoint: text, or an [`Endpoint`].
pub trait IntoEndpoint {
    /// The endpoint.
    ///
    /// # Errors
    ///
    /// When the text is none.
    fn into_endpoint(self) -> Result<Endpoint, EndpointError>;
}

impl IntoEndpoint for Endpoint {
    fn into_endpoint(self) -> Result<Endpoint, EndpointError> {
        Ok(self)
    }
}

impl IntoEndpoint for &Endpoint {
    fn into_endpoint(self) -> Result<Endpoint, EndpointError> {
        Ok(self.clone())
    }
}

impl IntoEndpoint for &str {
    fn into_endpoint(self) -> Result<Endpoint, EndpointError> {
        self.parse()
    }
}

impl IntoEndpoint for String {
    fn into_endpoint(self) -> Result<Endpoint, EndpointError> {
        self.parse()
    }
}

impl IntoEndpoint for &String {
    fn into_endpoint(self) -> Result<Endpoint, EndpointError> {
        self.parse()
    }
}

/// Calls peers. Cheap to clone; keeps no node alive.
#[derive(Clone)]
pub struct Client {
    node: Arc<dyn NodePort>,
    scope: Scope,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("instance", &self.node.facts().instance).finish_non_exhaustive()
    }
}

impl Client {
    pub(crate) fn new(node: Arc<dyn NodePort>, scope: Scope) -> Self {
        Self { node, scope }
    }

    /// The node's own instance.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.node.facts().instance
    }

    /// Connects to a node. Connected already, by whatever endpoint, it gives that peer and disturbs nothing. A
    /// peer that is lost later is dialled again until [`disconnect`](Self::disconnect).
    ///
    /// # Errors
    ///
    /// After 5 s (`connect_timeout`) at the latest, with the reason of each attempt.
    ///
    /// # Cancel safety
    ///
    /// Dropped, it leaves no new link.
    pub async fn connect(&self, endpoint: impl IntoEndpoint) -> Result<Peer, ConnectError> {
        let endpoint = endpoint.into_endpoint()?;
        self.connect_to(vec![endpoint], None).await
    }

    /// As [`connect`](Self::connect), trying several endpoints of one node: `ipc` first, then in order.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_any<E: IntoEndpoint>(
        &self,
        endpoints: impl IntoIterator<Item = E>,
    ) -> Result<Peer, ConnectError> {
        let mut endpoints =
            endpoints.into_iter().map(IntoEndpoint::into_endpoint).collect::<Result<Vec<_>, _>>()?;
        endpoints.sort_by_key(|endpoint| endpoint.ipc_path().is_none());
        self.connect_to(endpoints, None).await
    }

    /// As [`connect`](Self::connect), and refuses whoever is not `instance`.
    ///
    /// # Errors
    ///
    /// [`ConnectError::WrongInstance`] besides those of [`connect`](Self::connect).
    pub async fn connect_as(
        &self,
        instance: InstanceId,
        endpoint: impl IntoEndpoint,
    ) -> Result<Peer, ConnectError> {
        let endpoint = endpoint.into_endpoint()?;
        self.connect_to(vec![endpoint], Some(instance)).await
    }

    /// Connects to a bound socket of any ZeroMQ library: ROUTER, REP, DEALER, REQ, PULL or PUSH. It gets a fresh
    /// instance id.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn connect_foreign(&self, endpoint: impl IntoEndpoint) -> Result<Peer, ConnectError> {
        let port = self.node.connect_foreign(endpoint.into_endpoint()?).await?;
        Ok(self.peer_of(port))
    }

    async fn connect_to(
        &self,
        endpoints: Vec<Endpoint>,
        expected: Option<InstanceId>,
    ) -> Result<Peer, ConnectError> {
        let port = self.node.connect(endpoints, expected).await?;
        Ok(self.peer_of(port))
    }

    /// Asks a node who it is, and leaves no link.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn probe(&self, endpoint: impl IntoEndpoint) -> Result<Probe, ConnectError> {
        self.node.probe(endpoint.into_endpoint()?).await
    }

    /// This node as a peer of itself.
    #[must_use]
    pub fn myself(&self) -> Peer {
        self.peer_of(self.node.myself())
    }

    /// The peers that have a link right now.
    #[must_use]
    pub fn peers(&self) -> Vec<Peer> {
        self.node.peers().into_iter().map(|port| self.peer_of(port)).collect()
    }

    /// The peer of that id, if it has a link right now.
    #[must_use]
    pub fn peer(&self, instance: InstanceId) -> Option<Peer> {
        self.node.peer(instance).map(|port| self.peer_of(port))
    }

    /// Says goodbye to a peer, and dials it no more. Calls that are running still get their answers.
    pub async fn disconnect(&self, peer: &Peer) {
        self.node.disconnect(peer.instance_id()).await;
    }

    /// What happens to links from now on.
    #[must_use]
    pub fn link_events(&self) -> LinkEvents {
        self.node.link_events()
    }

    /// Adds a handler to the node, as its manager's `register` does: for libraries that are handed a client.
    ///
    /// # Errors
    ///
    /// As the manager's, and when the node has ended.
    pub fn register(&self, handler: Handler) -> Result<(), RegisterError> {
        self.node.register(handler)
    }

    /// Removes a handler; what runs of it runs on. `false` when there is none of that name.
    pub fn unregister(&self, name: &str) -> bool {
        self.node.unregister(name)
    }

    /// Runs a task that belongs to the node: it is dropped where it waits when the node ends, and a drain does not
    /// wait for it. On a node that has ended it does not begin.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.node.spawn(Box::pin(task));
    }

    /// Begins a message to the handler of that name, fire-and-forget unless said otherwise.
    pub fn active_message<'a>(&self, handler: &'a str) -> MessageBuilder<'a, FireAndForget, NoPayload> {
        MessageBuilder::new(handler, self.scope.clone(), *self.node.facts())
    }

    /// The same client, whose calls inherit nothing.
    pub(crate) fn root(&self) -> Self {
        Self { node: self.node.clone(), scope: Scope::Root }
    }

    /// What [`share`](Self::share) was given under this key, if it is still alive.
    pub(crate) fn shared(&self, key: &str) -> Option<Arc<dyn Any + Send + Sync>> {
        self.node.shared(key)
    }

    /// Lets all clients of the node find a value, as long as somebody else keeps it alive.
    pub(crate) fn share(&self, key: String, value: &Arc<dyn Any + Send + Sync>) {
        self.node.share(key, value);
    }

    fn peer_of(&self, port: Arc<dyn Port>) -> Peer {
        Peer { port, node: self.node.clone(), scope: self.scope.clone() }
    }
}

/// Another node, or this one, as something to call. Cheap to clone; keeps neither a node nor a link alive.
#[derive(Clone)]
pub struct Peer {
    pub(crate) port: Arc<dyn Port>,
    node: Arc<dyn NodePort>,
    scope: Scope,
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.instance_id()).finish()
    }
}

impl Peer {
    /// Its instance.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.port.instance()
    }

    /// The client that it was got from, for messages that need more than [`call`](Self::call) offers.
    #[must_use]
    pub fn client(&self) -> Client {
        Client { node: self.node.clone(), scope: self.scope.clone() }
    }

    /// Which start of the instance it is, as of its last handshake: a process that comes back under the same
    /// instance id has another.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.port.incarnation()
    }

    /// Where it listens, as it says itself.
    #[must_use]
    pub fn endpoints(&self) -> Vec<Endpoint> {
        self.port.endpoints()
    }

    /// Whether it has a link right now. Calls to one that has none wait for it, if it is dialled again.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.port.is_connected()
    }

    /// Calls a handler and waits for its value.
    ///
    /// # Errors
    ///
    /// [`CallError`], which says whether the handler can have run.
    ///
    /// # Cancel safety
    ///
    /// Dropped before the message entered the send buffer, nothing was sent; dropped later, the peer is told to
    /// cancel.
    pub async fn call<R: Decode>(
        &self,
        handler: &str,
        payload: &(impl Encode + ?Sized),
    ) -> Result<R, CallError> {
        // The builder is put together and gone before the future waits, which would else carry it along.
        let message = || self.message(handler).payload(payload).expect_response::<R>();
        match std::future::poll_fn(|cx| Poll::Ready(message().call_now(self, cx))).await? {
            Ok(mut call) => call.response().await,
            Err(refused) => message().send_later(self, refused).await?.response().await,
        }
    }

    /// Sends a one-way message. Resolves once it is in the send buffer, waiting for the peer's credit if need be.
    ///
    /// # Errors
    ///
    /// When it could not be sent.
    ///
    /// # Cancel safety
    ///
    /// Dropped before it resolves, nothing was sent.
    #[inline]
    pub async fn notify(&self, handler: &str, payload: &(impl Encode + ?Sized)) -> Result<(), CallError> {
        let sent = match self.notify_now(handler, payload) {
            Offered::Sent => return Ok(()),
            Offered::Waits(message) => self.message(handler).send_waiting(self, *message).await,
            Offered::Wrong => self.message(handler).payload(payload).send(self).await,
        };
        sent.map(|_: MessageStatus<FireAndForget>| ())
    }

    /// The short way of a one-way message that has nothing wrong with it.
    #[inline]
    fn notify_now(&self, handler: &str, payload: &(impl Encode + ?Sized)) -> Offered {
        if !matches!(self.scope, Scope::Root) || check_name(handler).is_err() {
            return Offered::Wrong;
        }
        let codec = sent_codec(payload, None);
        let offered = with_encoded(payload, codec, |source| {
            if self.port.try_notify(handler, codec, source.as_slice()) {
                return Offered::Sent;
            }
            let message = Outgoing {
                handler,
                mode: DeliveryMode::FireAndForget,
                codec,
                depth: 0,
                deadline: None,
                time_left_ms: None,
                trace: None,
                extras: None,
                payload: source,
            };
            match self.port.try_send(&message, None) {
                Ok(_) => Offered::Sent,
                Err(PortError::Full | PortError::NotConnected) => {
                    Offered::Waits(Box::new(Waiting::new(&message, self.node.facts().request_timeout)))
                }
                Err(_) => Offered::Wrong,
            }
        });
        offered.unwrap_or(Offered::Wrong)
    }

    /// Calls a handler and waits until it has finished well.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn confirm(&self, handler: &str, payload: &(impl Encode + ?Sized)) -> Result<(), CallError> {
        let message = || self.message(handler).payload(payload).confirmed();
        match std::future::poll_fn(|cx| Poll::Ready(message().call_now(self, cx))).await? {
            Ok(mut call) => call.ack().await,
            Err(refused) => message().send_later(self, refused).await?.ack().await,
        }
    }

    /// Whether the peer has a handler of that name, now or within `timeout`.
    ///
    /// # Errors
    ///
    /// As [`call`](Self::call).
    pub async fn wait_for_handler(&self, name: &str, timeout: Duration) -> Result<bool, CallError> {
        let request = WaitForHandler { name, timeout_ms: super::port::millis(timeout) };
        let found: HandlerFound = self
            .message("_wait_for_handler")
            .payload(&request)
            .deadline(timeout + WAIT_GRACE)
            .expect_response()
            .send(self)
            .await?
            .response()
            .await?;
        Ok(found.found)
    }

    fn message<'a>(&self, handler: &'a str) -> MessageBuilder<'a, FireAndForget, NoPayload> {
        MessageBuilder::new(handler, self.scope.clone(), *self.node.facts())
    }
}

/// What became of a one-way message on its short way.
enum Offered {
    Sent,
    /// It has to wait, and is encoded already.
    Waits(Box<Waiting>),
    /// It was not sent, and the long way finds out why.
    Wrong,
}

/// The answer of `_wait_for_handler` may come so much later than its timeout.
const WAIT_GRACE: Duration = Duration::from_secs(5);

#[derive(serde::Serialize)]
struct WaitForHandler<'a> {
    name: &'a str,
    timeout_ms: u32,
}

#[derive(serde::Deserialize)]
struct HandlerFound {
    found: bool,
}
