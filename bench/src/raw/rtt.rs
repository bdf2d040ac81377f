//! `rtt` over a raw socket: write one frame, read one frame, in the task that asks.

use std::time::Instant;

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::frame::{self, FrameReader};
use crate::error::RoleError;
use crate::sample::{Latencies, Sample};
use crate::spec::{Amount, Case};

/// One connection on which one call is made at a time.
#[derive(Debug)]
pub(crate) struct Client {
    socket: TcpStream,
    reader: FrameReader,
    request: Vec<u8>,
    payload: Vec<u8>,
    next_id: u64,
}

impl Client {
    /// Takes over a connected socket.
    pub(super) fn new(socket: TcpStream, case: Case) -> Self {
        let payload = vec![0x5a; case.payload_bytes];
        Self { socket, reader: FrameReader::new(), request: Vec::new(), payload, next_id: 0 }
    }

    /// Calls until the amount is reached; one clock reading a call serves both its end and the next's start.
    pub(super) async fn run(&mut self, amount: Amount) -> Result<Sample, RoleError> {
        let mut latencies = Latencies::new();
        let (mut done, began) = (0, Instant::now());
        let mut last = began;
        while !amount.is_over(done, last - began) {
            self.call().await?;
            done += 1;
            let now = Instant::now();
            latencies.record(now - last);
            last = now;
        }
        Ok(Sample { sent: done, done, elapsed: last - began, latencies: Some(latencies) })
    }

    async fn call(&mut self) -> Result<(), RoleError> {
        let id = self.next_id;
        self.next_id += 1;
        self.request.clear();
        frame::push(&mut self.request, id, &self.payload);
        self.socket.write_all(&self.request).await.map_err(RoleError::io("writing a request"))?;
        loop {
            if let Some((reply_id, reply)) = self.reader.next()? {
                let fits = reply_id == id && reply.len() == self.payload.len();
                return if fits { Ok(()) } else { Err(RoleError::Unexpected("another call's reply")) };
            }
            if !self.reader.fill(&mut self.socket).await? {
                return Err(RoleError::PeerClosed);
            }
        }
    }
}
