//! A worker process: joins its leader's cohort by its rank, digests the files it is asked to, and ends with its
//! membership.
//!
//! **Invariant**: it never outlives its leader. Its membership ends with its link, however the leader ended.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dynamo_am::cohort::JoinError;
use dynamo_am::{ActiveMessageManager, Handler};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use super::digest::{Digest, PartDigest, digest_file, digest_part};
use crate::args::WorkerArgs;
use crate::exit::Failure;

/// The handler that does the work.
pub(crate) const DIGEST: &str = "digest";

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// The path as raw octets: file names need not be text.
    pub(crate) path: Vec<u8>,
    /// Start and length; the whole file without.
    pub(crate) part: Option<(u64, u64)>,
}

/// What was found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Whole(Digest),
    Part(PartDigest),
    /// The part is not there any more, or was written to meanwhile.
    Changed,
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
    node.register(Handler::blocking(DIGEST, |_cx, request: Request| Ok(digest(&request)?)))?;
    let rank = args.number.checked_sub(1).and_then(|rank| usize::try_from(rank).ok());
    let membership = node.client().join_cohort(args.leader.as_str(), rank).await.map_err(not_joined)?;
    membership.ended().await;
    Ok(())
}

fn digest(request: &Request) -> std::io::Result<Answer> {
    let path = Path::new(OsStr::from_bytes(&request.path));
    Ok(match request.part {
        None => Answer::Whole(digest_file(path)?),
        Some((start, len)) => digest_part(path, start, len)?.map_or(Answer::Changed, Answer::Part),
    })
}

fn not_joined(error: JoinError) -> Failure {
    match error {
        JoinError::Connect(error) => Failure::from(error),
        JoinError::Refused(refusal) => Failure::handler(refusal.to_string()),
        error => Failure::connection(error.to_string()),
    }
}
