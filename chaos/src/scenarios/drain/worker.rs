//! A worker that is restarted under load, as a helper process.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, Handler, Raw, ShutdownPolicy};
use serde::{Deserialize, Serialize};
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Result;
use crate::process::{Orders, say};
use crate::scenario::block_on;

/// Length of an answer to `fetch`.
pub(super) const BLOB_LEN: usize = 1 << 20;
/// How long a call takes, so that some run when a worker is told to go.
const WORK: Duration = Duration::from_millis(5);

/// What a worker is told when it starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Worker {
    /// 0 for a free one, the first time.
    pub(super) port: u16,
    pub(super) identity: String,
    /// Where it writes which one-way messages it handled, before it ends.
    pub(super) handled: PathBuf,
}

/// Which one-way messages were handled, as what they carry.
#[derive(Debug, Clone, Default)]
struct Handled(Arc<Mutex<Vec<u64>>>);

impl Handled {
    fn add(&self, id: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(id);
    }

    fn take(&self) -> Vec<u64> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

pub(super) fn play(arguments: &str) -> Result<()> {
    let worker: Worker = serde_json::from_str(arguments)?;
    // Only to end with whoever started this process; the orders to go come by other ways.
    let _orders = Orders::listen();
    block_on(2, async {
        let mut terminated = signal(SignalKind::terminate())?;
        let node = ActiveMessageManager::builder()
            .listen(format!("tcp://127.0.0.1:{}", worker.port))
            .identity(worker.identity.parse()?)
            .allow_shutdown(ShutdownPolicy::Local)
            .start()
            .await?;
        let handled = Handled::default();
        register(&node, &handled)?;
        say(&node.endpoints()[0])?;
        tokio::select! {
            _ = terminated.recv() => {}
            _ = node.shutdown_requested() => {}
        }
        node.shutdown().await?;
        std::fs::write(&worker.handled, serde_json::to_vec(&handled.take())?)?;
        Ok(())
    })
}

fn register(node: &ActiveMessageManager, handled: &Handled) -> Result<()> {
    node.register(Handler::unary("fetch", |_cx, n: u64| async move {
        tokio::time::sleep(WORK).await;
        Ok(Raw::from(blob(n)))
    }))?;
    let (inline, spawned) = (handled.clone(), handled.clone());
    node.register(Handler::inline("note", move |_cx, id: u64| {
        inline.add(id);
        Ok(())
    }))?;
    node.register(Handler::message("work", move |_cx, id: u64| {
        let handled = spawned.clone();
        async move {
            tokio::time::sleep(WORK).await;
            handled.add(id);
            Ok(())
        }
    }))?;
    Ok(())
}

/// The answer to call `n`: its first and last octets tell whose it is.
pub(super) fn blob(n: u64) -> Vec<u8> {
    let mut blob = vec![0; BLOB_LEN];
    blob[..8].copy_from_slice(&n.to_le_bytes());
    blob[BLOB_LEN - 8..].copy_from_slice(&n.to_le_bytes());
    blob
}
