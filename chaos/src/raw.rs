//! A ZMTP client that obeys nobody: blocking, over `std::net::TcpStream`, octet by octet.
//!
//! Hostile scenarios say with it what no honest peer says, and say nothing where an honest one would. It shares no
//! code with the library on purpose: what it takes for the wire is `docs/wire.md` alone.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// More frames of the message follow.
pub const MORE: u8 = 1;
/// The length has eight octets.
pub const LONG: u8 = 2;
/// A command.
pub const COMMAND: u8 = 4;

/// Kinds of messages, by their numbers on the wire.
pub mod kind {
    /// A handler is called.
    pub const MESSAGE: u8 = 1;
    /// The handler has finished.
    pub const ACK: u8 = 2;
    /// It did not work out.
    pub const NACK: u8 = 3;
    /// The handler's value.
    pub const RESPONSE: u8 = 4;
    /// The message is accepted.
    pub const RECEIPT: u8 = 5;
    /// The answer is no longer wanted.
    pub const CANCEL: u8 = 6;
    /// What is finished and granted.
    pub const CREDIT: u8 = 7;
    /// A further part of a payload.
    pub const CHUNK: u8 = 8;
}

/// Delivery modes, by their numbers on the wire.
pub mod mode {
    /// Nothing comes back.
    pub const ONE_WAY: u8 = 0;
    /// An Ack.
    pub const CONFIRMED: u8 = 1;
    /// A Response.
    pub const RESPONSE: u8 = 2;
    /// A Receipt and nothing else.
    pub const RECEIPT: u8 = 3;
}

/// Header flag: the time left follows.
pub const HAS_DEADLINE: u8 = 1;
/// Header flag: the length of the whole payload follows.
pub const IS_CHUNKED: u8 = 16;
/// Octets of payload in each part but the last.
pub const PART_LEN: usize = 1 << 20;

/// The greeting of a ZMTP 3.1 peer without security.
#[must_use]
pub fn greeting() -> [u8; 64] {
    let mut octets = [0; 64];
    octets[0] = 0xFF;
    octets[9] = 0x7F;
    octets[10] = 3;
    octets[11] = 1;
    octets[12..16].copy_from_slice(b"NULL");
    octets
}

/// The flags and the length in front of a frame.
#[must_use]
pub fn frame_header(flags: u8, len: u64) -> Vec<u8> {
    match u8::try_from(len) {
        Ok(len) => vec![flags, len],
        Err(_) => [&[flags | LONG][..], &len.to_be_bytes()].concat(),
    }
}

/// A whole frame.
#[must_use]
pub fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = frame_header(flags, body.len() as u64);
    octets.extend_from_slice(body);
    octets
}

/// A command of any name.
#[must_use]
pub fn command(name: &str, data: &[u8]) -> Vec<u8> {
    let name_len = u8::try_from(name.len()).expect("command names are short");
    frame(COMMAND, &[&[name_len], name.as_bytes(), data].concat())
}

/// A property as it stands in a READY.
#[must_use]
pub fn property(name: &str, value: &[u8]) -> Vec<u8> {
    let name_len = u8::try_from(name.len()).expect("property names are short");
    let value_len = u32::try_from(value.len()).expect("property values are short");
    [&[name_len], name.as_bytes(), &value_len.to_be_bytes(), value].concat()
}

/// A READY of these properties.
#[must_use]
pub fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let list: Vec<u8> = properties.iter().flat_map(|(name, value)| property(name, value)).collect();
    command("READY", &list)
}

/// A header; what it does not name is 0 or absent.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    /// See [`kind`].
    pub kind: u8,
    /// Octet 2: mode, code or account.
    pub aux: u8,
    /// Payload codec; 0 is raw.
    pub codec: u8,
    /// What it is about.
    pub id: u64,
    /// The handler.
    pub name: &'a str,
    /// Time left, in ms.
    pub deadline_ms: Option<u32>,
    /// Length of a payload in parts.
    pub total_len: Option<u64>,
}

