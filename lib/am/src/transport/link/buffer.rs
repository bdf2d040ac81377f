//! What is queued for the socket: [`SendBuffer`].
//!
//! Short pieces are copied behind each other, long payloads are kept by reference between them, and the whole
//! is written with one vectored write.

use std::io::{self, IoSlice};

use bytes::Bytes;

use super::super::StreamWriter;
use crate::proto::credit::Charge;
use crate::proto::outgoing::{PayloadSource, SHARED_LEN_MIN};

/// Pieces of one vectored write; Linux takes at most 1024.
const SLICES_MAX: usize = 64;

/// Octets and payloads in the order they leave.
#[derive(Debug, Default)]
pub(super) struct SendBuffer {
    octets: Vec<u8>,
    /// Payloads by reference, each with the place in `octets` it stands before.
    shared: Vec<(usize, Bytes)>,
    shared_len: usize,
    /// The peer's messages that are finished once this has been written.
    pub(super) finishes: Charge,
    /// One-way messages among it.
    pub(super) one_way: u64,
}

/// How far a buffer has been written.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Progress {
    /// Octets of the copied pieces written.
    octets: usize,
    /// Shared payloads written whole.
    shared: usize,
    /// Octets written of the shared payload that is under way.
    within: usize,
}

impl SendBuffer {
    pub(super) fn len(&self) -> usize {
        self.octets.len() + self.shared_len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.octets.is_empty() && self.shared.is_empty()
    }

    /// Where short pieces are encoded.
    #[inline]
    pub(super) fn octets(&mut self) -> &mut Vec<u8> {
        &mut self.octets
    }

    #[inline]
    pub(super) fn push_payload(&mut self, payload: PayloadSource<'_>) {
        match payload {
            PayloadSource::Shared(bytes) if bytes.len() >= SHARED_LEN_MIN => self.push_shared(bytes.clone()),
            source => self.octets.extend_from_slice(source.as_slice()),
        }
    }

    pub(super) fn push_shared(&mut self, bytes: Bytes) {
        self.shared_len += bytes.len();
        self.shared.push((self.octets.len(), bytes));
    }

    /// Puts `octets` at the head of an unwritten buffer: state such as PONG and Credit overtakes what is queued.
    pub(super) fn push_front(&mut self, octets: &[u8]) {
        self.octets.splice(0..0, octets.iter().copied());
        for (place, _) in &mut self.shared {
            *place += octets.len();
        }
    }

    /// Forgets what it holds and keeps its room, but not more than `capacity_max`.
    pub(super) fn clear(&mut self, capacity_max: usize) {
        self.octets.clear();
        self.octets.shrink_to(capacity_max);
        self.shared.clear();
        self.shared_len = 0;
        self.finishes = Charge::default();
        self.one_way = 0;
    }

    pub(super) fn capacity(&self) -> usize {
        self.octets.capacity()
    }

