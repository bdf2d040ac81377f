//! A peer that shakes hands properly and then sends what it likes: [`Hostile`].

use std::io::{self, IoSlice};
use std::task::{Context, Poll, Waker};

use dynamo_am::proto::credit::Totals;
use dynamo_am::transport::ByteStream;
use dynamo_am::transport::handshake::Shaking;
use dynamo_am::wire::answer::PeerClass;
use dynamo_am::wire::zmtp::command::{self, Command};
use dynamo_am::wire::zmtp::decoder::PayloadLimits;
use dynamo_am::wire::zmtp::frame::FrameHeader;
use dynamo_am::wire::zmtp::greeting::{self, GREETING_LEN};
use dynamo_am::wire::zmtp::handshake::Role;
use dynamo_am::wire::zmtp::mechanism::MechanismName;
use dynamo_am::wire::zmtp::properties::{AmHello, push};

use super::ledger::Ledger;
use super::{PAYLOAD_LEN_MAX, TICK};
use crate::decoder::{Event, Reader};

/// The peer gives the node so many turns, and then so many ticks, before it gives up. That is less than until the
/// node's next look for silence, which would wake what should have been woken long before.
const TURNS: u32 = 100;
const TICKS: u32 = 8;
/// So many ticks more may the last credit take: of less than a sixteenth of the grant, the sweep alone tells, late.
const CREDIT_TICKS: u32 = 12;
/// The context of the last PING.
const LAST: &[u8] = b"last";
const MIB: u64 = 1 << 20;

/// A link to the node, with an account of what either side has said.
pub(super) struct Hostile {
    stream: ByteStream,
    /// Reads nothing until the end.
    is_deaf: bool,
    /// Both directions, decoded as the node and an honest peer would.
    sent: Reader,
    received: Reader,
    place: Place,
    pub(super) ledger: Ledger,
    /// The node has ended the link, or the peer has lost its place in its own frames.
    pub(super) is_over: bool,
    pong: bool,
}

impl Hostile {
    /// Shakes hands as one of our own nodes; `None` when the node does not want it.
    pub(super) async fn own(mut stream: ByteStream, hello: AmHello, is_deaf: bool) -> Option<Self> {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(5);
        let mut shaking = Shaking::new(Role::Dial, hello);
        let is_asked = shaking.advance(&mut stream, deadline).await.ok()?;
        assert!(!is_asked, "a dialler has said all");
        let (node, behind) = shaking.finish().ok()?;
        let own = node.own.expect("the node is one of ours");
        let granted = Totals { messages: own.credit_messages, bytes: own.credit_bytes };
        let mut hostile = Self::new(stream, PeerClass::Own, granted, is_deaf);
        hostile.take(&behind);
        Some(hostile)
    }

    /// Shakes hands as a foreign socket of that type.
    pub(super) async fn foreign(mut stream: ByteStream, socket_type: &str, is_deaf: bool) -> Option<Self> {
        let mut list = Vec::new();
        push("Socket-Type", socket_type.as_bytes(), &mut list).ok()?;
        let mut hello = greeting::encode(&MechanismName::NULL).to_vec();
        command::encode_ready(&list, &mut hello);
        let written = stream.writer.try_write(&[IoSlice::new(&hello)]).ok()?;
        assert_eq!(written, hello.len(), "the stream is empty");
        let mut input = Vec::new();
        let ready_len =
            |input: &[u8]| input.get(GREETING_LEN + 1).map(|&len| GREETING_LEN + 2 + usize::from(len));
        while ready_len(&input).is_none_or(|len| input.len() < len) {
            let read = std::future::poll_fn(|cx| stream.reader.poll_read(cx, &mut input, 4096)).await.ok()?;
            if read == 0 {
                return None;
            }
        }
        let class = match socket_type {
            "REQ" => PeerClass::ForeignReq,
            "PUSH" => PeerClass::ForeignPush,
            _ => PeerClass::Foreign,
        };
        let mut hostile = Self::new(stream, class, Totals::default(), is_deaf);
        hostile.take(&input[ready_len(&input)?..]);
        Some(hostile)
    }

    fn new(stream: ByteStream, class: PeerClass, granted: Totals, is_deaf: bool) -> Self {
        let is_own = class == PeerClass::Own;
        let limits = PayloadLimits {
            in_place_len_max: 65_536,
            large_len_min: 65_536,
            frame_len_max: if is_own { MIB } else { PAYLOAD_LEN_MAX },
            skip_len_max: if is_own { 0 } else { 1024 * MIB },
        };
        Self {
            stream,
            is_deaf,
            sent: Reader::new(limits),
            received: Reader::new(PayloadLimits { frame_len_max: 64 * MIB, ..limits }),
            place: Place::default(),
            ledger: Ledger::new(class, granted),
            is_over: false,
            pong: false,
        }
    }