impl<'a> Header<'a> {
    /// A header without a handler's name.
    #[must_use]
    pub const fn reply(kind: u8, aux: u8, id: u64) -> Self {
        Self { kind, aux, codec: 0, id, name: "", deadline_ms: None, total_len: None }
    }

    /// The header of a Message.
    #[must_use]
    pub const fn message(mode: u8, id: u64, name: &'a str) -> Self {
        Self { name, ..Self::reply(kind::MESSAGE, mode, id) }
    }

    /// Its octets.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let name_len = u8::try_from(self.name.len()).expect("handler names are short");
        let mut flags = 0;
        let mut tail = Vec::new();
        if let Some(left) = self.deadline_ms {
            flags |= HAS_DEADLINE;
            tail.extend_from_slice(&left.to_be_bytes());
        }
        if let Some(total) = self.total_len {
            flags |= IS_CHUNKED;
            tail.extend_from_slice(&total.to_be_bytes());
        }
        let head = [1, self.kind, self.aux, flags, self.codec, name_len, 0, 0];
        [&head, &self.id.to_be_bytes()[..], self.name.as_bytes(), &tail].concat()
    }

    /// The header and a payload, framed; an empty payload has no frame.
    #[must_use]
    pub fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let header = self.encode();
        if payload.is_empty() {
            return frame(0, &header);
        }
        let mut octets = frame(MORE, &header);
        octets.extend_from_slice(&frame_header(0, payload.len() as u64));
        octets.extend_from_slice(payload);
        octets
    }
}

/// A Credit for an account: messages and bytes finished, messages and bytes granted.
#[must_use]
pub fn credit(account: u8, totals: [u64; 4]) -> Vec<u8> {
    let payload: Vec<u8> = totals.iter().flat_map(|total| total.to_be_bytes()).collect();
    Header::reply(kind::CREDIT, account, 0).with_payload(&payload)
}

/// What a raw peer says of itself that only own nodes say.
#[derive(Debug, Clone)]
pub struct OwnHello {
    /// Its instance id; the first octet is not 0.
    pub instance: [u8; 16],
    /// Its incarnation.
    pub incarnation: [u8; 16],
    /// The longest message that it says it takes.
    pub max_message: u64,
    /// Messages and bytes that it grants at first.
    pub credit: (u64, u64),
}

impl OwnHello {
    /// A peer of its own number that grants what a node grants by default.
    #[must_use]
    pub fn numbered(number: u64) -> Self {
        let mut instance = [0x42; 16];
        instance[4..8].copy_from_slice(&std::process::id().to_be_bytes());
        instance[8..].copy_from_slice(&number.to_be_bytes());
        Self { instance, incarnation: instance, max_message: 64 << 20, credit: (8192, 16 << 20) }
    }

    /// Its READY, as the dialler sends it.
    #[must_use]
    pub fn ready(&self) -> Vec<u8> {
        let max_message = self.max_message.to_string();
        let credit = format!("{},{}", self.credit.0, self.credit.1);
        ready(&[
            ("Socket-Type", b"DEALER"),
            ("Identity", &self.instance),
            ("X-AM-Version", b"1"),
            ("X-AM-Incarnation", &self.incarnation),
            ("X-AM-Host", b"raw"),
            ("X-AM-Max-Message", max_message.as_bytes()),
            ("X-AM-Credit", credit.as_bytes()),
        ])
    }
}

/// A message that came: its frames.
pub type Message = Vec<Vec<u8>>;

/// A connection, from a fresh one to one whose handshake is done.
#[derive(Debug)]
pub struct RawClient {
    stream: TcpStream,
    input: Vec<u8>,
    at: usize,
    /// Properties of the peer's READY, undecoded.
    pub peer_ready: Vec<u8>,
}

