//! From the socket to whole messages: the reading task of a link.
//!
//! It reads chunks of 64 KiB, decodes in place, and hands each message to an [`Inbound`] (the runtime's
//! router). What a chunk's messages caused is written in one go at the end of its turn.
//!
//! **Invariants.** The reader never waits for a handler. It owns a chunk only while there is something in it or
//! to be read. A payload of 16 KiB and more is handed on where it was received.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::large::{LargeBuffer, LargeIn, Skipped};
use super::pool::{self, CHUNK_LEN};
use super::{Link, LinkEnd};
use crate::clock;
use crate::proto::budget::{Budget, Hold};
use crate::proto::outgoing::SHARED_LEN_MIN;
use crate::proto::payload::Payload;
use crate::transport::StreamReader;
use crate::wire::zmtp::command::{self, Command};
use crate::wire::zmtp::decoder::{Decoder, PayloadLimits, ShortMessage, Step};

/// Messages after which the reader looks at the clock.
const CLOCK_INTERVAL_COUNT: u32 = 128;
/// How long the reader goes on before it lets other tasks of its thread run.
const TURN_MAX: Duration = Duration::from_micros(200);
/// Ticks of the process's clock in a second.
const TICKS_PER_SECOND: u64 = 100;

/// Takes what a link receives. All calls come from the link's reading task, in order.
pub trait Inbound: Send {
    /// A message. `Err` ends the link.
    ///
    /// # Errors
    ///
    /// When the peer broke a rule that makes going on senseless.
    fn message(&mut self, header: &[u8], envelope: &[u8], payload: Received<'_>) -> Result<(), LinkEnd>;

    /// A message whose frames are wrong; `first` is what could be kept of its first frame, at most 16 octets.
    fn malformed(&mut self, first: &[u8], envelope: &[u8]);

    /// A message whose payload was skipped. `Err` ends the link.
    ///
    /// # Errors
    ///
    /// As for [`message`](Self::message).
    fn skipped(
        &mut self,
        header: &[u8],
        envelope: &[u8],
        payload_len: u64,
        why: Skipped,
    ) -> Result<(), LinkEnd>;

    /// Where a large payload goes; its buffer comes back in [`Received::Owned`].
    fn large_buffer(&mut self, header: &[u8]) -> LargeBuffer;

    /// All messages of one turn have been handed over.
    fn end_turn(&mut self);

    /// Ready when the peer may be heard. A foreign peer, which knows no credit, is held back here.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;
}

/// A received payload.
#[derive(Debug)]
pub enum Received<'a> {
    /// In the receive chunk.
    Lent {
        /// The octets.
        bytes: &'a [u8],
        /// The chunk, when it can be shared.
        chunk: Option<&'a Bytes>,
    },
    /// In a buffer of its own.
    Owned {
        /// The octets.
        buffer: Vec<u8>,
        /// What it holds of the node's memory.
        hold: Option<Hold>,
    },
}

impl Received<'_> {
    /// The octets, where they are.
    #[inline]
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Lent { bytes, .. } => bytes,
            Self::Owned { buffer, .. } => buffer,
        }
    }

    /// A payload that outlives the turn: a copy below 16 KiB, else the octets where they are; and what it holds.
    #[inline]
    #[must_use]
    pub fn into_payload(self) -> (Payload, Option<Hold>) {
        match self {
            Self::Lent { bytes, chunk: Some(chunk) } if bytes.len() >= SHARED_LEN_MIN => {
                (Payload::from(chunk.slice_ref(bytes)), None)
            }
            Self::Lent { bytes, .. } => (Payload::copy_from(bytes), None),
            Self::Owned { buffer, hold } => (Payload::from(buffer), hold),
        }
    }
}

struct Reader<'a, I> {
    link: &'a Link,
    stream: Box<dyn StreamReader>,
    inbound: &'a mut I,
    decoder: Decoder,
    chunk: Vec<u8>,
    /// What of the chunk a turn that was cut short has handed over already.
    at: usize,
    large: Option<LargeIn>,
    budget: Arc<Budget>,
    commands: CommandMeter,
    /// When this task last gave way.
    turn_began: Instant,
    /// This task has slept since the last read.
    has_slept: bool,
    /// Messages handed over in this turn.
    count: u32,
}

