//! A payload that outlives the receive chunk it came in.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::outgoing::PayloadSource;

/// The longest payload that is kept in place, without an allocation of its own.
pub const INLINE_LEN_MAX: usize = 78;

/// Owned payload bytes: short ones in place, longer ones on the heap or as a slice of a receive chunk.
#[derive(Clone)]
pub struct Payload(Repr);

#[derive(Clone)]
enum Repr {
    Short { len: u8, bytes: [u8; INLINE_LEN_MAX] },
    Heap(Bytes),
}

impl Payload {
    /// Copies `bytes`.
    #[inline]
    #[must_use]
    pub fn copy_from(bytes: &[u8]) -> Self {
        let mut short = [0; INLINE_LEN_MAX];
        match (short.get_mut(..bytes.len()), u8::try_from(bytes.len())) {
            (Some(place), Ok(len)) => {
                place.copy_from_slice(bytes);
                Self(Repr::Short { len, bytes: short })
            }
            _ => Self(Repr::Heap(Bytes::copy_from_slice(bytes))),
        }
    }

    /// No bytes.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Repr::Short { len: 0, bytes: [0; INLINE_LEN_MAX] })
    }

    /// Takes the bytes out, and leaves none.
    #[inline]
    #[must_use]
    pub fn take(&mut self) -> Self {
        if let Repr::Short { len, bytes } = &mut self.0 {
            return Self(Repr::Short { len: std::mem::take(len), bytes: *bytes });
        }
        std::mem::replace(self, Self::empty())
    }

    /// To be sent: shared if it is on the heap.
    #[must_use]
    pub fn as_source(&self) -> PayloadSource<'_> {
        match &self.0 {
            Repr::Heap(bytes) => PayloadSource::Shared(bytes),
            Repr::Short { .. } => PayloadSource::Borrowed(self),
        }
    }

    /// Its octets that are on the heap: all or none.
    #[inline]
    #[must_use]
    pub fn heap_len(&self) -> usize {
        match &self.0 {
            Repr::Heap(bytes) => bytes.len(),
            Repr::Short { .. } => 0,
        }
    }

    /// The bytes, shared where they already are on the heap.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        match self.0 {
            Repr::Heap(bytes) => bytes,
            Repr::Short { .. } => Bytes::copy_from_slice(&self),
        }
    }
}

impl From<Bytes> for Payload {
    fn from(bytes: Bytes) -> Self {
        Self(Repr::Heap(bytes))
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Repr::Heap(bytes.into()))
    }
}

impl Deref for Payload {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.0 {
            Repr::Short { len, bytes } => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Repr::Heap(bytes) => bytes,
        }
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_survive_on_both_sides_of_the_limit() {
        for len in [0, 1, INLINE_LEN_MAX, INLINE_LEN_MAX + 1, 5000] {
            let bytes: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let payload = Payload::copy_from(&bytes);
            assert_eq!(&*payload, &bytes[..]);
            assert_eq!(payload.into_bytes(), bytes);
        }
    }

    #[test]
    fn heap_bytes_are_handed_on_not_copied() {
        let bytes = Bytes::from(vec![1; 20_000]);
        let at = bytes.as_ptr();
        assert_eq!(Payload::from(bytes).into_bytes().as_ptr(), at);
    }
}
