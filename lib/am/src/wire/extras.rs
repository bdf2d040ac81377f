//! Extras: small texts that travel with a message, as a MessagePack map of string to string.
//!
//! They stand in the header behind flag 8, before the payload, so that whoever routes or checks a message can
//! read them without touching the payload. Keys that begin with `am.` are the runtime's own.
//!
//! The hazard is a map that costs more to read than it cost to send. Hence the **invariants**:
//! 1. At most [`EXTRAS_COUNT_MAX`] entries and [`EXTRAS_LEN_MAX`] octets, checked before any is read.
//! 2. Decoding allocates nothing: an [`Extras`] borrows the header and walks it again when asked.
//! 3. An [`Extras`] that exists is whole: every entry is a pair of strings in UTF-8, no key comes twice, and
//!    nothing follows the last entry. One reader cannot see another value than the next one does.
//!
//! Only strings are read, and only the forms that can be needed below 8 KiB (fixmap, map 16; fixstr, str 8,
//! str 16); any other MessagePack type is refused.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

/// Most octets that encoded extras may have.
pub const EXTRAS_LEN_MAX: usize = 8 * 1024;
/// Most entries that extras may have.
pub const EXTRAS_COUNT_MAX: usize = 64;

/// Why extras cannot be sent or read.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtrasError {
    /// More entries than [`EXTRAS_COUNT_MAX`].
    #[error("{count} extras are too many: at most 64 fit a message")]
    TooMany {
        /// Entries that there are, or that the map claims to have.
        count: usize,
    },
    /// More octets than [`EXTRAS_LEN_MAX`].
    #[error(
        "extras of {len} octets are too long: at most 8192 fit a message; put large data into the payload"
    )]
    TooLong {
        /// Octets that there are, or were when writing stopped.
        len: usize,
    },
    /// Two entries have the same key.
    #[error("two extras have the same key; give each key once")]
    DuplicateKey,
    /// The octets are no map.
    #[error("extras do not begin with a fixmap or map 16 of MessagePack")]
    NotAMap,
    /// A key or a value is something else than a string.
    #[error("a key or value among the extras is no fixstr, str 8 or str 16 of MessagePack")]
    NotAString,
    /// A string is not UTF-8.
    #[error("a key or value among the extras is not UTF-8")]
    NotUtf8,
    /// The octets end inside the map.
    #[error("the extras end before their last entry")]
    Truncated,
    /// Octets follow the map.
    #[error("{len} octets follow the last entry of the extras")]
    Trailing {
        /// How many.
        len: usize,
    },
}

/// Appends the entries as one map to `out`, in their order and in the shortest form.
///
/// The iterator is walked twice, since a map begins with its count.
///
/// # Errors
/// [`ExtrasError::TooMany`], [`ExtrasError::TooLong`] or [`ExtrasError::DuplicateKey`]; `out` is then as it
/// was.
pub fn encode_extras<'a, I>(entries: I, out: &mut Vec<u8>) -> Result<(), ExtrasError>
where
    I: IntoIterator<Item = (&'a str, &'a str)>,
    I::IntoIter: Clone,
{
    let entries = entries.into_iter();
    let count = entries.clone().take(EXTRAS_COUNT_MAX.saturating_add(1)).count();
    if count > EXTRAS_COUNT_MAX {
        return Err(ExtrasError::TooMany { count });
    }
    let start = out.len();
    let result = write_map(count, entries, start, out);
    if result.is_err() {
        out.truncate(start);
    }
    result
}

fn write_map<'a>(
    count: usize,
    entries: impl Iterator<Item = (&'a str, &'a str)>,
    start: usize,
    out: &mut Vec<u8>,
) -> Result<(), ExtrasError> {
    match u8::try_from(count) {
        Ok(count @ 0..=15) => out.push(FIXMAP | count),
        Ok(count) => out.extend_from_slice(&[MAP16, 0, count]),
        Err(_) => return Err(ExtrasError::TooMany { count }),
    }
    for text in entries.flat_map(|(key, value)| [key, value]) {
        write_str(text, out)?;
        let len = out.len().saturating_sub(start);
        if len > EXTRAS_LEN_MAX {
            return Err(ExtrasError::TooLong { len });
        }
    }
    // The reader's own check: what is sent is what will be accepted, repeated keys included.
    Extras::decode(out.get(start..).unwrap_or_default()).map(|_| ())
}

