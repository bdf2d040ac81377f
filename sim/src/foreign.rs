//! Peers that are no nodes of ours: plain ZeroMQ clients, honest ones that never read, and some that send anything.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use dynamo_am::transport::ByteStream;
use dynamo_am::transport::sim::Dice;
use dynamo_am::wire::codes::{Codec, Kind as Frame, NackCode};
use dynamo_am::wire::header::Header;
use dynamo_am::wire::zmtp::frame::{self, FrameHeader};
use dynamo_am::{DeliveryMode, Refusal};
use tokio::time::{Instant, sleep, timeout_at};

use crate::log::{End, Event, Life, Number};
use crate::message::{self, Kind, Mode, Outcome, Plan};
use crate::scenario::{address, host};
use crate::world::World;

/// Slots from here on are no nodes.
pub const FIRST_SLOT: u8 = 100;
/// How long a foreigner waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Octets read at once.
const READ_LEN: usize = 4096;

/// What a foreigner is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    /// Asks and waits for its answers, as a DEALER does.
    Dealer,
    /// One request, one answer.
    Req,
    /// Only sends.
    Push,
    /// Asks for much and reads next to nothing.
    Deaf,
    /// Sends what nobody should.
    Hostile,
}

impl Manner {
    const fn socket_type(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Push => "PUSH",
            _ => "DEALER",
        }
    }
}

/// Foreigners come and go until the world is to be quiet.
pub async fn visit(world: Arc<World>, number: u8) {
    let mut dice = world.scenario.dice.fork(500 + u64::from(number));
    let mut life = Life { slot: FIRST_SLOT + number, life: 0 };
    while !world.quiet.is_cancelled() {
        sleep(dice.millis(0, 400)).await;
        let manner = *dice
            .pick(&[Manner::Dealer, Manner::Req, Manner::Push, Manner::Deaf, Manner::Hostile])
            .unwrap_or(&Manner::Dealer);
        let to = dice.below(world.scenario.slots().into()) as u8;
        let Ok(stream) = world.net.dial(host(life.slot), address(to)).await else { continue };
        let target = world.slots[usize::from(to)].lock().as_ref().map(|living| living.node.instance_id());
        let Some(target) = target else { continue };
        let mut visitor = Visitor {
            world: world.clone(),
            life,
            target: target.to_string(),
            stream,
            input: Vec::new(),
            manner,
        };
        world.log.note(format!("{life:?}, a {manner:?}, visits {to}"));
        let until = Instant::now() + dice.millis(50, 3000);
        let ended = tokio::select! {
            biased;
            () = world.quiet.cancelled() => None,
            ended = timeout_at(until, visitor.stay(&mut dice)) => ended.ok(),
        };
        world.log.note(format!("{life:?} leaves: {ended:?}"));
        life.life += 1;
    }
}

struct Visitor {
    world: Arc<World>,
    life: Life,
    target: String,
    stream: ByteStream,
    input: Vec<u8>,
    manner: Manner,
}

/// A question whose end is written down whatever happens.
struct Asked {
    world: Arc<World>,
    number: Number,
    is_over: bool,
}

impl Asked {
    fn end(&mut self, end: End) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.world.log.push(Event::Ended(self.number, end));
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

impl Visitor {
    async fn stay(&mut self, dice: &mut Dice) -> io::Result<()> {
        if self.manner == Manner::Hostile && dice.per_mille(400) {
            return self.disturb(dice).await;
        }
        self.write(&greeting()).await?;
        self.write(&ready(self.manner.socket_type())).await?;
        while self.input.len() < greeting().len() {
            self.read(READ_LEN).await?;
        }
        self.input.drain(..greeting().len());
        loop {
            match self.manner {
                Manner::Hostile => self.disturb(dice).await?,
                Manner::Deaf => {
                    for _ in 0..dice.between(1, 40) {
                        let _ = self.ask(dice, Mode::Response, 20_000).await?;
                    }
                    self.read(16).await?;
                }
                Manner::Push => drop(self.ask(dice, Mode::OneWay, 10).await?),
                Manner::Dealer | Manner::Req => {
                    let mode =
                        *dice.pick(&[Mode::OneWay, Mode::Confirmed, Mode::Response]).unwrap_or(&Mode::OneWay);
                    // A REQ has to have an answer, so all that it sends has one.
                    let mode = if self.manner == Manner::Req { Mode::Response } else { mode };
                    let asked = self.ask(dice, mode, 100).await?;
                    self.hear(asked, mode).await?;
                }
            }
            sleep(dice.millis(0, 60)).await;
        }
    }

