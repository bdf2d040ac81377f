//! Drives the pure handshake of [`wire::zmtp`](crate::wire::zmtp::handshake) over a byte stream: what stands
//! between dialling or accepting and the first message.

use std::io::{self, IoSlice};

use super::ByteStream;
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

/// Shakes hands; gives what the peer said and the octets that came behind. `judge` may refuse the peer before our
/// answer leaves. The caller bounds the time.
///
/// # Errors
///
/// [`ShakeError`]; the stream is of no use then.
pub async fn shake(
    stream: &mut ByteStream,
    role: Role,
    local: AmHello,
    judge: impl FnOnce(&Hello) -> Result<(), String> + Send,
) -> Result<(Hello, Vec<u8>), ShakeError> {
    let mut handshake = Handshake::new(role, local);
    let mut judge = Some(judge);
    let mut input: Vec<u8> = Vec::new();
    loop {
        write_all(stream, &handshake.take_output()).await?;
        match handshake.status() {
            Status::Done => {
                let peer = handshake.into_peer().ok_or_else(|| {
                    ShakeError::Refused("the handshake ended without a READY of the peer".to_owned())
                })?;
                return Ok((peer, input));
            }
            Status::NeedAnswer => {
                if let (Some(peer), Some(judge)) = (handshake.peer(), judge.take()) {
                    judge(peer).map_err(ShakeError::Refused)?;
                }
                handshake.answer();
            }
            Status::NeedInput => {
                let read =
                    std::future::poll_fn(|cx| stream.reader.poll_read(cx, &mut input, READ_LEN)).await?;
                if read == 0 {
                    return Err(handshake.unfinished().into());
                }
                let taken = handshake.handle_input(&input);
                if let Ok(used) = taken {
                    input.drain(..used.min(input.len()));
                    continue;
                }
                // The peer may wait for our greeting before it looks at its own mistake.
                let _ = write_all(stream, &handshake.take_output()).await;
                taken?;
            }
        }
    }
}

async fn write_all(stream: &ByteStream, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match stream.writer.try_write(&[IoSlice::new(bytes)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                std::future::poll_fn(|cx| stream.writer.poll_writable(cx)).await?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
