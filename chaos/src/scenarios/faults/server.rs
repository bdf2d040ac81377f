//! The server that bad things happen to, as a helper process.

use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, Handler, HandlerError, Limits, Raw};
use serde::{Deserialize, Serialize};

use crate::failure::Result;
use crate::process::{Orders, Process, say_json};
use crate::scenario::block_on;
use crate::scenarios::PATIENCE;

/// Calls that may be running there.
pub(super) const CALLS_MAX: u16 = 16_384;

/// What kind of server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Server {
    pub(super) host: IpAddr,
    /// 0 for a free one.
    pub(super) port: u16,
    /// Random if there is none.
    pub(super) identity: Option<String>,
    /// Never takes silence for death.
    pub(super) is_patient: bool,
}

impl Default for Server {
    fn default() -> Self {
        Self { host: Ipv4Addr::LOCALHOST.into(), port: 0, identity: None, is_patient: false }
    }
}

/// Where a server is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) endpoint: String,
    pub(super) port: u16,
    /// A plain socket of the same process: its end is when the kernel noticed.
    pub(super) canary_port: u16,
}

impl Server {
    pub(super) async fn start(&self) -> Result<(Process, Place)> {
        said(Process::start("faults_server", self)?).await
    }

    pub(super) async fn start_in(&self, namespace: &str) -> Result<(Process, Place)> {
        said(Process::start_in(namespace, "faults_server", self)?).await
    }
}

async fn said(mut process: Process) -> Result<(Process, Place)> {
    let place = process.json("where it is", PATIENCE).await?;
    Ok((process, place))
}

pub(super) fn play(arguments: &str) -> Result<()> {
    let server: Server = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    let canary = TcpListener::bind((server.host, 0))?;
    let canary_port = canary.local_addr()?.port();
    std::thread::spawn(move || hold(&canary));
    block_on(2, async {
        let mut limits = Limits {
            credit_messages: CALLS_MAX.into(),
            pending_calls_max: CALLS_MAX.into(),
            ..Limits::default()
        };
        if server.is_patient {
            limits.silence_max = Duration::from_secs(3600);
        }
        let mut builder = ActiveMessageManager::builder()
            .listen(format!("tcp://{}:{}", server.host, server.port))
            .limits(limits);
        if !server.host.is_loopback() {
            builder = builder.allow_insecure();
        }
        if let Some(identity) = &server.identity {
            builder = builder.identity(identity.parse()?);
        }
        let node = builder.start().await?;
        register(&node)?;
        let endpoint = node.endpoints()[0].to_string();
        let port = endpoint.rsplit(':').next().unwrap_or_default().parse()?;
        say_json(&Place { endpoint, port, canary_port })?;
        orders.expect("end").await?;
        node.shutdown().await?;
        Ok(())
    })
}

pub(super) fn register(node: &ActiveMessageManager) -> Result<()> {
    let running = Arc::new(AtomicU64::new(0));
    let started = running.clone();
    let forever = move |_cx, _: Raw| {
        started.fetch_add(1, Ordering::Relaxed);
        std::future::pending::<std::result::Result<Raw, HandlerError>>()
    };
    node.register(Handler::unary("forever", forever).limit(CALLS_MAX.into()))?;
    node.register(Handler::inline("running", move |_cx, (): ()| Ok(running.load(Ordering::Relaxed))))?;
    node.register(Handler::inline("square", |_cx, n: i64| Ok(n * n)))?;
    Ok(())
}

/// Accepts, and keeps what it accepted as long as the process lives.
fn hold(canary: &TcpListener) {
    let mut held: Vec<TcpStream> = Vec::new();
    while let Ok((stream, _)) = canary.accept() {
        held.push(stream);
    }
}