    /// Sends one message, written down as a call.
    async fn ask(&mut self, dice: &mut Dice, mode: Mode, reply_len: u32) -> io::Result<(Asked, Kind, Plan)> {
        let kind =
            *dice.pick(&[Kind::Inline, Kind::Unary, Kind::Ordered, Kind::Batched]).unwrap_or(&Kind::Inline);
        let plan = Plan {
            work_ms: dice.below(10) as u32,
            outcome: if dice.per_mille(50) { Outcome::Panic } else { Outcome::Well },
            reply_len,
            payload_len: dice.below(2000) as u32,
        };
        let log = &self.world.log;
        let number = log.number();
        log.push(Event::Call {
            number,
            by: self.life,
            task: 0,
            to: self.target.clone(),
            kind,
            mode,
            plan,
            deadline: PATIENCE,
            is_nested: false,
        });
        let asked = Asked { world: self.world.clone(), number, is_over: false };
        let delivery = match mode {
            Mode::OneWay => DeliveryMode::FireAndForget,
            Mode::Confirmed => DeliveryMode::Confirmed,
            _ => DeliveryMode::WithResponse,
        };
        let mut header = Header::message(delivery, number, kind.name().as_bytes());
        header.deadline_ms = u32::try_from(PATIENCE.as_millis()).ok();
        header.codec = Codec::Raw;
        let payload = message::payload(number, &plan);
        let mut octets = Vec::new();
        if self.manner == Manner::Req {
            frame::encode_header(true, 0, &mut octets);
        }
        encode(&header, &payload.0, &mut octets);
        self.write(&octets).await?;
        Ok((asked, kind, plan))
    }