/// Reads until the link ends, and gives the reason. `leftover` came behind the handshake.
pub async fn read_loop<I: Inbound>(
    link: &Arc<Link>,
    stream: Box<dyn StreamReader>,
    leftover: Vec<u8>,
    inbound: &mut I,
    busy_poll: Duration,
) -> LinkEnd {
    let settings = link.settings();
    let limits = PayloadLimits {
        in_place_len_max: CHUNK_LEN,
        large_len_min: CHUNK_LEN,
        frame_len_max: match settings.own_peer {
            true => super::PART_LEN as u64,
            false => settings.payload_len_max,
        },
        skip_len_max: if settings.own_peer { 0 } else { settings.skipped_len_max },
    };
    let mut chunk = pool::take();
    chunk.extend_from_slice(&leftover);
    let mut reader = Reader {
        link,
        stream,
        inbound,
        decoder: Decoder::new(limits),
        chunk,
        at: 0,
        large: None,
        budget: settings.budget.clone(),
        commands: CommandMeter::default(),
        turn_began: clock::now(),
        has_slept: false,
        count: 0,
    };
    let end = reader.run(busy_poll).await;
    pool::give(std::mem::take(&mut reader.chunk));
    end
}

impl<I: Inbound> Reader<'_, I> {
    async fn run(&mut self, busy_poll: Duration) -> LinkEnd {
        let link = self.link;
        let mut ending = pin!(link.ending());
        let mut watcher: Option<Waker> = None;
        if !self.chunk.is_empty() {
            // What came behind the handshake has its turn as everything else.
            std::future::poll_fn(|cx| match self.inbound.poll_readable(cx) {
                Poll::Pending => ending.as_mut().poll(cx),
                ready => ready,
            })
            .await;
        }
        loop {
            match self.take_messages() {
                Ok(done) => {
                    self.inbound.end_turn();
                    // One message of a reader that sleeps between them keeps nobody waiting, and is not worth a look.
                    let is_long = (self.count > 1 || !self.has_slept) && self.is_over();
                    if !done || is_long {
                        tokio::task::yield_now().await;
                        self.turn_began = clock::now();
                    }
                    if !done && link.end_reason().is_none() {
                        continue;
                    }
                    self.has_slept = false;
                }
                Err(end) => {
                    self.inbound.end_turn();
                    return end;
                }
            }
            if let Some(end) = link.end_reason() {
                return end.clone();
            }
            let spun =
                if busy_poll.is_zero() || link.waits_for_turn() { None } else { self.spin(busy_poll).await };
            let read = match spun {
                Some(read) => read,
                None => match self.read_unless(ending.as_mut(), &mut watcher).await {
                    Some(read) => read,
                    None => return link.end_reason().cloned().unwrap_or(LinkEnd::Closed),
                },
            };
            match read {
                Ok(0) => return LinkEnd::Closed,
                Ok(len) => link.note_received(len),
                Err(error) => return LinkEnd::Broken(error.to_string()),
            }
        }
    }

    /// Waits until something can be read, and reads it; `None` when the link ends first. `watcher` is who is woken by
    /// its end: with many links, asking `ending` each time costs more than the rest of this.
    async fn read_unless(
        &mut self,
        mut ending: Pin<&mut impl Future<Output = ()>>,
        watcher: &mut Option<Waker>,
    ) -> Option<std::io::Result<usize>> {
        std::future::poll_fn(|cx| {
            if let Poll::Ready(read) = self.poll_read(cx) {
                return Poll::Ready(Some(read));
            }
            self.has_slept = true;
            let is_watched = watcher.as_ref().is_some_and(|watcher| watcher.will_wake(cx.waker()));
            if is_watched && self.link.end_reason().is_none() {
                return Poll::Pending;
            }
            *watcher = Some(cx.waker().clone());
            ending.as_mut().poll(cx).map(|()| None)
        })
        .await
    }

    /// Polls the socket directly for at most `patience`; `None` when nothing came.
    async fn spin(&mut self, patience: Duration) -> Option<std::io::Result<usize>> {
        /// Empty turns before the runtime's other tasks get one.
        const TRIES: u32 = 16;
        let began = clock::now();
        // What the last turn woke runs first.
        tokio::task::yield_now().await;
        loop {
            for _ in 0..TRIES {
                match self.try_read() {
                    Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => std::thread::yield_now(),
                    read => return Some(read),
                }
            }
            if clock::now().duration_since(began) >= patience || self.link.end_reason().is_some() {
                return None;
            }
            tokio::task::yield_now().await;
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        if self.inbound.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        if let Some((buffer, len)) = self.large.as_mut().and_then(|large| large.room(&self.budget)) {
            return self.stream.poll_read(cx, buffer, len);
        }
        if self.chunk.capacity() == 0 {
            self.chunk = pool::take();
        }
        let room = CHUNK_LEN - self.chunk.len();
        let read = self.stream.poll_read(cx, &mut self.chunk, room);
        if read.is_pending() && self.chunk.is_empty() {
            pool::give(std::mem::take(&mut self.chunk));
        }
        read
    }

    fn try_read(&mut self) -> std::io::Result<usize> {
        if let Some((buffer, len)) = self.large.as_mut().and_then(|large| large.room(&self.budget)) {
            return self.stream.try_read(buffer, len);
        }
        if self.chunk.capacity() == 0 {
            self.chunk = pool::take();
        }
        let room = CHUNK_LEN - self.chunk.len();
        self.stream.try_read(&mut self.chunk, room)
    }

    /// Hands over what is whole; `Ok(false)` when the turn was long enough and more is there.
    fn take_messages(&mut self) -> Result<bool, LinkEnd> {
        let mut frozen: Option<Bytes> = None;
        let mut at = std::mem::take(&mut self.at);
        let mut count: u32 = 0;
        let done = loop {
            let data: &[u8] = frozen.as_ref().map_or(&self.chunk, |bytes| bytes);
            let mut input = data.get(at..).unwrap_or_default();
            if self.large.is_some()
                && let Some(mut large) = self.large.take()
            {
                at += large.take(input, &self.budget);
                if !large.is_whole() {
                    self.large = Some(large);
                    break true;
                }
                deliver_large(self.inbound, &self.decoder, large)?;
                input = data.get(at..).unwrap_or_default();
            }
            if let Some(ShortMessage { header, payload }) = self.decoder.short_message(input) {
                at += payload.end;
                let received = Received::Lent { bytes: &input[payload], chunk: None };
                self.inbound.message(&input[header], &[], received)?;
                count += 1;
                if count.is_multiple_of(CLOCK_INTERVAL_COUNT) && self.is_over() {
                    break false;
                }
                continue;
            }
            let used = match self.decoder.step(input).map_err(|error| LinkEnd::Protocol(error.to_string()))? {
                Step::NeedMore => break true,
                Step::Skipped { used } => used,
                Step::Empty { used } => {
                    self.commands.take_useless(self.link)?;
                    used
                }
                Step::Message { header, payload, used } => {
                    if payload.len() >= SHARED_LEN_MIN && frozen.is_none() {
                        frozen = Some(Bytes::from(std::mem::take(&mut self.chunk)));
                        continue;
                    }
                    let received = Received::Lent { bytes: &input[payload], chunk: frozen.as_ref() };
                    self.inbound.message(&input[header], &[], received)?;
                    used
                }
                Step::HeldMessage { payload, used } => {
                    // The decoder gives such a message once, so it is not asked again after the change.
                    if payload.len() >= SHARED_LEN_MIN && frozen.is_none() {
                        frozen = Some(Bytes::from(std::mem::take(&mut self.chunk)));
                    }
                    let data: &[u8] = frozen.as_ref().map_or(&self.chunk, |bytes| bytes);
                    let bytes = data.get(at + payload.start..at + payload.end).unwrap_or_default();
                    let received = Received::Lent { bytes, chunk: frozen.as_ref() };
                    let held = self.decoder.held();
                    self.inbound.message(&held.header, &held.envelope, received)?;
                    used
                }
                Step::Large { payload_len, used } => {
                    let place = self.inbound.large_buffer(&self.decoder.held().header);
                    self.large = Some(LargeIn::new(place, payload_len));
                    used
                }
                Step::TooLarge { payload_len, used } => {
                    self.large = Some(LargeIn::too_large(payload_len));
                    used
                }
                Step::Command { body, used } => {
                    self.commands.take(self.link, &input[body])?;
                    used
                }
                Step::Malformed { used } => {
                    self.commands.take_useless(self.link)?;
                    let held = self.decoder.held();
                    self.inbound.malformed(&held.header, &held.envelope);
                    used
                }
            };
            at += used;
            count += 1;
            if count.is_multiple_of(CLOCK_INTERVAL_COUNT) && self.is_over() {
                break false;
            }
        };
        self.count = count;
        if !done && frozen.is_none() {
            self.at = at;
        } else {
            self.keep_rest(frozen, at);
        }
        Ok(done)
    }

    /// Whether the turn has been long enough.
    fn is_over(&self) -> bool {
        clock::now().duration_since(self.turn_began) >= TURN_MAX
    }

    /// Moves what is not consumed to the front of a chunk.
    fn keep_rest(&mut self, frozen: Option<Bytes>, at: usize) {
        match frozen {
            None if at >= self.chunk.len() => self.chunk.clear(),
            None => {
                self.chunk.copy_within(at.., 0);
                self.chunk.truncate(self.chunk.len() - at);
            }
            Some(bytes) => {
                let mut chunk = pool::take();
                chunk.extend_from_slice(bytes.get(at..).unwrap_or_default());
                self.chunk = chunk;
                // Nobody kept a slice: the room is good for the next reader.
                if bytes.is_unique() {
                    pool::give(Vec::from(bytes));
                }
            }
        }
    }
}

