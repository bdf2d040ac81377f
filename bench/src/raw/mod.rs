//! The baselines: every workload over plain tokio TCP, as well as a good engineer would write it by hand.
//!
//! They do the least that gives the same result: a length, an id and the payload on the wire, no names,
//! no deadlines, no credit, no handshake. What they share with a real system is batching, since anyone
//! who cares for speed does that. `TCP_NODELAY` is set on both sides.

mod bulk;
mod concurrent;
mod echo;
mod frame;
mod oneway;
mod rtt;

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::net::{TcpListener, TcpStream};

use crate::error::RoleError;
use crate::role::Listening;
use crate::sample::Sample;
use crate::spec::{Amount, Case, Workload};

/// Binds a free loopback port and serves every connection to it for as long as the runtime lives.
pub(crate) async fn serve(case: Case) -> Result<Listening, RoleError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(RoleError::io("binding a loopback port"))?;
    let address = listener.local_addr().map_err(RoleError::io("asking for the bound port"))?;
    let handled = Arc::new(AtomicU64::new(0));
    tokio::spawn(accept(listener, case.workload, handled.clone()));
    Ok(Listening { address: address.to_string(), handled })
}

async fn accept(listener: TcpListener, workload: Workload, handled: Arc<AtomicU64>) {
    loop {
        let served = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => return complain(&RoleError::io("accepting a connection")(error)),
        };
        let handled = handled.clone();
        tokio::spawn(async move {
            if let Err(error) = serve_one(served, workload, &handled).await {
                complain(&error);
            }
        });
    }
}

async fn serve_one(socket: TcpStream, workload: Workload, handled: &AtomicU64) -> Result<(), RoleError> {
    socket.set_nodelay(true).map_err(RoleError::io("setting TCP_NODELAY"))?;
    match workload {
        Workload::Rtt | Workload::Concurrent => echo::serve(socket, handled).await,
        Workload::Oneway => oneway::serve(socket, handled).await,
        Workload::Bulk => bulk::serve(socket, handled).await,
    }
}

/// A server's connection that fails shows at its client as a closed one; the reason is on the error
/// stream, which the conductor quotes.
fn complain(error: &RoleError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    // Nobody is left to be told when the error stream itself is gone.
    let _ = writeln!(std::io::stderr(), "raw server: {error}{cause}");
}

/// A connected client of any workload.
#[derive(Debug)]
pub(crate) enum Client {
    Rtt(rtt::Client),
    Concurrent(concurrent::Client),
    Oneway(oneway::Client),
    Bulk(bulk::Client),
}

impl Client {
    /// Connects to a server of the same workload.
    pub(crate) async fn connect(case: Case, address: &str) -> Result<Self, RoleError> {
        let address: SocketAddr =
            address.parse().map_err(|_| RoleError::Unexpected("an address that is no socket address"))?;
        let socket = TcpStream::connect(address).await.map_err(RoleError::io("connecting to the server"))?;
        socket.set_nodelay(true).map_err(RoleError::io("setting TCP_NODELAY"))?;
        Ok(match case.workload {
            Workload::Rtt => Self::Rtt(rtt::Client::new(socket, case)),
            Workload::Concurrent => Self::Concurrent(concurrent::Client::new(socket, case)),
            Workload::Oneway => Self::Oneway(oneway::Client::new(socket, case)),
            Workload::Bulk => Self::Bulk(bulk::Client::new(socket, case)),
        })
    }

    /// Runs one phase; a client may run any number, one after the other.
    pub(crate) async fn run(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        match self {
            Self::Rtt(client) => client.run(amount).await,
            Self::Concurrent(client) => client.run(amount).await,
            Self::Oneway(client) => client.run(amount).await,
            Self::Bulk(client) => client.run(amount).await,
        }
    }
}
