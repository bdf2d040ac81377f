//! The payload of a Credit: four running totals, 32 octets.
//!
//! A Credit says how much of the peer's traffic is finished and how much it may send, as totals since the
//! link began. Totals instead of differences: a newer frame replaces an older one, so the flusher keeps one
//! per account and writes the newest, and nothing is ever counted twice. The header's octet 2 names the
//! [account](super::codes::CreditAccount), its id is 0. What the totals mean, and which of them end a link,
//! is `proto`'s business; here they are only bytes and values.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// Length of a Credit's payload in octets.
pub const CREDIT_LEN: usize = 32;

/// What one side says about the other side's Messages on one account, as totals since the link began.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct CreditTotals {
    /// Messages that are finished and hold nothing any more.
    pub messages_finished: u64,
    /// What those messages were charged, in octets.
    pub bytes_finished: u64,
    /// Messages that may have been sent in all.
    pub messages_granted: u64,
    /// Octets that may have been charged in all.
    pub bytes_granted: u64,
}

/// Why a payload is no Credit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a credit payload of {len} octets is too short: it has four totals of 8 octets each")]
pub struct CreditFrameError {
    /// Octets that were there.
    pub len: usize,
}

impl CreditTotals {
    /// The payload: messages finished, bytes finished, messages granted, bytes granted, each big-endian.
    #[must_use]
    pub fn encode(&self) -> [u8; CREDIT_LEN] {
        let totals = [self.messages_finished, self.bytes_finished, self.messages_granted, self.bytes_granted];
        let mut out = [0; CREDIT_LEN];
        for (place, total) in out.chunks_exact_mut(8).zip(totals) {
            place.copy_from_slice(&total.to_be_bytes());
        }
        out
    }

    /// Reads a payload. Octets behind the four totals are ignored, as behind a header's known fields.
    ///
    /// # Errors
    /// When there are fewer than 32 octets.
    pub fn decode(payload: &[u8]) -> Result<Self, CreditFrameError> {
        let too_short = || CreditFrameError { len: payload.len() };
        let mut rest = payload;
        let mut next = || {
            let (total, behind) = rest.split_first_chunk::<8>().ok_or_else(too_short)?;
            rest = behind;
            Ok(u64::from_be_bytes(*total))
        };
        Ok(Self {
            messages_finished: next()?,
            bytes_finished: next()?,
            messages_granted: next()?,
            bytes_granted: next()?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::indexing_slicing)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn totals_stand_in_the_documented_order() {
        let totals = CreditTotals {
            messages_finished: 1,
            bytes_finished: 2,
            messages_granted: 3,
            bytes_granted: u64::MAX - 3,
        };
        let mut expected = [0; CREDIT_LEN];
        expected[7] = 1;
        expected[15] = 2;
        expected[23] = 3;
        expected[24..].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfc]);
        assert_eq!(totals.encode(), expected);
    }

    proptest! {
        #[test]
        fn decoding_gives_back_what_was_encoded(
            of: [u64; 4],
            tail in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let [messages_finished, bytes_finished, messages_granted, bytes_granted] = of;
            let totals =
                CreditTotals { messages_finished, bytes_finished, messages_granted, bytes_granted };
            let mut bytes = totals.encode().to_vec();
            bytes.extend(tail);
            prop_assert_eq!(CreditTotals::decode(&bytes), Ok(totals));
        }

        #[test]
        fn fewer_than_32_octets_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..CREDIT_LEN)) {
            prop_assert_eq!(CreditTotals::decode(&bytes), Err(CreditFrameError { len: bytes.len() }));
        }
    }
}
