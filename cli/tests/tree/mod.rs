//! Folders to run the demo on, and what is true of them, found out without the command's own code.

pub(crate) mod processes;

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// A sparse file of this length keeps a worker busy until [`Tree::cut`] ends it.
const ENDLESS_LEN: u64 = 1 << 36;

/// A folder that goes when this does.
pub(crate) struct Tree(tempfile::TempDir);

impl Tree {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    pub(crate) fn root(&self) -> &str {
        self.0.path().to_str().expect("it is text")
    }

    pub(crate) fn at(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.path().join(name.as_ref())
    }

    pub(crate) fn write(&self, name: impl AsRef<OsStr>, octets: impl AsRef<[u8]>) {
        let path = self.at(name);
        fs::create_dir_all(path.parent().expect("it lies below the root")).expect("its folder");
        fs::write(path, octets).expect("the file");
    }

    /// A file that takes minutes to read.
    pub(crate) fn write_endless(&self, name: &str) {
        let file = File::create(self.at(name)).expect("the file");
        file.set_len(ENDLESS_LEN).expect("a sparse file");
    }

    /// Empties a file: whoever reads it is at its end.
    pub(crate) fn cut(&self, name: &str) {
        let file = File::options().write(true).open(self.at(name)).expect("the file is there");
        file.set_len(0).expect("it can be cut");
    }

    /// What is in the folder now.
    pub(crate) fn truth(&self) -> Truth {
        let mut truth = Truth::default();
        let mut folders = vec![self.0.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let entry = entry.expect("an entry");
                let kind = entry.file_type().expect("its type");
                if kind.is_dir() {
                    folders.push(entry.path());
                } else if kind.is_file() {
                    let path = entry.path();
                    let name = path.strip_prefix(self.0.path()).expect("it lies below the root");
                    truth.add(name, &fs::read(&path).expect("the file"));
                }
            }
        }
        truth
    }

    /// Lines, words and octets by the real `wc`, in the C locale.
    pub(crate) fn wc(&self) -> Vec<u64> {
        let mut wc = Command::new("wc")
            .args(["--files0-from=-"])
            .env("LC_ALL", "C")
            .current_dir(self.0.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("GNU wc");
        let mut stdin = wc.stdin.take().expect("it is piped");
        for name in &self.truth().names {
            stdin.write_all(name).and_then(|()| stdin.write_all(b"\0")).expect("wc reads");
        }
        drop(stdin);
        let output = wc.wait_with_output().expect("wc ends").stdout;
        let last = String::from_utf8_lossy(&output).lines().last().expect("a line of totals").to_owned();
        last.split_whitespace().take(3).map(|number| number.parse().expect("a number")).collect()
    }
}

/// The right totals.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) lines: u64,
    pub(crate) words: u64,
    names: Vec<Vec<u8>>,
    /// `HEX  relative/path`.
    list: Vec<Vec<u8>>,
}

impl Truth {
    fn add(&mut self, name: &Path, octets: &[u8]) {
        self.lines += octets.iter().filter(|octet| **octet == b'\n').count() as u64;
        let runs = octets.split(|octet| b" \t\n\x0b\x0c\r".contains(octet));
        self.words += runs.filter(|run| run.iter().any(u8::is_ascii_graphic)).count() as u64;
        self.names.push(name.as_os_str().as_bytes().to_owned());
        self.add_hashed(name, blake3::hash(octets), octets.len() as u64);
    }

    /// A file of that many zeros.
    pub(crate) fn add_zeros(&mut self, name: &str, len: u64) {
        let zeros = [0; 1 << 16];
        let mut hasher = blake3::Hasher::new();
        let mut left = usize::try_from(len).expect("a length");
        while left > 0 {
            let some = left.min(zeros.len());
            hasher.update(&zeros[..some]);
            left -= some;
        }
        self.add_hashed(Path::new(name), hasher.finalize(), len);
    }

    fn add_hashed(&mut self, name: &Path, hash: blake3::Hash, len: u64) {
        self.files += 1;
        self.bytes += len;
        let mut line = format!("{}  ", hash.to_hex()).into_bytes();
        line.extend(name.as_os_str().as_bytes());
        self.list.push(line);
    }

    /// As the demo is to say it.
    pub(crate) fn totals(&self) -> Value {
        let mut list = self.list.clone();
        list.sort();
        let mut text = list.join(&b'\n');
        if !list.is_empty() {
            text.push(b'\n');
        }
        json!({
            "files": self.files,
            "bytes": self.bytes,
            "lines": self.lines,
            "words": self.words,
            "blake3": blake3::hash(&text).to_hex().to_string(),
        })
    }
}
