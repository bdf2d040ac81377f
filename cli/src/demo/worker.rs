//! A worker process: connects to its leader, digests the files it is asked to, and ends with its leader.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dynamo_am::{ActiveMessageManager, Handler, LinkEvent, Raw};
use serde::{Deserialize, Serialize};

use super::digest::digest_file;
use crate::args::WorkerArgs;
use crate::exit::Failure;

/// How a worker introduces itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) number: u32,
    pub(crate) pid: u32,
}

/// Works until the leader is gone.
pub(crate) async fn run(args: &WorkerArgs) -> Result<(), Failure> {
    let node = ActiveMessageManager::builder().start().await?;
    // The path as raw octets: file names need not be text.
    let digest =
        Handler::blocking("digest", |_cx, path: Raw| Ok(digest_file(Path::new(OsStr::from_bytes(&path)))?));
    node.register(digest).map_err(|error| Failure::usage(error.to_string()))?;
    let client = node.client();
    let mut events = client.link_events();
    let leader = client.connect(args.leader.as_str()).await?;
    leader.confirm("hello", &Hello { number: args.number, pid: std::process::id() }).await?;
    while let Some(event) = events.next().await {
        if matches!(event, LinkEvent::Down { .. }) {
            break;
        }
    }
    Ok(())
}
