//! An own node that says just enough to be kept, and reads nothing until it is told: [`DeafPeer`].

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::memory_roles::number_of;
use crate::failure::{Failure, Result};
use crate::raw::{HAS_DEADLINE, IS_CHUNKED, Message, OwnHello, RawClient, command, kind};

/// A node is taken for dead after 3 s of silence.
const PING_INTERVAL: Duration = Duration::from_millis(700);

/// A raw peer of our own kind that sends PINGs and reads nothing.
#[derive(Debug)]
pub(super) struct DeafPeer {
    hello: OwnHello,
    pub(super) client: RawClient,
    alive: Arc<AtomicBool>,
}

/// What came once it read.
#[derive(Debug, Default)]
pub(super) struct Received {
    /// Messages by length.
    pub(super) numbers: BTreeMap<usize, u64>,
    /// By kind: replies to calls.
    pub(super) replies: HashMap<u8, u64>,
    pub(super) twice: u64,
    pub(super) out_of_order: u64,
    /// Payloads in parts that are under way: what is known of each.
    parts: HashMap<(u8, u64), (Vec<u8>, u64, u64)>,
    answered: HashMap<u64, u8>,
}

impl DeafPeer {
    /// Connects, and pings from a thread of its own.
    pub(super) fn start(address: SocketAddr, number: u64) -> Result<Self> {
        Self::granting(address, OwnHello::numbered(number))
    }

    /// The same for one that says of itself what it likes.
    pub(super) fn granting(address: SocketAddr, hello: OwnHello) -> Result<Self> {
        let one = Self::connect(address, hello)?;
        keep_alive(&Arc::new(Mutex::new(vec![one.client.stream().try_clone()?])), &one.alive);
        Ok(one)
    }

    /// The same for many, with one thread, which begins before the last has come: that may take a while.
    pub(super) fn start_many(address: SocketAddr, count: u64) -> Result<Vec<Self>> {
        let streams = Arc::new(Mutex::new(Vec::new()));
        let alive = Arc::new(AtomicBool::new(true));
        keep_alive(&streams, &alive);
        let mut peers = Vec::new();
        for number in 1..=count {
            let mut peer = Self::connect(address, OwnHello::numbered(number))?;
            peer.alive = alive.clone();
            streams.lock().unwrap_or_else(PoisonError::into_inner).push(peer.client.stream().try_clone()?);
            peers.push(peer);
        }
        Ok(peers)
    }

    fn connect(address: SocketAddr, hello: OwnHello) -> Result<Self> {
        let client = RawClient::own(address, &hello)?;
        Ok(Self { hello, client, alive: Arc::new(AtomicBool::new(true)) })
    }

    /// Its instance, as the node knows it.
    pub(super) fn instance(&self) -> Vec<u8> {
        self.hello.instance.to_vec()
    }

    /// What the node grants it at first: messages and bytes.
    pub(super) fn granted(&self) -> Result<(u64, u64)> {
        let ready = &self.client.peer_ready;
        let name = b"\x0BX-AM-Credit";
        let found = ready.windows(name.len()).position(|window| window.eq_ignore_ascii_case(name));
        let value = found.and_then(|at| ready.get(at + name.len() + 4..)).unwrap_or_default();
        let end = value.iter().position(|octet| !octet.is_ascii_digit() && *octet != b',');
        let text = String::from_utf8_lossy(&value[..end.unwrap_or(value.len())]).into_owned();
        let (messages, bytes) =
            text.split_once(',').ok_or_else(|| Failure::new(format!("the node grants `{text}`")))?;
        Ok((messages.parse()?, bytes.parse()?))
    }

    /// Now it reads, until so many messages or final answers have come.
    pub(super) fn receive(mut self, expected: u64, limit: Duration) -> Result<Received> {
        let deadline = Instant::now() + limit;
        let mut received = Received::default();
        self.client.set_patience(Duration::from_secs(5))?;
        while received.total() < expected && Instant::now() < deadline {
            match self.client.read_message() {
                Ok(frames) => received.take(&frames)?,
                // What has not come by then is lost, which the figures tell.
                Err(error) => {
                    if received.total() == 0 {
                        return Err(Failure::from(error).during("reading what had been accepted"));
                    }
                    break;
                }
            }
        }
        Ok(received)
    }
}

impl Drop for DeafPeer {
    fn drop(&mut self) {
        self.alive.store(false, Ordering::Relaxed);
    }
}

/// PINGs until one of the peers is dropped.
fn keep_alive(streams: &Arc<Mutex<Vec<TcpStream>>>, alive: &Arc<AtomicBool>) {
    let (streams, alive) = (streams.clone(), alive.clone());
    std::thread::spawn(move || {
        let ping = command("PING", &[0, 0]);
        while alive.load(Ordering::Relaxed) {
            for stream in streams.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
                // One that is closed is noticed by who reads it.
                let _ = stream.write_all(&ping);
            }
            std::thread::sleep(PING_INTERVAL);
        }
    });
}

impl Received {
    fn total(&self) -> u64 {
        self.numbers.values().sum::<u64>() + self.answered.len() as u64
    }

    fn take(&mut self, frames: &Message) -> Result<()> {
        let empty = Vec::new();
        let (header, payload) = (frames.first().unwrap_or(&empty), frames.get(1).unwrap_or(&empty));
        let id = header.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        let (Some(id), [_, kind, _, flags, _, name_len, ..]) = (id, header.as_slice()) else {
            return Err(Failure::new("the node sent a header that is none"));
        };
        let of = *kind;
        if of == kind::CHUNK {
            let key = (header[2], id);
            let Some((_, total, have)) = self.parts.get_mut(&key) else { return Ok(()) };
            *have += payload.len() as u64;
            if have < total {
                return Ok(());
            }
            let Some((first, total, _)) = self.parts.remove(&key) else { return Ok(()) };
            return self.whole(key.0, id, &first, usize::try_from(total)?);
        }
        if flags & IS_CHUNKED != 0 {
            let at = 16 + usize::from(*name_len) + if flags & HAS_DEADLINE != 0 { 4 } else { 0 };
            let total =
                header.get(at..at + 8).and_then(|total| total.try_into().ok()).map(u64::from_be_bytes);
            let total = total.ok_or_else(|| Failure::new("a payload in parts without its length"))?;
            self.parts.insert((of, id), (payload[..64].to_vec(), total, payload.len() as u64));
            return Ok(());
        }
        self.whole(of, id, payload, payload.len())
    }

    /// A message or an answer is there, of which `first` is the beginning.
    fn whole(&mut self, of: u8, id: u64, first: &[u8], len: usize) -> Result<()> {
        match of {
            kind::MESSAGE => {
                let number = number_of(first).ok_or_else(|| Failure::new("a message without a number"))?;
                let next = self.numbers.entry(len).or_default();
                self.twice += u64::from(number < *next);
                self.out_of_order += u64::from(number != *next);
                *next += 1;
            }
            kind::RESPONSE | kind::NACK | kind::ACK => {
                self.twice += u64::from(self.answered.insert(id, of).is_some());
                *self.replies.entry(of).or_default() += 1;
            }
            _ => {}
        }
        Ok(())
    }
}
