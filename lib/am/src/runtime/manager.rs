//! What a user holds of a node: [`ActiveMessageManager`], and the builder that starts it.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::accept::accept;
use super::chance::Chance;
use super::network_client::link_myself;
use super::node::{Node, NodeParts, Places, Settings, ShutdownPolicy, ShutdownRequest};
use super::registry::{HandlerEvents, register};
use super::shutdown::{ShutdownError, shutdown};
use super::{sweep, system_handlers};
use crate::api::client::{Client, IntoEndpoint, Scope};
use crate::api::control::ContractInfo;
use crate::api::handler::Handler;
use crate::clock;
use crate::endpoint::{Endpoint, EndpointError};
use crate::error::{BindError, RegisterError, StartError};
use crate::id::InstanceId;
use crate::limits::Limits;
use crate::transport::inproc::{self, InprocTransport};
use crate::transport::{Listener, ThinTransport};
use crate::zmq::{IpcTransport, TcpTransport, host};

/// A running node: it has handlers, and calls those of others.
///
/// Dropping it ends the node as if its process had been killed: peers get no farewell. For going in good order
/// there is [`shutdown`](Self::shutdown).
///
/// ```
/// use dynamo_am::{ActiveMessageManager, Handler};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let node = ActiveMessageManager::builder().start().await?;
/// node.register(Handler::inline("double", |_cx, n: i64| Ok(n * 2)))?;
/// let doubled: i64 = node.client().myself().call("double", &21).await?;
/// assert_eq!(doubled, 42);
/// node.shutdown().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ActiveMessageManager {
    pub(crate) node: Arc<Node>,
}

impl ActiveMessageManager {
    /// Begins a node that listens nowhere, with default limits.
    #[must_use]
    pub fn builder() -> ManagerBuilder {
        ManagerBuilder::default()
    }

    /// The node's own instance.
    #[must_use]
    pub fn instance_id(&self) -> InstanceId {
        self.node.instance
    }

    /// Where the node can be dialled: in the order in which `listen` was called, then the private ipc path.
    #[must_use]
    pub fn endpoints(&self) -> &[Endpoint] {
        self.node.endpoints()
    }

