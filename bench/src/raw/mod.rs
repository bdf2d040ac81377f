//! What the baselines are made of: every workload over plain tokio sockets, as well as a good engineer would
//! write it by hand.
//!
//! They do the least that gives the same result: a length, an id and the payload on the wire, no names,
//! no deadlines, no credit, no handshake. What they share with a real system is batching, since anyone
//! who cares for speed does that. `TCP_NODELAY` is set on both sides.

pub(crate) mod frame;
pub(crate) mod mux;
pub(crate) mod serve;
pub(crate) mod stream;

use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crate::case::{Case, Workload};
use crate::error::RoleError;
use crate::role::Listening;
use crate::workloads;
use frame::{CHUNK_LEN, SMALL_CHUNK_LEN};
use stream::{Listener, Stream};

/// How long a busy poll lasts at most: far longer than any round trip of a measurement.
pub(crate) const PATIENCE: Duration = Duration::from_millis(100);

/// Listens, and serves every connection for as long as the runtime lives.
pub(crate) async fn serve(case: Case) -> Result<Listening, RoleError> {
    let listener = Listener::bind(case.transport).await.map_err(RoleError::io("listening"))?;
    let addresses = vec![listener.address().to_owned()];
    let handled = Arc::new(AtomicU64::new(0));
    tokio::spawn(accept(listener, case, handled.clone()));
    Ok(Listening { addresses, counters: vec![handled] })
}

/// One connection to a server of the same case.
pub(crate) async fn dial(case: Case, addresses: &[String]) -> Result<Stream, RoleError> {
    let address = addresses.first().ok_or(RoleError::Unexpected("no address at all"))?;
    Stream::dial(case.transport, address).await.map_err(RoleError::io("connecting to the server"))
}

/// What one read asks for: less where many connections share the load.
pub(crate) fn chunk_len(case: &Case) -> usize {
    match case.workload {
        Workload::Links { links, .. } | Workload::Idle { links } if links > 1 => SMALL_CHUNK_LEN,
        _ => CHUNK_LEN,
    }
}

/// How long both ends poll before they sleep, if at all.
pub(crate) fn patience(case: &Case) -> Option<Duration> {
    case.busy_poll().then_some(PATIENCE)
}

async fn accept(mut listener: Listener, case: Case, handled: Arc<AtomicU64>) {
    loop {
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) => return complain(&RoleError::io("accepting a connection")(error)),
        };
        let handled = handled.clone();
        tokio::spawn(async move {
            if let Err(error) = workloads::serve_raw(case, stream, &handled).await {
                complain(&error);
            }
        });
    }
}

/// A server's connection that fails shows at its client as a closed one; the reason is on the error
/// stream, which the conductor quotes.
fn complain(error: &RoleError) {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}")).unwrap_or_default();
    // Nobody is left to be told when the error stream itself is gone.
    let _ = writeln!(std::io::stderr(), "raw server: {error}{cause}");
}
