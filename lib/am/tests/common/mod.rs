//! What the integration tests share: nodes, the four ways to a node, and waits that end.

#![allow(dead_code, reason = "each test program uses its own part")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dynamo_am::{
    ActiveMessageManager, CallError, Client, Endpoint, Handler, HandlerError, Limits, LinkEvent, LinkEvents,
    Peer,
};

/// The longest that anything may take which is meant to happen at once. Generous: the machine may be busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for what must happen without anybody's further doing.
///
/// # Panics
///
/// When it does not happen.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} has not happened within {PATIENCE:?}"),
    }
}

/// Gives other tasks turns until `is_so`. For conditions that nothing announces.
///
/// # Panics
///
/// When it does not become so.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(1));
    soon(what, async {
        while !is_so() {
            looks.tick().await;
        }
    })
    .await;
}

/// Runs, as a handler that works for so long would.
pub(crate) async fn work_for(duration: Duration) {
    let _ = tokio::time::timeout(duration, std::future::pending::<()>()).await;
}

/// A node that listens nowhere.
pub(crate) async fn caller() -> ActiveMessageManager {
    ActiveMessageManager::builder().start().await.unwrap()
}

/// A node that listens on a free tcp port, and privately on ipc.
pub(crate) async fn server() -> ActiveMessageManager {
    ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").start().await.unwrap()
}

/// The endpoint of a node that begins with `scheme`.
pub(crate) fn endpoint(node: &ActiveMessageManager, scheme: &str) -> Endpoint {
    node.endpoints().iter().find(|endpoint| endpoint.to_string().starts_with(scheme)).unwrap().clone()
}

/// A name that no other test of this process has.
pub(crate) fn unique(prefix: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    format!("{prefix}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A way to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Tcp,
    Ipc,
    Inproc,
    Myself,
}

/// All of them.
pub(crate) const WAYS: [Via; 4] = [Via::Tcp, Via::Ipc, Via::Inproc, Via::Myself];

/// A server that listens on every transport, and a caller for each of the four ways.
pub(crate) struct Rig {
    pub(crate) server: ActiveMessageManager,
    pub(crate) callers: Vec<Caller>,
}

/// Somebody who calls the server.
pub(crate) struct Caller {
    pub(crate) via: Via,
    pub(crate) client: Client,
    pub(crate) peer: Peer,
    /// `None` where the server calls itself.
    pub(crate) node: Option<ActiveMessageManager>,
}

impl Rig {
    /// Starts the nodes and connects them.
    pub(crate) async fn start() -> Self {
        let server = ActiveMessageManager::builder()
            .listen("tcp://127.0.0.1:0")
            .listen("ipc://*")
            .listen(format!("inproc://{}", unique("rig")))
            .start()
            .await
            .unwrap();
        let mut callers = Vec::new();
        for via in WAYS {
            callers.push(Caller::new(&server, via).await);
        }
        Self { server, callers }
    }

    /// Ends all nodes in good order.
    pub(crate) async fn end(self) {
        for node in self.callers.into_iter().filter_map(|caller| caller.node) {
            soon("a caller's shutdown", node.shutdown()).await.unwrap();
        }
        soon("the server's shutdown", self.server.shutdown()).await.unwrap();
    }
}

impl Caller {
    async fn new(server: &ActiveMessageManager, via: Via) -> Self {
        let scheme = match via {
            Via::Tcp => "tcp:",
            Via::Ipc => "ipc:",
            Via::Inproc => "inproc:",
            Via::Myself => {
                let client = server.client();
                return Self { via, peer: client.myself(), client, node: None };
            }
        };
        // Without `no_ipc` the way by tcp would be left for the short one.
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let client = node.client();
        let peer = soon("connect", client.connect(endpoint(server, scheme))).await.unwrap();
        Self { via, client, peer, node: Some(node) }
    }
}

pub(crate) fn double() -> Handler {
    Handler::inline("double", |_cx, n: i64| Ok(n * 2))
}

/// Checks that `peer` has a node behind it that doubles.
pub(crate) async fn check_doubles(peer: &Peer) {
    assert_eq!(soon("an answer", peer.call::<i64>("double", &21)).await, Ok(42));
}

pub(crate) async fn connect(node: &ActiveMessageManager, to: &ActiveMessageManager) -> Peer {
    soon("connect", node.client().connect(&to.endpoints()[0])).await.unwrap()
}

/// A server that doubles, and a caller linked to it by tcp.
pub(crate) async fn linked(of_server: Limits, of_caller: Limits) -> ([ActiveMessageManager; 2], Peer) {
    let server =
        ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(of_server).start().await.unwrap();
    server.register(double()).unwrap();
    let node = ActiveMessageManager::builder().limits(of_caller).start().await.unwrap();
    let peer = connect(&node, &server).await;
    ([server, node], peer)
}

pub(crate) async fn end(nodes: impl IntoIterator<Item = ActiveMessageManager>) {
    for node in nodes {
        soon("shutdown", node.shutdown()).await.unwrap();
    }
}

/// A node with a handler `gated` that tells when it runs, and ends when let.
pub(crate) struct Gated {
    pub(crate) node: ActiveMessageManager,
    pub(crate) starts: tokio::sync::mpsc::Receiver<()>,
    pub(crate) gate: tokio::sync::watch::Sender<bool>,
}

impl Gated {
    pub(crate) async fn start(limits: Limits) -> Self {
        let node =
            ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").limits(limits).start().await.unwrap();
        let (started, starts) = tokio::sync::mpsc::channel(16);
        let (gate, opened) = tokio::sync::watch::channel(false);
        node.register(Handler::unary("gated", move |_cx, n: i64| {
            let mut opened = opened.clone();
            let _ = started.try_send(());
            async move { opened.wait_for(|open| *open).await.map(|_| n).map_err(HandlerError::from) }
        }))
        .unwrap();
        Self { node, starts, gate }
    }

    /// A call to it that runs.
    pub(crate) async fn call(&mut self, peer: &Peer) -> tokio::task::JoinHandle<Result<i64, CallError>> {
        let peer = peer.clone();
        let call = tokio::spawn(async move { peer.call::<i64>("gated", &5).await });
        soon("the start", self.starts.recv()).await.unwrap();
        call
    }
}

pub(crate) async fn next_event(events: &mut LinkEvents) -> LinkEvent {
    soon("a link event", events.next()).await.unwrap()
}
