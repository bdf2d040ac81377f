//! The baselines' framing: a 4-byte length of all that follows, an 8-byte id, the payload; big-endian.

use std::io;
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::stream::Reader;
use crate::case::PAYLOAD_LEN_MAX;
use crate::error::RoleError;

/// Octets of the id.
pub(crate) const ID_LEN: usize = 8;
/// Octets in front of a payload.
pub(crate) const HEAD_LEN: usize = LENGTH_LEN + ID_LEN;
/// What one read asks for and one batch of writes aims at.
pub(crate) const CHUNK_LEN: usize = 64 << 10;
/// What one read asks for where there are many connections, each with a share of the load.
pub(crate) const SMALL_CHUNK_LEN: usize = 4 << 10;
/// In an id: nobody wants an answer, the frame is only counted.
pub(crate) const TICK: u64 = 1 << 63;
/// In an id: the answer is to be how many frames were counted.
pub(crate) const COUNT: u64 = 1 << 62;
/// What an id may have besides its number.
pub(crate) const FLAGS: u64 = TICK | COUNT;
/// Empty looks at a socket before other threads get a turn.
const BUSY_TRIES: u32 = 16;

const LENGTH_LEN: usize = 4;

/// The octets in front of a payload of `payload_len`.
pub(crate) fn head(id: u64, payload_len: usize) -> [u8; HEAD_LEN] {
    let length = u32::try_from(ID_LEN + payload_len).expect("payloads are checked to be at most 64 MiB");
    let mut head = [0; HEAD_LEN];
    let (first, second) = head.split_at_mut(LENGTH_LEN);
    first.copy_from_slice(&length.to_be_bytes());
    second.copy_from_slice(&id.to_be_bytes());
    head
}

/// Appends a whole frame.
pub(crate) fn push(out: &mut Vec<u8>, id: u64, payload: &[u8]) {
    out.extend_from_slice(&head(id, payload.len()));
    out.extend_from_slice(payload);
}

/// The payload's length and the id out of a frame's first octets.
///
/// # Errors
/// A length that no workload sends, so that a stray connection can't make us allocate gigabytes.
pub(crate) fn parse_head(head: &[u8; HEAD_LEN]) -> Result<(usize, u64), RoleError> {
    let [a, b, c, d, id @ ..] = *head;
    let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    match length.checked_sub(ID_LEN) {
        Some(payload_len) if payload_len <= PAYLOAD_LEN_MAX => Ok((payload_len, u64::from_be_bytes(id))),
        _ => Err(RoleError::Unexpected("a frame of impossible length")),
    }
}

/// Reads big chunks and hands out the frames in them, in place.
///
/// The caller takes all complete frames before it reads again, so what is moved to the front of the
/// buffer before a read is at most one unfinished frame.
#[derive(Debug)]
pub(crate) struct FrameReader {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl FrameReader {
    /// An empty buffer of `chunk_len`; it grows to the longest frame.
    pub(crate) fn new(chunk_len: usize) -> Self {
        Self { buffer: vec![0; chunk_len], start: 0, end: 0 }
    }

    /// Reads once. False at the end of the stream.
    pub(crate) async fn fill(&mut self, socket: &mut (impl AsyncRead + Unpin)) -> Result<bool, RoleError> {
        let spare = self.make_room()?;
        let read = socket.read(spare).await.map_err(RoleError::io("reading from the peer"))?;
        self.end += read;
        Ok(read > 0)
    }

    /// The same, but looks again and again for at most `patience` before it sleeps.
    pub(crate) async fn fill_busily(
        &mut self,
        socket: &mut Reader,
        patience: Duration,
    ) -> Result<bool, RoleError> {
        let began = Instant::now();
        let spare = self.make_room()?;
        loop {
            for _ in 0..BUSY_TRIES {
                match socket.read_now(spare) {
                    Ok(read) => {
                        self.end += read;
                        return Ok(read > 0);
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(RoleError::io("reading from the peer")(error)),
                }
            }
            if began.elapsed() >= patience {
                return self.fill(socket).await;
            }
            std::thread::yield_now();
        }
    }

    /// The free end of the buffer, after what is unfinished was moved to its front.
    fn make_room(&mut self) -> Result<&mut [u8], RoleError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if let Some((payload_len, _)) = self.peek()? {
            let needed = HEAD_LEN + payload_len;
            if needed > self.buffer.len() {
                self.buffer.resize(needed, 0);
            }
        }
        Ok(self.buffer.get_mut(self.end..).unwrap_or_default())
    }

    /// The next complete frame: its id and payload.
    pub(crate) fn next(&mut self) -> Result<Option<(u64, &[u8])>, RoleError> {
        let Some((payload_len, id)) = self.peek()? else { return Ok(None) };
        let payload_start = self.start + HEAD_LEN;
        let payload_end = payload_start + payload_len;
        if payload_end > self.end {
            return Ok(None);
        }
        self.start = payload_end;
        Ok(self.buffer.get(payload_start..payload_end).map(|payload| (id, payload)))
    }

    /// All complete frames at once: how many, and their bytes as they came.
    pub(crate) fn take_complete(&mut self) -> Result<(u64, &[u8]), RoleError> {
        let (first, mut count) = (self.start, 0);
        while self.next()?.is_some() {
            count += 1;
        }
        Ok((count, self.buffer.get(first..self.start).unwrap_or_default()))
    }

    fn peek(&self) -> Result<Option<(usize, u64)>, RoleError> {
        let unread = self.buffer.get(self.start..self.end).unwrap_or_default();
        unread.first_chunk().map(parse_head).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream_of(payload_lens: &[usize]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (id, len) in payload_lens.iter().enumerate() {
            push(&mut bytes, id as u64, &vec![id as u8; *len]);
        }
        bytes
    }

    #[tokio::test]
    async fn any_cut_of_the_bytes_yields_the_same_frames() {
        let lens = [64, 0, 1, 3_000, 64];
        let bytes = stream_of(&lens);
        for cut in (1..bytes.len()).step_by(7) {
            let mut reader = FrameReader::new(CHUNK_LEN);
            let mut seen = Vec::new();
            for mut part in [bytes.get(..cut).unwrap(), bytes.get(cut..).unwrap()] {
                while reader.fill(&mut part).await.unwrap() {
                    while let Some((id, payload)) = reader.next().unwrap() {
                        assert!(payload.iter().all(|octet| u64::from(*octet) == id));
                        seen.push(payload.len());
                    }
                }
            }
            assert_eq!(seen, lens, "cut at {cut}");
        }
    }

    #[tokio::test]
    async fn a_frame_longer_than_the_chunk_makes_room_for_itself() {
        let bytes = stream_of(&[10, 300_000, 10]);
        let (mut reader, mut input, mut seen) = (FrameReader::new(CHUNK_LEN), bytes.as_slice(), Vec::new());
        while reader.fill(&mut input).await.unwrap() {
            let (count, whole) = reader.take_complete().unwrap();
            assert_eq!(count == 0, whole.is_empty());
            seen.extend_from_slice(whole);
        }
        assert_eq!(seen, bytes);
    }

    #[tokio::test]
    async fn an_impossible_length_is_an_error_not_an_allocation() {
        for length in [0_u32, 7, u32::MAX] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.extend_from_slice(&[0; ID_LEN]);
            let mut reader = FrameReader::new(CHUNK_LEN);
            assert!(reader.fill(&mut bytes.as_slice()).await.unwrap());
            assert!(reader.next().is_err(), "length {length}");
        }
    }
}
