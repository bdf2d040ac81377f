//! Drives the pure handshake of [`wire::zmtp`](crate::wire::zmtp::handshake) over a byte stream: what stands
//! between dialling or accepting and the first message.

use std::io::{self, IoSlice};

use super::{ByteStream, StreamWriter};
use crate::wire::zmtp::command::{self, Command};
use crate::wire::zmtp::frame::FrameHeader;
use crate::wire::zmtp::handshake::{Handshake, HandshakeError, Role, Status};
use crate::wire::zmtp::properties::{AmHello, Hello};

/// Octets read at once before traffic: more than a greeting and a usual READY.
const READ_LEN: usize = 4096;

/// Why a stream came to no link.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShakeError {
    /// The peer broke the handshake, or refused ours.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The stream broke.
    #[error("the connection broke during the handshake: {0}")]
    Io(#[from] io::Error),
    /// We do not want this peer.
    #[error("{0}")]
    Refused(String),
}

impl ShakeError {
    /// Whether dialling again soon cannot help.
    #[must_use]
    pub const fn is_permanent(&self) -> bool {
        matches!(self, Self::Handshake(error) if error.is_permanent())
    }
}

/// A handshake under way. Cancel safe as far as the stream is dropped with it.
#[derive(Debug)]
pub struct Shaking {
    handshake: Handshake,
    input: Vec<u8>,
}

impl Shaking {
    /// Begins; nothing is sent yet.
    #[must_use]
    pub fn new(role: Role, local: AmHello) -> Self {
        Self { handshake: Handshake::new(role, local), input: Vec::new() }
    }

    /// Goes on until the peer has said who it is and our answer is due (`true`), or all is said (`false`). Ends at
    /// `deadline`, with an error that says what the peer still owed.
    ///
    /// # Errors
    ///
    /// [`ShakeError`]; the stream is of no use then.
    pub async fn advance(
        &mut self,
        stream: &mut ByteStream,
        deadline: tokio::time::Instant,
    ) -> Result<bool, ShakeError> {
        loop {
            write_all(&*stream.writer, &self.handshake.take_output()).await?;
            match self.handshake.status() {
                Status::Done => return Ok(false),
                Status::NeedAnswer => return Ok(true),
                Status::NeedInput => self.take_input(stream, deadline).await?,
            }
        }
    }

    async fn take_input(
        &mut self,
        stream: &mut ByteStream,
        deadline: tokio::time::Instant,
    ) -> Result<(), ShakeError> {
        let reading = std::future::poll_fn(|cx| stream.reader.poll_read(cx, &mut self.input, READ_LEN));
        let read = match tokio::time::timeout_at(deadline, reading).await {
            Ok(read) => read?,
            Err(_) => 0,
        };
        if read == 0 {
            return Err(self.handshake.unfinished().into());
        }
        match self.handshake.handle_input(&self.input) {
            Ok(used) => {
                self.input.drain(..used.min(self.input.len()));
                Ok(())
            }
            Err(error) => {
                // The peer may wait for our greeting before it looks at its own mistake.
                let _ = write_all(&*stream.writer, &self.handshake.take_output()).await;
                Err(error.into())
            }
        }
    }

    /// Who the peer says it is, once it has.
    #[must_use]
    pub const fn peer(&self) -> Option<&Hello> {
        self.handshake.peer()
    }

    /// Accepts the peer, and grants it credit for so many messages and bytes.
    pub fn answer(&mut self, messages: u64, bytes: u64) {
        self.handshake.grant(messages, bytes);
        self.handshake.answer();
    }

    /// What the peer said, and the octets that came behind.
    ///
    /// # Errors
    ///
    /// When the peer has not said who it is.
    pub fn finish(self) -> Result<(Hello, Vec<u8>), ShakeError> {
        let silent = || ShakeError::Refused("the handshake ended without a READY of the peer".to_owned());
        Ok((self.handshake.into_peer().ok_or_else(silent)?, self.input))
    }
}

async fn write_all(writer: &dyn StreamWriter, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match writer.try_write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| writer.poll_writable(cx)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Sends a PING and waits for its PONG, before any link; gives the octets around it. The caller bounds the time.
///
/// # Errors
///
/// When the stream breaks, or the peer sends what no peer sends at this point.
pub async fn ping(stream: &mut ByteStream, mut input: Vec<u8>) -> io::Result<Vec<u8>> {
    /// Told apart from PONGs to others' PINGs, of which there are none on a fresh link.
    const CONTEXT: &[u8] = b"probe";
    let mut kept = Vec::new();
    let mut encoded = Vec::new();
    command::encode_ping(0, CONTEXT, &mut encoded);
    write_all(&*stream.writer, &encoded).await?;
    loop {
        while let Some(header) = FrameHeader::decode(&input).map_err(io::Error::other)? {
            let len =
                usize::try_from(header.body_len).unwrap_or(usize::MAX).saturating_add(header.header_len);
            if len > PROBE_FRAME_LEN_MAX {
                return Err(io::Error::other("the peer sent a large frame instead of a PONG"));
            }
            let Some(body) = input.get(header.header_len..len) else { break };
            let found = header.command
                && matches!(command::parse(body), Ok(Command::Pong { context }) if context == CONTEXT);
            if found {
                input.drain(..len);
                kept.append(&mut input);
                return Ok(kept);
            }
            if kept.len() > PROBE_FRAME_LEN_MAX {
                return Err(io::Error::other("the peer sends messages instead of a PONG"));
            }
            kept.extend(input.drain(..len));
        }
        let read = std::future::poll_fn(|cx| stream.reader.poll_read(cx, &mut input, READ_LEN)).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// The longest frame that may come before the PONG of a probe.
const PROBE_FRAME_LEN_MAX: usize = 64 * 1024;
