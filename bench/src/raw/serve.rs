//! The baselines' servers that more than one workload needs.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use super::frame::{self, COUNT, FrameReader, TICK};
use super::stream::Stream;
use crate::error::RoleError;

/// Echoes until the client closes: whatever complete frames one read brings leave in one write. With `patience`
/// it polls its socket for so long before it sleeps.
pub(crate) async fn echo(
    mut stream: Stream,
    handled: &AtomicU64,
    chunk_len: usize,
    patience: Option<Duration>,
) -> Result<(), RoleError> {
    let mut frames = FrameReader::new(chunk_len);
    while match patience {
        Some(patience) => frames.fill_busily(&mut stream.reader, patience).await?,
        None => frames.fill(&mut stream.reader).await?,
    } {
        let (count, whole) = frames.take_complete()?;
        if count == 0 {
            continue;
        }
        // Before the write: who has the last reply finds all of them counted.
        handled.fetch_add(count, Ordering::Relaxed);
        stream.writer.write_all(whole).await.map_err(RoleError::io("writing the echo"))?;
    }
    Ok(())
}

/// Counts ticks, echoes calls and tells the count until the client closes. What one read brings is handled where
/// it was read, and answered in one write.
pub(crate) async fn mixed(
    mut stream: Stream,
    handled: &AtomicU64,
    chunk_len: usize,
) -> Result<(), RoleError> {
    let mut frames = FrameReader::new(chunk_len);
    let mut answers = Vec::new();
    let mut ticks = 0_u64;
    while frames.fill(&mut stream.reader).await? {
        let (mut calls, ticks_before) = (0, ticks);
        while let Some((id, payload)) = frames.next()? {
            if id & TICK != 0 {
                tick(payload, &mut ticks);
            } else if id & COUNT != 0 {
                frame::push(&mut answers, id, &ticks.to_be_bytes());
            } else {
                calls += 1;
                frame::push(&mut answers, id, payload);
            }
        }
        handled.fetch_add(calls + ticks - ticks_before, Ordering::Relaxed);
        if !answers.is_empty() {
            stream.writer.write_all(&answers).await.map_err(RoleError::io("writing answers"))?;
            answers.clear();
        }
    }
    Ok(())
}

/// The handler: it looks at its payload and counts. The barrier keeps the optimiser from seeing through.
fn tick(payload: &[u8], ticks: &mut u64) {
    *ticks += 1;
    black_box(payload);
}
