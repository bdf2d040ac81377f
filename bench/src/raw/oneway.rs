//! `oneway` over a raw socket: frames in writes of 64 KiB, counted at the receiver.
//!
//! A last frame with [`COUNT_ID`] asks for the count, and the clock stops when it has come: so the time
//! is that until all were *handled*, not until the kernel had taken them.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::frame::{self, CHUNK_LEN, FrameReader, HEAD_LEN};
use crate::error::RoleError;
use crate::sample::Sample;
use crate::spec::{Amount, Case};

/// The id of the frame that asks for the count, and of its answer.
const COUNT_ID: u64 = u64::MAX;

/// Counts frames until the client closes.
pub(super) async fn serve(mut socket: TcpStream, handled: &AtomicU64) -> Result<(), RoleError> {
    let mut reader = FrameReader::new();
    let (mut total, mut asked) = (0_u64, false);
    while reader.fill(&mut socket).await? {
        let before = total;
        while let Some((id, payload)) = reader.next()? {
            if id == COUNT_ID {
                asked = true;
            } else {
                handle(payload, &mut total);
            }
        }
        handled.fetch_add(total - before, Ordering::Relaxed);
        if std::mem::take(&mut asked) {
            let mut answer = Vec::with_capacity(HEAD_LEN + 8);
            frame::push(&mut answer, COUNT_ID, &total.to_be_bytes());
            socket.write_all(&answer).await.map_err(RoleError::io("answering the count"))?;
        }
    }
    Ok(())
}

/// The handler: it looks at its payload and counts. The barrier keeps the optimiser from seeing through.
fn handle(payload: &[u8], total: &mut u64) {
    *total += 1;
    black_box(payload);
}

/// One connection that only sends, but for the question at the end.
#[derive(Debug)]
pub(crate) struct Client {
    socket: TcpStream,
    reader: FrameReader,
    batch: Vec<u8>,
    payload: Vec<u8>,
    /// What the server has counted on this connection in earlier phases.
    counted: u64,
}

impl Client {
    /// Takes over a connected socket.
    pub(super) fn new(socket: TcpStream, case: Case) -> Self {
        let batch = Vec::with_capacity(CHUNK_LEN + HEAD_LEN + case.payload_bytes);
        let payload = vec![0x5a; case.payload_bytes];
        Self { socket, reader: FrameReader::new(), batch, payload, counted: 0 }
    }

    /// Sends until the amount is reached, then waits until all were handled.
    pub(super) async fn run(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        let (mut sent, began) = (0, Instant::now());
        while !amount.is_over(sent, began.elapsed()) {
            sent += self.fill_batch(amount, sent);
            self.socket.write_all(&self.batch).await.map_err(RoleError::io("writing a batch"))?;
        }
        let total = self.ask_for_count().await?;
        let elapsed = began.elapsed();
        let done = total.saturating_sub(self.counted);
        self.counted = total;
        Ok(Sample { sent, done, elapsed, latencies: None })
    }

    /// Encodes one write's worth and returns how many messages that is, never beyond a counted amount.
    fn fill_batch(&mut self, amount: Amount, sent: u64) -> u64 {
        let left = match amount {
            Amount::Messages(total) => total - sent,
            Amount::Millis(_) => u64::MAX,
        };
        self.batch.clear();
        let mut count = 0;
        while count < left && self.batch.len() < CHUNK_LEN {
            frame::push(&mut self.batch, sent + count, &self.payload);
            count += 1;
        }
        count
    }

    async fn ask_for_count(&mut self) -> Result<u64, RoleError> {
        let question = frame::head(COUNT_ID, 0);
        self.socket.write_all(&question).await.map_err(RoleError::io("asking for the count"))?;
        loop {
            if let Some((id, answer)) = self.reader.next()? {
                return match answer.try_into() {
                    Ok(count) if id == COUNT_ID => Ok(u64::from_be_bytes(count)),
                    _ => Err(RoleError::Unexpected("an answer that is no count")),
                };
            }
            if !self.reader.fill(&mut self.socket).await? {
                return Err(RoleError::PeerClosed);
            }
        }
    }
}