    /// Writes on from `progress`; `Ok(true)` when all is written, `Ok(false)` when the socket takes no more now.
    /// `written` counts what the socket took.
    pub(super) fn write_to(
        &self,
        writer: &dyn StreamWriter,
        progress: &mut Progress,
        written: &mut u64,
    ) -> io::Result<bool> {
        while !self.is_written(progress) {
            let count = if self.shared.is_empty() {
                writer.try_write(&[IoSlice::new(self.octets.get(progress.octets..).unwrap_or_default())])
            } else {
                let mut slices = [IoSlice::new(&[]); SLICES_MAX];
                let used = self.fill(progress, &mut slices);
                writer.try_write(slices.get(..used).unwrap_or_default())
            };
            match count {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *written += count as u64;
                    self.advance(progress, count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn is_written(&self, progress: &Progress) -> bool {
        progress.octets == self.octets.len() && progress.shared == self.shared.len()
    }

    /// The pieces that come next; gives how many there are.
    fn fill<'a>(&'a self, progress: &Progress, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut used = 0;
        let mut at = progress.octets;
        let mut within = progress.within;
        for (place, bytes) in self.shared.iter().skip(progress.shared) {
            if used + 2 > SLICES_MAX {
                return used;
            }
            if at < *place {
                slices[used] = IoSlice::new(self.octets.get(at..*place).unwrap_or_default());
                used += 1;
                at = *place;
            }
            slices[used] = IoSlice::new(bytes.get(within..).unwrap_or_default());
            used += 1;
            within = 0;
        }
        if at < self.octets.len() && used < SLICES_MAX {
            slices[used] = IoSlice::new(self.octets.get(at..).unwrap_or_default());
            used += 1;
        }
        used
    }

    fn advance(&self, progress: &mut Progress, mut count: usize) {
        while count > 0 {
            let next_place = self.shared.get(progress.shared).map_or(self.octets.len(), |(place, _)| *place);
            if progress.octets < next_place {
                let step = count.min(next_place - progress.octets);
                progress.octets += step;
                count -= step;
                continue;
            }
            let Some((_, bytes)) = self.shared.get(progress.shared) else { return };
            let step = count.min(bytes.len() - progress.within);
            progress.within += step;
            count -= step;
            if progress.within == bytes.len() {
                progress.shared += 1;
                progress.within = 0;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::task::{Context, Poll};

    use proptest::prelude::*;

    use super::*;

    /// Takes at most so many octets a call, and says `WouldBlock` after each.
    struct Slow {
        taken: Mutex<Vec<u8>>,
        pointers: Mutex<Vec<usize>>,
        step: usize,
        full: Mutex<bool>,
    }

    impl StreamWriter for Slow {
        fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
            let mut full = self.full.lock().unwrap();
            *full = !*full;
            if !*full {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut left = self.step;
            for buffer in buffers {
                self.pointers.lock().unwrap().push(buffer.as_ptr() as usize);
                let step = left.min(buffer.len());
                self.taken.lock().unwrap().extend_from_slice(&buffer[..step]);
                left -= step;
            }
            Ok(self.step - left)
        }

        fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn shutdown(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn slow(step: usize) -> Slow {
        Slow { taken: Mutex::default(), pointers: Mutex::default(), step, full: Mutex::new(false) }
    }

    proptest! {
        #[test]
        fn all_octets_leave_in_order_whatever_the_socket_takes(
            pieces in prop::collection::vec((any::<bool>(), 1usize..3000), 1..150),
            step in 1usize..5000,
        ) {
            let (mut buffer, mut expected) = (SendBuffer::default(), Vec::new());
            for (index, (shared, len)) in pieces.into_iter().enumerate() {
                let bytes = vec![index as u8; len];
                expected.extend_from_slice(&bytes);
                if shared { buffer.push_shared(bytes.into()) } else { buffer.octets().extend(bytes) }
            }
            buffer.push_front(b"credit");
            expected.splice(0..0, *b"credit");
            prop_assert_eq!(buffer.len(), expected.len());
            let (writer, mut progress, mut written) = (slow(step), Progress::default(), 0);
            while !buffer.write_to(&writer, &mut progress, &mut written).unwrap() {}
            prop_assert_eq!(written as usize, expected.len());
            prop_assert_eq!(writer.taken.into_inner().unwrap(), expected);
        }
    }

    #[test]
    fn a_payload_of_16_kib_reaches_the_socket_from_where_the_user_put_it() {
        let payload = Bytes::from(vec![7; SHARED_LEN_MIN]);
        let mut buffer = SendBuffer::default();
        buffer.octets().extend_from_slice(b"header");
        buffer.push_payload(PayloadSource::Shared(&payload));
        let writer = slow(1 << 20);
        while !buffer.write_to(&writer, &mut Progress::default(), &mut 0).unwrap() {}
        assert!(writer.pointers.into_inner().unwrap().contains(&(payload.as_ptr() as usize)));
    }
}