impl RawClient {
    /// Connects and says nothing. Reads and writes that get nowhere fail after 10 s.
    ///
    /// # Errors
    ///
    /// When nobody listens there.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.set_write_timeout(Some(Duration::from_secs(10)))?;
        Ok(Self { stream, input: Vec::new(), at: 0, peer_ready: Vec::new() })
    }

    /// Connects and shakes hands as a foreign socket of that type.
    ///
    /// # Errors
    ///
    /// When the node refuses or breaks off.
    pub fn foreign(address: SocketAddr, socket_type: &str) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        client.shake(&ready(&[("Socket-Type", socket_type.as_bytes()), ("Identity", b"")]))?;
        Ok(client)
    }

    /// Connects and shakes hands as one of our own nodes.
    ///
    /// # Errors
    ///
    /// When the node refuses or breaks off.
    pub fn own(address: SocketAddr, hello: &OwnHello) -> io::Result<Self> {
        let mut client = Self::connect(address)?;
        client.shake(&hello.ready())?;
        Ok(client)
    }

    /// Says greeting and `ready`, and waits for the node's.
    ///
    /// # Errors
    ///
    /// When the node refuses or breaks off.
    pub fn shake(&mut self, ready: &[u8]) -> io::Result<()> {
        self.write(&greeting())?;
        self.write(ready)?;
        self.fill(64)?;
        self.at += 64;
        let (flags, body) = self.read_frame()?;
        if flags & COMMAND == 0 || !body.starts_with(b"\x05READY") {
            return Err(io::Error::other("the node's first frame is no READY"));
        }
        self.peer_ready = body;
        Ok(())
    }

    /// Sends octets as they are.
    ///
    /// # Errors
    ///
    /// When the node has closed, or takes nothing for as long as the timeout allows.
    pub fn write(&mut self, octets: &[u8]) -> io::Result<()> {
        self.stream.write_all(octets)
    }

    /// The connection itself.
    #[must_use]
    pub const fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// How long a read or a write may get nowhere.
    ///
    /// # Errors
    ///
    /// When the system refuses.
    pub fn set_patience(&self, patience: Duration) -> io::Result<()> {
        self.stream.set_read_timeout(Some(patience))?;
        self.stream.set_write_timeout(Some(patience))
    }

    /// The next frame: its flags, without the one for its length, and its body.
    ///
    /// # Errors
    ///
    /// When the stream ends or nothing comes.
    pub fn read_frame(&mut self) -> io::Result<(u8, Vec<u8>)> {
        self.fill(2)?;
        let flags = self.input[self.at];
        let (header_len, len) = if flags & LONG == 0 {
            (2, u64::from(self.input[self.at + 1]))
        } else {
            self.fill(9)?;
            let len: [u8; 8] = self.input[self.at + 1..self.at + 9].try_into().expect("eight octets");
            (9, u64::from_be_bytes(len))
        };
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.fill(header_len + len)?;
        let body = self.input[self.at + header_len..self.at + header_len + len].to_vec();
        self.at += header_len + len;
        Ok((flags & !LONG, body))
    }

    /// The next message; commands in between are dropped.
    ///
    /// # Errors
    ///
    /// When the stream ends or nothing comes.
    pub fn read_message(&mut self) -> io::Result<Message> {
        let mut frames = Vec::new();
        loop {
            let (flags, body) = self.read_frame()?;
            if flags & COMMAND != 0 {
                continue;
            }
            frames.push(body);
            if flags & MORE == 0 {
                return Ok(frames);
            }
        }
    }

    /// Reads and drops until the node closes; gives how many octets came. `Err` of kind `TimedOut` or `WouldBlock`
    /// when it does not.
    ///
    /// # Errors
    ///
    /// When nothing comes for as long as the timeout allows.
    pub fn read_to_end(&mut self) -> io::Result<u64> {
        let mut total = 0;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(total),
                Ok(count) => total += count as u64,
                Err(error) if is_closed(&error) => return Ok(total),
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads until `len` octets wait at the front.
    fn fill(&mut self, len: usize) -> io::Result<()> {
        if self.input.len() - self.at >= len {
            return Ok(());
        }
        self.input.drain(..self.at);
        self.at = 0;
        let mut buffer = [0; 16 * 1024];
        while self.input.len() < len {
            match self.stream.read(&mut buffer)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => self.input.extend_from_slice(&buffer[..count]),
            }
        }
        Ok(())
    }
}

/// Whether an error says that the other end has closed, rather than that it does not move.
#[must_use]
pub fn is_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}
