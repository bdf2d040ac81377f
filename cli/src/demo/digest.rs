//! What a worker finds out about a file: its BLAKE3 hash, and what `wc` counts.
//!
//! Memory does not grow with the file, and only a regular file is ever read: a pipe that took its place since the
//! walk saw it would hold the thread for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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

/// Reads a file once.
///
/// # Errors
///
/// Those of the file system, and that it is no regular file (any more).
pub(crate) fn digest_file(path: &Path) -> io::Result<Digest> {
    let mut file = open(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut counts = Counts::default();
    let mut buffer = vec![0; READ_LEN];
    loop {
        let len = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let octets = buffer.get(..len).unwrap_or_default();
        hasher.update(octets);
        counts.take(octets);
    }
    let words = counts.words + u64::from(counts.in_word);
    let blake3 = hasher.finalize().to_hex().to_string();
    Ok(Digest { blake3, bytes: counts.bytes, lines: counts.lines, words })
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
#[derive(Debug, Default)]
struct Counts {
    bytes: u64,
    lines: u64,
    words: u64,
    in_word: bool,
}

impl Counts {
    fn take(&mut self, octets: &[u8]) {
        self.bytes += octets.len() as u64;
        for &octet in octets {
            match octet {
                b' ' | b'\t' | b'\n' | 0x0B | 0x0C | b'\r' => {
                    self.words += u64::from(self.in_word);
                    self.in_word = false;
                    self.lines += u64::from(octet == b'\n');
                }
                0x21..=0x7E => self.in_word = true,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_do_not_depend_on_how_the_file_was_read() {
        let text = b"two words\n\x00\xFF \x01x\tlast";
        let mut whole = Counts::default();
        whole.take(text);
        let mut pieces = Counts::default();
        text.chunks(1).for_each(|piece| pieces.take(piece));
        assert_eq!((whole.lines, whole.words, whole.in_word), (1, 3, true));
        assert_eq!((pieces.lines, pieces.words, pieces.in_word), (1, 3, true));
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
        }
    }
}
