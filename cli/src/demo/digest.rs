//! What a worker finds out about a file: its BLAKE3 hash, and what `wc` counts.
//!
//! A file is read as a whole or in [`parts`](super::parts). Memory does not grow with it, and only a regular file is
//! ever read: a pipe that took its place since the walk saw it would hold the thread for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use blake3::hazmat::{ChainingValue, HasherExt};
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// Read at once, in octets.
const READ_LEN: usize = 256 * 1024;

/// One file's figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Digest {
    /// BLAKE3, in hex.
    pub(crate) blake3: String,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
}

/// The figures of a part, in a form that those of its neighbours can be added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartDigest {
    /// That of the part's place in the whole file's tree.
    pub(crate) chaining_value: ChainingValue,
    pub(crate) counts: Counts,
    /// Of which state of which file this is a part.
    pub(crate) stamp: Stamp,
}

/// Tells one state of a file from another: parts of two must not be put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Stamp {
    fn of(file: &File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        })
    }
}

/// Reads a file once.
///
/// # Errors
///
/// Those of the file system, and that it is no regular file (any more).
pub(crate) fn digest_file(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    let counts = read(open(path)?, &mut hasher)?;
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(Digest { blake3, bytes: counts.bytes, lines: counts.lines, words: counts.all_words() })
}

/// Reads `len` octets from `start`, which must be such a part as [`parts`](super::parts) cuts; `None` if they are not
/// all there, or the file changes meanwhile.
///
/// # Errors
///
/// As of [`digest_file`].
pub(crate) fn digest_part(path: &Path, start: u64, len: u64) -> io::Result<Option<PartDigest>> {
    let mut file = open(path)?;
    let stamp = Stamp::of(&file)?;
    if len == 0 || start.checked_add(len).is_none_or(|end| end > stamp.len) {
        return Ok(None);
    }
    file.seek(SeekFrom::Start(start))?;
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start);
    let counts = read((&file).take(len), &mut hasher)?;
    if counts.bytes != len || Stamp::of(&file)? != stamp {
        return Ok(None);
    }
    Ok(Some(PartDigest { chaining_value: hasher.finalize_non_root(), counts, stamp }))
}

fn read(mut from: impl Read, hasher: &mut blake3::Hasher) -> io::Result<Counts> {
    let mut counts = Counts::default();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let len = match from.read(&mut buffer) {
            Ok(0) => return Ok(counts),
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let octets = buffer.get(..len).unwrap_or_default();
        hasher.update(octets);
        counts.take(octets);
    }
}

/// Opens a regular file; follows no link in its last place and waits for no pipe's other end.
fn open(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("is no regular file any more"));
    }
    Ok(file)
}

/// Lines are newlines. Words are what GNU `wc` counts in the C locale: runs between white space that have a
/// printable octet in them, so that octets beyond ASCII and control characters make no word by themselves.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Counts {
    pub(crate) bytes: u64,
    lines: u64,
    /// Words that white space has ended here, the first run's not among them: it may have begun earlier.
    words: u64,
    /// The octets before the first white space; all, where there is none.
    first_is_word: bool,
    has_space: bool,
    /// The octets behind the last white space; without meaning where there is none.
    last_is_word: bool,
}

impl Counts {
    fn take(&mut self, octets: &[u8]) {
        self.bytes += octets.len() as u64;
        for &octet in octets {
            match octet {
                b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r' => {
                    self.words += u64::from(self.last_is_word);
                    self.last_is_word = false;
                    self.has_space = true;
                    self.lines += u64::from(octet == b'\n');
                }
                0x21..=0x7E if self.has_space => self.last_is_word = true,
                0x21..=0x7E => self.first_is_word = true,
                _ => {}
            }
        }
    }

    /// Those of this text and the one behind it.
    pub(crate) fn join(&mut self, next: &Self) {
        self.bytes += next.bytes;
        self.lines += next.lines;
        self.words += next.words;
        if !self.has_space {
            self.first_is_word |= next.first_is_word;
            self.has_space = next.has_space;
            self.last_is_word = next.last_is_word;
        } else if next.has_space {
            self.words += u64::from(self.last_is_word || next.first_is_word);
            self.last_is_word = next.last_is_word;
        } else {
            self.last_is_word |= next.first_is_word;
        }
    }

    pub(crate) const fn lines(&self) -> u64 {
        self.lines
    }

    /// The first and the last run included.
    pub(crate) const fn all_words(&self) -> u64 {
        self.words + self.first_is_word as u64 + (self.has_space && self.last_is_word) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_do_not_depend_on_how_the_file_was_read_or_cut() {
        let text = b"two words\n\x00\xFF \x01x\tlast";
        let count = |octets: &[u8]| {
            let mut counts = Counts::default();
            counts.take(octets);
            counts
        };
        let whole = count(text);
        assert_eq!((whole.lines, whole.all_words()), (1, 4));
        let mut pieces = Counts::default();
        text.chunks(1).for_each(|piece| pieces.take(piece));
        assert_eq!(pieces, whole);
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut joined = count(&text[..first]);
                joined.join(&count(&text[first..second]));
                joined.join(&count(&text[second..]));
                assert_eq!(joined, whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_file_longer_than_the_buffer_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let text = b"a word and\n".repeat(READ_LEN / 4);
        std::fs::write(&path, &text).unwrap();
        let lines = (READ_LEN / 4) as u64;
        let blake3 = blake3::hash(&text).to_hex().to_string();
        let digest = Digest { blake3, bytes: 11 * lines, lines, words: 3 * lines };
        assert_eq!(digest_file(&path).unwrap(), digest);
    }

    #[test]
    fn a_part_that_is_not_all_there_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, [b'x'; 3000]).unwrap();
        assert_eq!(digest_part(&path, 1024, 1024).unwrap().unwrap().counts.bytes, 1024);
        for (start, len) in [(2048, 1024), (4096, 1), (0, 0), (1 << 62, u64::MAX)] {
            assert_eq!(digest_part(&path, start, len).unwrap(), None, "{start} {len}");
        }
    }

    #[test]
    fn only_regular_files_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "text").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RUSR).unwrap();
        assert!(digest_file(&at("file")).is_ok());
        // Nobody writes to the pipe: a plain open would wait for ever.
        for name in ["link", "pipe", "none", "."] {
            assert!(digest_file(&at(name)).is_err(), "{name}");
            assert!(digest_part(&at(name), 0, 4).is_err(), "{name}");
        }
    }
}