    /// Waits for the answer to what was asked last.
    async fn hear(&mut self, (mut asked, kind, plan): (Asked, Kind, Plan), mode: Mode) -> io::Result<()> {
        if mode == Mode::OneWay {
            asked.end(End::Sent);
            return Ok(());
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let Ok(answer) = timeout_at(until, self.answer()).await else {
                asked.end(End::Dropped);
                return Ok(());
            };
            let (head, payload) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    asked.end(End::PeerLost(true));
                    return Err(error);
                }
            };
            let Ok(header) = Header::decode(&head) else {
                asked.end(End::Broken("an answer without a header".to_owned()));
                return Ok(());
            };
            // Answers to what was given up come late, and nodes call whoever is there.
            let is_answer =
                matches!(header.kind, Frame::Ack | Frame::Nack | Frame::Response | Frame::Receipt);
            if header.id == asked.number && is_answer {
                asked.end(end_of(&header, &payload, asked.number, kind, &plan));
                return Ok(());
            }
        }
    }

    /// The next message: its header and payload.
    async fn answer(&mut self) -> io::Result<(Vec<u8>, Vec<u8>)> {
        let mut frames: Vec<Vec<u8>> = Vec::new();
        loop {
            while let Some(header) = FrameHeader::decode(&self.input).map_err(io::Error::other)? {
                let len = header.header_len + header.body_len as usize;
                if self.input.len() < len {
                    break;
                }
                let body = self.input.get(header.header_len..len).unwrap_or_default().to_vec();
                self.input.drain(..len);
                if header.command {
                    continue;
                }
                if !body.is_empty() || !frames.is_empty() {
                    frames.push(body);
                }
                if !header.more && !frames.is_empty() {
                    let mut parts = frames.into_iter();
                    return Ok((parts.next().unwrap_or_default(), parts.next().unwrap_or_default()));
                }
            }
            self.read(READ_LEN).await?;
        }
    }

    /// Sends what nobody should.
    async fn disturb(&mut self, dice: &mut Dice) -> io::Result<()> {
        let mut octets = Vec::new();
        match dice.below(6) {
            0 => octets.extend((0..dice.between(1, 300)).map(|_| dice.number() as u8)),
            1 => octets.extend(greeting().iter().take(dice.below(64) as usize)),
            2 => {
                // Announces more than comes.
                octets.push(2);
                octets.extend(dice.number().to_be_bytes());
            }
            3 => octets.extend([1, 0].repeat(dice.between(1, 3000) as usize)),
            4 => {
                let mut header = Header::message(DeliveryMode::Confirmed, dice.number(), b"absent");
                header.depth = dice.number() as u8;
                encode(&header, &[0; 40], &mut octets);
                let place = dice.below(octets.len() as u64) as usize;
                if let Some(octet) = octets.get_mut(place) {
                    *octet ^= 1 << dice.below(8);
                }
            }
            _ => {
                let kinds =
                    [Header::reply(Frame::Ack, dice.below(50)), Header::reply(Frame::Cancel, dice.below(50))];
                for header in kinds.iter().cycle().take(dice.between(1, 20) as usize) {
                    encode(header, &[], &mut octets);
                }
            }
        }
        self.write(&octets).await
    }

    async fn read(&mut self, len_max: usize) -> io::Result<()> {
        let Self { stream, input, .. } = self;
        match std::future::poll_fn(|cx| stream.reader.poll_read(cx, input, len_max)).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn write(&mut self, mut octets: &[u8]) -> io::Result<()> {
        let writer = &self.stream.writer;
        while !octets.is_empty() {
            match writer.try_write(&[IoSlice::new(octets)]) {
                Ok(len) => octets = octets.get(len..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    std::future::poll_fn(|cx| writer.poll_writable(cx)).await?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn end_of(header: &Header<'_>, payload: &[u8], number: Number, kind: Kind, plan: &Plan) -> End {
    match header.kind {
        Frame::Ack => End::Ack,
        Frame::Response => End::Reply(message::is_reply(payload, number, kind, plan)),
        Frame::Nack => {
            let code = header.nack_code().unwrap_or(NackCode::Protocol);
            let text = String::from_utf8_lossy(payload).into_owned();
            match Refusal::from_code(code) {
                Some(reason) => End::Refused(format!("{reason:?}"), text),
                None if code == NackCode::Panicked => End::Panicked,
                None if code == NackCode::Cancelled => End::Cancelled(true),
                None => End::HandlerError(text),
            }
        }
        kind => End::Broken(format!("{kind} was not asked for")),
    }
}

fn encode(header: &Header<'_>, payload: &[u8], out: &mut Vec<u8>) {
    frame::encode_header(!payload.is_empty(), header.encoded_len(), out);
    header.encode(out);
    if !payload.is_empty() {
        frame::encode_header(false, payload.len(), out);
        out.extend_from_slice(payload);
    }
}

/// ZMTP 3.1 with NULL, as a client says it.
fn greeting() -> [u8; 64] {
    let mut greeting = [0; 64];
    greeting[0] = 0xFF;
    greeting[9] = 0x7F;
    greeting[10] = 3;
    greeting[11] = 1;
    greeting[12..16].copy_from_slice(b"NULL");
    greeting
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x05READY\x0bSocket-Type".to_vec();
    body.extend((socket_type.len() as u32).to_be_bytes());
    body.extend_from_slice(socket_type.as_bytes());
    let mut ready = vec![4, body.len() as u8];
    ready.append(&mut body);
    ready
}

/// Whether that is where a foreigner is.
#[must_use]
pub const fn is_foreign(life: Life) -> bool {
    life.slot >= FIRST_SLOT
}

/// The host of a node that uses the identity of another.
#[must_use]
pub const fn thief_host(victim: u8) -> IpAddr {
    host(50 + victim)
}
