//! A worker process: connects to its leader, digests the files it is asked to, and ends with its leader.
//!
//! **Invariant**: it never outlives its leader. Its link's end is its own, however the leader ended.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dynamo_am::{ActiveMessageManager, Handler, LinkEvent, Raw};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::digest::digest_file;
use crate::args::WorkerArgs;
use crate::exit::Failure;

/// How a worker introduces itself, so that its leader can tell whose link this is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) number: u32,
}

/// Works until the leader is gone.
///
/// # Errors
///
/// When the leader cannot be reached, or does not want it.
pub(crate) async fn run(args: &WorkerArgs) -> Result<(), Failure> {
    // Ctrl-C in a terminal reaches every process of the group: what becomes of the work is the leader's to say.
    let _interrupts = signal(SignalKind::interrupt())
        .map_err(|error| Failure::handler(format!("cannot listen for signals: {error}")))?;
    let node = ActiveMessageManager::builder().start().await?;
    // The path as raw octets: file names need not be text.
    let digest =
        Handler::blocking("digest", |_cx, path: Raw| Ok(digest_file(Path::new(OsStr::from_bytes(&path)))?));
    node.register(digest)?;
    let client = node.client();
    // Before the link begins, so that its end is among them.
    let mut events = client.link_events();
    let leader = client.connect(args.leader.as_str()).await?;
    leader.confirm("hello", &Hello { number: args.number }).await?;
    while let Some(event) = events.next().await {
        if matches!(event, LinkEvent::Down { .. }) {
            break;
        }
    }
    Ok(())
}