fn write_str(text: &str, out: &mut Vec<u8>) -> Result<(), ExtrasError> {
    let len = u16::try_from(text.len()).map_err(|_| ExtrasError::TooLong { len: text.len() })?;
    match u8::try_from(len) {
        Ok(len @ 0..=31) => out.push(FIXSTR | len),
        Ok(len) => out.extend_from_slice(&[STR8, len]),
        Err(_) => {
            out.push(STR16);
            out.extend_from_slice(&len.to_be_bytes());
        }
    }
    out.extend_from_slice(text.as_bytes());
    Ok(())
}

/// The extras of a message, checked whole and read in place.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    entries: &'a [u8],
    count: usize,
}

impl<'a> Extras<'a> {
    /// Checks a header's extras field.
    ///
    /// # Errors
    /// Any [`ExtrasError`]; the message is then malformed.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ExtrasError> {
        if bytes.len() > EXTRAS_LEN_MAX {
            return Err(ExtrasError::TooLong { len: bytes.len() });
        }
        let (count, entries) = read_map(bytes)?;
        if count > EXTRAS_COUNT_MAX {
            return Err(ExtrasError::TooMany { count });
        }
        let mut keys = [""; EXTRAS_COUNT_MAX];
        let mut rest = entries;
        for at in 0..count {
            let (key, behind) = read_str(rest)?;
            let (_, behind) = read_str(behind)?;
            if keys.get(..at).is_some_and(|earlier| earlier.contains(&key)) {
                return Err(ExtrasError::DuplicateKey);
            }
            if let Some(place) = keys.get_mut(at) {
                *place = key;
            }
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(ExtrasError::Trailing { len: rest.len() });
        }
        Ok(Self { entries, count })
    }

    /// The value of `key`, if there is one. Walks the entries from the first.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&'a str> {
        self.iter().find_map(|(at, value)| (at == key).then_some(value))
    }

    /// The entries in the order they were sent.
    #[must_use]
    pub const fn iter(&self) -> ExtrasIter<'a> {
        ExtrasIter { rest: self.entries, left: self.count }
    }

    /// How many entries there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.count
    }

    /// Whether there is no entry.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> IntoIterator for Extras<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = ExtrasIter<'a>;

    fn into_iter(self) -> ExtrasIter<'a> {
        self.iter()
    }
}

/// Walks the entries of [`Extras`].
#[derive(Clone, Debug)]
pub struct ExtrasIter<'a> {
    rest: &'a [u8],
    left: usize,
}

impl<'a> Iterator for ExtrasIter<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        // `Extras::decode` has read all of it once, so neither `ok` hides an error.
        let (key, behind) = read_str(self.rest).ok()?;
        let (value, behind) = read_str(behind).ok()?;
        self.rest = behind;
        Some((key, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for ExtrasIter<'_> {}

fn read_map(bytes: &[u8]) -> Result<(usize, &[u8]), ExtrasError> {
    match bytes {
        [] => Err(ExtrasError::Truncated),
        [marker @ 0x80..=0x8f, rest @ ..] => Ok((usize::from(marker & 0x0f), rest)),
        [MAP16, high, low, rest @ ..] => Ok((usize::from(u16::from_be_bytes([*high, *low])), rest)),
        [MAP16, ..] => Err(ExtrasError::Truncated),
        _ => Err(ExtrasError::NotAMap),
    }
}

fn read_str(bytes: &[u8]) -> Result<(&str, &[u8]), ExtrasError> {
    let (len, rest) = match bytes {
        [] | [STR8] | [STR16] | [STR16, _] => return Err(ExtrasError::Truncated),
        [marker @ 0xa0..=0xbf, rest @ ..] => (usize::from(marker & 0x1f), rest),
        [STR8, len, rest @ ..] => (usize::from(*len), rest),
        [STR16, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
        _ => return Err(ExtrasError::NotAString),
    };
    let (text, rest) = rest.split_at_checked(len).ok_or(ExtrasError::Truncated)?;
    let text = std::str::from_utf8(text).map_err(|_| ExtrasError::NotUtf8)?;
    Ok((text, rest))
}

// MessagePack's markers; the low bits of the first two hold the count.
const FIXMAP: u8 = 0x80;
const FIXSTR: u8 = 0xa0;
const MAP16: u8 = 0xde;
const STR8: u8 = 0xd9;
const STR16: u8 = 0xda;

#[cfg(test)]
mod tests;