    /// Writes, and reads when the node takes no more, unless deaf. What the node does not take from a deaf peer, or
    /// from one that owes it nothing and has calls waiting, is not written: both ends would wait for ever. From all
    /// others it takes everything in a while.
    pub(super) async fn write(&mut self, mut octets: &[u8]) {
        let mut tries = 0;
        while !octets.is_empty() && !self.is_over {
            match self.stream.writer.try_write(&[IoSlice::new(octets)]) {
                Ok(count) => {
                    let (written, rest) = octets.split_at(count);
                    octets = rest;
                    tries = 0;
                    self.place.pass(written);
                    let events = self.sent.push(written);
                    self.is_over |= events.contains(&Event::Lost);
                    events.iter().for_each(|event| self.ledger.sent(event));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && tries < TURNS + TICKS => {
                    tries += 1;
                    if !self.is_deaf {
                        self.read();
                    }
                    if tries < TURNS {
                        tokio::task::yield_now().await;
                    } else {
                        tokio::time::sleep(TICK).await;
                    }
                }
                // Half a message may have gone: nothing that follows would be understood.
                Err(error) => {
                    let may_wait = self.is_deaf || self.ledger.is_open();
                    let is_stuck = error.kind() == io::ErrorKind::WouldBlock && !may_wait;
                    assert!(!is_stuck, "the node reads no more of a peer that reads all");
                    self.is_over = true;
                }
            }
        }
    }

    /// Takes what the node has sent so far.
    pub(super) fn read(&mut self) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut input = Vec::new();
        loop {
            match self.stream.reader.poll_read(&mut cx, &mut input, 65_536) {
                Poll::Ready(Ok(len)) if len > 0 => {}
                Poll::Ready(_) => {
                    self.is_over = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        self.take(&input);
    }

    pub(super) const fn is_deaf(&self) -> bool {
        self.is_deaf
    }

    fn take(&mut self, octets: &[u8]) {
        for event in self.received.push(octets) {
            if let Event::Command(body) = &event {
                let command = command::parse(body).expect("a node sends commands that can be read");
                assert!(matches!(command, Command::Ping { .. } | Command::Pong { .. }), "{command:?}");
                self.pong |= matches!(command, Command::Pong { context } if context == LAST);
            }
            self.ledger.received(&event);
        }
    }

    /// Asks for a sign of life, with which all credit leaves, and waits for all that is owed. Says what is missing.
    pub(super) async fn settle(&mut self, rest: impl AsyncFn()) -> Option<String> {
        if self.place.is_amid() {
            // What was begun never ends, so neither does what is owed for it.
            self.is_over = true;
        }
        for tick in 0..TICKS + CREDIT_TICKS {
            if tick >= TICKS && !self.pong {
                return Some("the node has not answered a PING".to_owned());
            }
            let mut ping = Vec::new();
            command::encode_ping(0, LAST, &mut ping);
            self.write(&ping).await;
            rest().await;
            self.read();
            if self.is_over || (self.pong && self.ledger.outstanding().is_none()) {
                return None;
            }
        }
        self.ledger.outstanding()
    }
}

/// Where in its frames a stream stands.
#[derive(Debug, Default)]
struct Place {
    /// What has come of a frame's header, and how much of its body is missing.
    head: Vec<u8>,
    missing: u64,
}

impl Place {
    fn pass(&mut self, mut octets: &[u8]) {
        while !octets.is_empty() {
            if self.missing > 0 {
                let len = usize::try_from(self.missing).unwrap_or(usize::MAX).min(octets.len());
                octets = &octets[len..];
                self.missing -= len as u64;
                continue;
            }
            self.head.push(octets[0]);
            octets = &octets[1..];
            match FrameHeader::decode(&self.head) {
                Ok(None) => {}
                Ok(Some(header)) => {
                    self.head.clear();
                    self.missing = header.body_len;
                }
                // The node ends the link.
                Err(_) => self.missing = u64::MAX,
            }
        }
    }

    /// Whether a frame has begun and not ended.
    fn is_amid(&self) -> bool {
        self.missing > 0 || !self.head.is_empty()
    }
}
