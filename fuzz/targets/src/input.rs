//! How an input of raw octets is read: a few octets say how the rest is cut, the rest is what a peer sends.

/// Most octets at the front of an input that say how to cut the rest.
const CUTS_MAX: usize = 7;

/// A stream of octets, and the lengths of the pieces in which it arrives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut<'a> {
    cuts: &'a [u8],
    scale: usize,
    /// The whole stream.
    pub(crate) stream: &'a [u8],
}

impl<'a> Cut<'a> {
    /// The first octet says how many octets of lengths follow it; what stands behind them is the stream.
    pub(crate) fn new(data: &'a [u8]) -> Self {
        let (&count, rest) = data.split_first().unwrap_or((&0, &[]));
        let (cuts, stream) = rest.split_at_checked(usize::from(count) & CUTS_MAX).unwrap_or((rest, &[]));
        Self { cuts, scale: 1, stream }
    }

    /// As it is cut, with another stream, and pieces longer by that factor.
    pub(crate) fn with_stream<'b>(self, stream: &'b [u8], scale: usize) -> Cut<'b>
    where
        'a: 'b,
    {
        Cut { cuts: self.cuts, scale, stream }
    }

    /// The pieces: as long as the lengths say, over and over; octet for octet when there are none.
    pub(crate) fn pieces(self) -> impl Iterator<Item = &'a [u8]> {
        let mut lengths = self.cuts.iter().cycle();
        let mut rest = self.stream;
        std::iter::from_fn(move || {
            let length = lengths.next().map_or(1, |&length| usize::from(length).max(1)) * self.scale;
            let (piece, behind) = rest.split_at_checked(length).unwrap_or((rest, &[]));
            rest = behind;
            (!piece.is_empty()).then_some(piece)
        })
    }
}
