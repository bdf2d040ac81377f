//! The echo server of `rtt` and `concurrent`: whatever complete frames one read brings leave in one write.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::frame::FrameReader;
use crate::error::RoleError;

/// Echoes until the client closes.
pub(super) async fn serve(mut socket: TcpStream, handled: &AtomicU64) -> Result<(), RoleError> {
    let mut reader = FrameReader::new();
    while reader.fill(&mut socket).await? {
        let (count, frames) = reader.take_complete()?;
        if count == 0 {
            continue;
        }
        // Before the write: who has the last reply finds all of them counted.
        handled.fetch_add(count, Ordering::Relaxed);
        socket.write_all(frames).await.map_err(RoleError::io("writing the echo"))?;
    }
    Ok(())
}