fn deliver_large<I: Inbound>(inbound: &mut I, decoder: &Decoder, large: LargeIn) -> Result<(), LinkEnd> {
    let held = decoder.held();
    match large.finish() {
        Ok((buffer, hold)) => inbound.message(&held.header, &held.envelope, Received::Owned { buffer, hold }),
        Err((payload_len, why)) => inbound.skipped(&held.header, &held.envelope, payload_len, why),
    }
}

/// Counts what costs a peer nothing.
#[derive(Debug, Default)]
struct CommandMeter {
    second: u64,
    pings: u32,
    unknown: u32,
    useless: u32,
}

impl CommandMeter {
    fn begin_second(&mut self, link: &Link) {
        let second = link.ticks.now() / TICKS_PER_SECOND;
        if second != self.second {
            *self = Self { second, ..Self::default() };
        }
    }

    /// A message that is empty or malformed.
    fn take_useless(&mut self, link: &Link) -> Result<(), LinkEnd> {
        self.begin_second(link);
        self.useless += 1;
        let is_within = self.useless <= link.settings.useless_messages_per_second_max;
        if is_within { Ok(()) } else { Err(LinkEnd::OverLimit("useless_messages_per_second_max")) }
    }

    fn take(&mut self, link: &Link, body: &[u8]) -> Result<(), LinkEnd> {
        self.begin_second(link);
        match command::parse(body) {
            Ok(Command::Ping { ttl_ds, context }) => {
                self.pings += 1;
                if self.pings > link.settings.pings_per_second_max {
                    return Err(LinkEnd::OverLimit("pings_per_second_max"));
                }
                let mut pong = Vec::new();
                command::encode_pong(context, &mut pong);
                link.owe_pong(pong, ttl_ds);
                Ok(())
            }
            Ok(Command::Pong { .. }) => Ok(()),
            Ok(Command::Ready { .. } | Command::Error { .. }) => {
                Err(LinkEnd::Protocol("a handshake command after the handshake".into()))
            }
            Ok(_) => {
                self.unknown += 1;
                if self.unknown > link.settings.unknown_commands_per_second_max {
                    return Err(LinkEnd::OverLimit("unknown_commands_per_second_max"));
                }
                Ok(())
            }
            Err(error) => Err(LinkEnd::Protocol(error.to_string())),
        }
    }
}