    /// The calling side. Cheap; keeps no node alive.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(self.node.port(), Scope::Root)
    }

    /// Adds a handler. Usable by peers when it returns.
    ///
    /// # Errors
    ///
    /// A name that is taken or not allowed, an option that the handler's kind does not have, too many handlers.
    pub fn register(&self, handler: Handler) -> Result<(), RegisterError> {
        register(&self.node, handler)
    }

    /// Removes a handler; what runs of it runs on. `false` when there is none of that name.
    pub fn unregister(&self, name: &str) -> bool {
        self.node.registry.unregister(name)
    }

    /// The registered handlers, by name, without those of the runtime.
    #[must_use]
    pub fn handlers(&self) -> Vec<(String, ContractInfo)> {
        let entries = self.node.registry.list(false);
        entries.iter().map(|entry| (entry.name.to_string(), entry.contract.clone())).collect()
    }

    /// Changes of the handlers, beginning with a snapshot, so that nothing falls in a gap.
    #[must_use]
    pub fn handler_events(&self) -> HandlerEvents {
        self.node.registry.events()
    }

    /// Waits until a handler of that name is registered: at once if it is; `false` at the timeout, or when the node
    /// drains.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn wait_for_handler(&self, name: &str, timeout: Duration) -> bool {
        let registry = &self.node.registry;
        let found = self
            .node
            .handler_waiters
            .wait(name, clock::now() + timeout, || registry.find(name.as_bytes()).is_some());
        self.node.wake_sweep();
        found.await.unwrap_or(false)
    }

    /// Resolves when a peer that `allow_shutdown` allows has asked this node to shut down, and has been told that
    /// it will: a worker's `main` waits here.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub async fn shutdown_requested(&self) -> ShutdownRequest {
        let mut requests = self.node.shutdown_request.subscribe();
        loop {
            if let Some(request) = *requests.borrow_and_update() {
                return request;
            }
            if requests.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Goes in good order: says goodbye, refuses new requests, lets running handlers finish (up to the limit
    /// `drain_timeout`, default 5 s), sees that every answer is read, then closes.
    ///
    /// # Errors
    ///
    /// When handlers were still running at the limit; they are cancelled, and the node has stopped all the same.
    ///
    /// # Cancel safety
    ///
    /// Dropped, the drain stands still; dropping the node then ends it at once.
    pub async fn shutdown(&self) -> Result<(), ShutdownError> {
        shutdown(&self.node).await
    }
}

impl Drop for ActiveMessageManager {
    fn drop(&mut self) {
        if !self.node.is_stopped() {
            self.node.stop();
        }
    }
}

/// Settles what a node is before it starts.
#[derive(Debug, Default)]
pub struct ManagerBuilder {
    listen: Vec<Result<Endpoint, EndpointError>>,
    advertise: Vec<Result<Endpoint, EndpointError>>,
    identity: Option<InstanceId>,
    limits: Limits,
    busy_poll: Duration,
    allow_insecure: bool,
    allow_shutdown: ShutdownPolicy,
    cancel_token: Option<CancellationToken>,
    no_ipc: bool,
    transports: Vec<Arc<dyn ThinTransport>>,
    pub(crate) chance: Chance,
}

impl ManagerBuilder {
    /// Listens on an endpoint; may be said several times. `tcp://HOST:0` takes a free port, `tcp://*:PORT` all
    /// interfaces, `ipc://*` a private path. A node that listens on tcp also listens on a private ipc path, so that
    /// peers on its host find the short way.
    #[must_use]
    pub fn listen(mut self, endpoint: impl IntoEndpoint) -> Self {
        self.listen.push(endpoint.into_endpoint());
        self
    }

    /// Tells peers this endpoint instead of those that were bound: for nodes behind a port mapping. May be said
    /// several times.
    #[must_use]
    pub fn advertise(mut self, endpoint: impl IntoEndpoint) -> Self {
        self.advertise.push(endpoint.into_endpoint());
        self
    }

    /// The instance's id, where it must outlive the process. Random otherwise.
    #[must_use]
    pub fn identity(mut self, instance: InstanceId) -> Self {
        self.identity = Some(instance);
        self
    }

    /// What the node holds and waits for at most.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// After activity, each link's reader polls its socket directly for at most this long before it sleeps. Saves
    /// a wake-up, which costs tens of microseconds on virtual machines, and takes a core meanwhile: for runtimes of
    /// one thread with a core of its own. Default zero: off.
    #[must_use]
    pub fn busy_poll(mut self, duration: Duration) -> Self {
        self.busy_poll = duration;
        self
    }

    /// Allows to listen on and to dial addresses beyond this machine although nothing authenticates peers yet:
    /// whoever reaches the port can call every handler.
    #[must_use]
    pub fn allow_insecure(mut self) -> Self {
        self.allow_insecure = true;
        self
    }

    /// Who may ask the node to shut down; nobody unless said otherwise.
    #[must_use]
    pub fn allow_shutdown(mut self, policy: ShutdownPolicy) -> Self {
        self.allow_shutdown = policy;
        self
    }

    /// Drains the node when the token fires.
    #[must_use]
    pub fn cancel_token(mut self, token: CancellationToken) -> Self {
        self.cancel_token = Some(token);
        self
    }

    /// No private ipc path, and no short way to peers on the same host.
    #[must_use]
    pub fn no_ipc(mut self) -> Self {
        self.no_ipc = true;
        self
    }

    /// Adds a transport, which is asked before `tcp`, `ipc` and `inproc` for the endpoints that it
    /// [serves](ThinTransport::serves). May be said several times.
    #[must_use]
    pub fn transport(mut self, transport: Arc<dyn ThinTransport>) -> Self {
        self.transports.push(transport);
        self
    }

    /// Starts the node. It is usable when this resolves.
    ///
    /// # Errors
    ///
    /// When it cannot listen where it should.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with I/O and time enabled, as all of tokio does.
    pub async fn start(self) -> Result<ActiveMessageManager, StartError> {
        let listen = self.listen.into_iter().collect::<Result<Vec<_>, _>>()?;
        let advertise = self.advertise.into_iter().collect::<Result<Vec<_>, _>>()?;
        let mut transports = self.transports;
        transports.extend::<[Arc<dyn ThinTransport>; 3]>([
            Arc::new(TcpTransport::new(self.limits.slow_consumer_timeout, self.limits.socket_buffer_len)),
            Arc::new(IpcTransport::default()),
            Arc::new(InprocTransport::default()),
        ]);
        let node = Arc::new(Node::new(NodeParts {
            instance: self.identity.unwrap_or_else(|| self.chance.instance()),
            incarnation: self.chance.incarnation(),
            host: host::host_id(),
            limits: self.limits,
            settings: Settings {
                allow_insecure: self.allow_insecure,
                allow_shutdown: self.allow_shutdown,
                busy_poll: self.busy_poll,
                use_ipc: !self.no_ipc,
            },
            transports,
            places: Places {
                is_local_address: host::is_local_address,
                is_private_path: crate::zmq::is_in_runtime_dir,
                stream_to_self: inproc::pair,
            },
            chance: self.chance,
        }));
        // From here on a failure stops what was started.
        let manager = ActiveMessageManager { node };
        let node = &manager.node;
        let (listeners, bound) = bind(node, &listen).await?;
        let _ = node.endpoints.set(advertised(bound, advertise));
        // Their names are ours and the table is empty: this cannot fail.
        let registered = system_handlers::register(node);
        debug_assert!(registered.is_ok());
        link_myself(node);
        for listener in listeners {
            accept(node, listener);
        }
        let sweeper = node.clone();
        node.spawner.spawn(async move { sweep::run(sweeper).await });
        if let Some(token) = self.cancel_token {
            drain_on(node, token);
        }
        Ok(manager)
    }
}

async fn bind(
    node: &Node,
    listen: &[Endpoint],
) -> Result<(Vec<Box<dyn Listener>>, Vec<Endpoint>), StartError> {
    let mut listeners = Vec::new();
    let mut bound = Vec::new();
    for endpoint in listen {
        if !endpoint.is_loopback() && !node.settings.allow_insecure {
            return Err(BindError::Insecure { endpoint: endpoint.clone() }.into());
        }
        let listener = listen_on(node, endpoint).await?;
        bound.extend(host::advertise(listener.endpoint()));
        listeners.push(listener);
    }
    let listens_on_tcp = listen.iter().any(|endpoint| matches!(endpoint, Endpoint::Tcp { .. }));
    let has_private = listen.contains(&Endpoint::IpcPrivate);
    if listens_on_tcp && node.settings.use_ipc && !has_private {
        // A convenience: where no private path can be had, peers stay on tcp.
        match listen_on(node, &Endpoint::IpcPrivate).await {
            Ok(listener) => {
                bound.push(listener.endpoint().clone());
                listeners.push(listener);
            }
            Err(error) => tracing::warn!(%error, "no private ipc path; peers on this host will use tcp"),
        }
    }
    Ok((listeners, bound))
}

async fn listen_on(node: &Node, endpoint: &Endpoint) -> Result<Box<dyn Listener>, BindError> {
    let transport = node.transports.iter().find(|transport| transport.serves(endpoint));
    let Some(transport) = transport else {
        return Err(BindError::Unsupported { endpoint: endpoint.clone() });
    };
    let listener = transport.listen(endpoint).await?;
    if let Some(path) = listener.endpoint().ipc_path() {
        node.ipc_files.lock().push(path.to_owned());
    }
    Ok(listener)
}

/// What peers are told: nobody can dial a wildcard.
fn advertised(bound: Vec<Endpoint>, advertise: Vec<Endpoint>) -> Vec<Endpoint> {
    if advertise.is_empty() {
        return bound;
    }
    let private = bound.into_iter().filter(|endpoint| endpoint.ipc_path().is_some());
    advertise.into_iter().chain(private).collect()
}

fn drain_on(node: &Arc<Node>, token: CancellationToken) {
    let owner = node.clone();
    // Not one of the node's own tasks: it waits for their end.
    let stopped = node.spawner.stop_token().clone();
    node.spawner.spawn_untracked(async move {
        tokio::select! {
            biased;
            () = stopped.cancelled() => {}
            () = token.cancelled() => {
                if let Err(error) = shutdown(&owner).await {
                    tracing::warn!(%error, "the drain was cut short");
                }
            }
        }
    });
}
