//! `rtt`: echo calls one at a time. The baseline writes one frame and reads one frame in the task that asks; it is
//! also what a link of its own costs in `links` and `idle`.

use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::case::Case;
use crate::drive::{Call, Driver, OneAtATime};
use crate::error::RoleError;
use crate::node::{Echo, Link};
use crate::raw;
use crate::raw::frame::{self, FrameReader};
use crate::raw::stream::Stream;

pub(super) async fn ours(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    Ok(Box::new(OneAtATime(Echo(Link::first(&case, addresses).await?))))
}

pub(super) async fn raw(case: Case, addresses: &[String]) -> Result<Box<dyn Driver>, RoleError> {
    let stream = raw::dial(case, addresses).await?;
    Ok(Box::new(OneAtATime(RawEcho::new(stream, &case))))
}

/// A connection on which one call is made at a time.
#[derive(Debug)]
pub(super) struct RawEcho {
    stream: Stream,
    frames: FrameReader,
    request: Vec<u8>,
    payload: Vec<u8>,
    next_id: u64,
    /// How long to poll for an answer before sleeping.
    patience: Option<Duration>,
}

impl RawEcho {
    /// Takes over a connection.
    pub(super) fn new(stream: Stream, case: &Case) -> Self {
        Self {
            stream,
            frames: FrameReader::new(raw::chunk_len(case)),
            request: Vec::new(),
            payload: vec![0x5a; case.payload_bytes],
            next_id: 0,
            patience: raw::patience(case),
        }
    }
}

impl Call for RawEcho {
    async fn call(&mut self) -> Result<(), RoleError> {
        let id = self.next_id;
        self.next_id += 1;
        self.request.clear();
        frame::push(&mut self.request, id, &self.payload);
        self.stream.writer.write_all(&self.request).await.map_err(RoleError::io("writing a request"))?;
        loop {
            if let Some((reply_id, reply)) = self.frames.next()? {
                let fits = reply_id == id && reply.len() == self.payload.len();
                return if fits { Ok(()) } else { Err(RoleError::Unexpected("another call's reply")) };
            }
            let more = match self.patience {
                Some(patience) => self.frames.fill_busily(&mut self.stream.reader, patience).await?,
                None => self.frames.fill(&mut self.stream.reader).await?,
            };
            if !more {
                return Err(RoleError::PeerClosed);
            }
        }
    }
}
