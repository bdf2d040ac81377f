//! One simulated connection: two directions of octets with their arrival times, and what is wrong with them.
//!
//! It behaves as a TCP connection does at its ends: what was written before the end of a stream is read before it;
//! an end that closes with unread octets, or is written to after it has closed, resets the other.
//!
//! **Invariants**
//! 1. Octets arrive in order, each once, unless the direction was corrupted on purpose.
//! 2. Wakers are called after the connection's lock is released.
//! 3. What an end waits for is either a waker that is kept here, or a time that its alarm is set to.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::rates::{Dice, FaultRates};

/// Which end of a connection: the one that dialled is 0.
pub(super) type EndIndex = usize;

/// What a read or write has found, beside its value.
#[derive(Debug)]
pub(super) enum Found<T> {
    /// It is done.
    Now(T),
    /// Nothing yet; look again at that time, or when woken.
    Later(Option<Instant>),
}

/// Octets on their way from one end to the other.
#[derive(Debug, Default)]
struct Direction {
    octets: VecDeque<u8>,
    /// How many of `octets` have arrived, and when the rest does.
    arrived: usize,
    arrivals: VecDeque<(Instant, usize)>,
    /// When the end of the stream arrives.
    end: Option<Instant>,
    /// When a reset arrives at the reading end.
    reset: Option<Instant>,
    stalled_until: Option<Instant>,
    /// Nothing passes any more.
    is_cut: bool,
    /// So many octets are changed on their way.
    garbage: u32,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// One end, as its own process has it.
#[derive(Debug, Default)]
struct End {
    reader_is_gone: bool,
    writer_is_done: bool,
    writer_is_gone: bool,
    /// Reads and writes fail from now on.
    is_reset: bool,
}

/// A connection between two hosts.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) hosts: [IpAddr; 2],
    directions: [Direction; 2],
    ends: [End; 2],
    rates: FaultRates,
    capacity: usize,
    loses_unread: bool,
    dice: Dice,
    /// Those to wake once the lock is released.
    woken: Vec<Waker>,
}

impl Conn {
    pub(super) fn new(hosts: [IpAddr; 2], rates: FaultRates, mut dice: Dice) -> Self {
        let mut conn = Self {
            hosts,
            directions: Default::default(),
            ends: Default::default(),
            rates: FaultRates::none(),
            capacity: 1,
            loses_unread: dice.per_mille(rates.reset_discards),
            dice,
            woken: Vec::new(),
        };
        conn.set_rates(rates);
        conn
    }

    pub(super) fn set_rates(&mut self, rates: FaultRates) {
        let high = rates.capacity_max.max(1) as u64;
        let low = (high / 4).max(1);
        self.capacity = usize::try_from(self.dice.between(low, high)).unwrap_or(1);
        self.rates = rates;
        self.wake_all();
    }

    pub(super) fn take_woken(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.woken)
    }

    fn wake_all(&mut self) {
        for direction in &mut self.directions {
            self.woken.extend(direction.reader.take());
            self.woken.extend(direction.writer.take());
        }
    }

    fn delay(&mut self) -> Duration {
        Duration::from_millis(self.rates.latency_ms + self.dice.below(self.rates.jitter_ms + 1))
    }

    /// Whether either end can still use it.
    pub(super) fn is_alive(&self) -> bool {
        !self.ends.iter().all(|end| end.is_reset || (end.reader_is_gone && end.writer_is_gone))
    }

    /// Lets what has arrived by now be seen at `end`.
    fn arrive(&mut self, end: EndIndex, now: Instant) {
        let direction = &mut self.directions[1 - end];
        if direction.is_cut || direction.stalled_until.is_some_and(|until| until > now) {
            return;
        }
        direction.stalled_until = None;
        if direction.reset.is_some_and(|at| at <= now) && !self.ends[end].is_reset {
            let is_lost = self.loses_unread || direction.arrived == 0;
            // What had come before may still be read, as on Linux, or be lost, as elsewhere.
            if is_lost {
                self.break_end(end);
                return;
            }
            direction.octets.truncate(direction.arrived);
            direction.arrivals.clear();
            return;
        }
        while let Some((at, len)) = direction.arrivals.front().copied() {
            if at > now {
                break;
            }
            direction.arrived += len;
            direction.arrivals.pop_front();
        }
    }

    /// When something can change at `end` by itself.
    fn next_event(&self, end: EndIndex) -> Option<Instant> {
        let direction = &self.directions[1 - end];
        if direction.is_cut {
            return None;
        }
        let first = direction.arrivals.front().map(|(at, _)| *at);
        let earliest = [first, direction.reset, direction.end].into_iter().flatten().min();
        match (direction.stalled_until, earliest) {
            (Some(until), _) => Some(until),
            (None, earliest) => earliest,
        }
    }

    /// Reads at `end` at most `len_max` octets; 0 is the end of the stream.
    pub(super) fn read(
        &mut self,
        end: EndIndex,
        buffer: &mut Vec<u8>,
        len_max: usize,
        now: Instant,
    ) -> io::Result<Found<usize>> {
        self.arrive(end, now);
        if self.ends[end].is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let stalled = self.directions[1 - end].stalled_until.is_some() || self.directions[1 - end].is_cut;
        let arrived = if stalled { 0 } else { self.directions[1 - end].arrived };
        let mut len = arrived.min(len_max);
        if len > 1 && self.dice.per_mille(self.rates.short_read) {
            len = self.short(len);
        }
        let direction = &mut self.directions[1 - end];
        if len > 0 {
            buffer.reserve_exact(len);
            let (front, back) = direction.octets.as_slices();
            let from_front = front.len().min(len);
            buffer.extend_from_slice(front.get(..from_front).unwrap_or_default());
            buffer.extend_from_slice(back.get(..len - from_front).unwrap_or_default());
            direction.octets.drain(..len);
            direction.arrived -= len;
            self.woken.extend(direction.writer.take());
            return Ok(Found::Now(len));
        }
        if direction.reset.is_some_and(|at| at <= now) && !stalled {
            self.break_end(end);
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let is_over = direction.end.is_some_and(|at| at <= now) && direction.octets.is_empty() && !stalled;
        if is_over || len_max == 0 {
            return Ok(Found::Now(0));
        }
        Ok(Found::Later(self.next_event(end)))
    }

    /// Writes at `end` what fits of `buffers`.
    pub(super) fn write(
        &mut self,
        end: EndIndex,
        buffers: &[IoSlice<'_>],
        now: Instant,
    ) -> io::Result<usize> {
        self.arrive(end, now);
        if self.ends[end].is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        if self.ends[end].writer_is_done {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let offered: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if offered == 0 {
            return Ok(0);
        }
        let mut room = self.capacity.saturating_sub(self.directions[end].octets.len()).min(offered);
        if room > 0 && self.dice.per_mille(self.rates.blocked_write) {
            room = 0;
        }
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if room > 1 && self.dice.per_mille(self.rates.short_write) {
            room = self.short(room);
        }
        if self.is_closed(1 - end) {
            // Nobody is there: the octets come back as a reset.
            let there = now + self.delay();
            self.reset_from(1 - end, there);
            return Ok(room);
        }
        let mut at = now + self.delay();
        let direction = &mut self.directions[end];
        if let Some((last, _)) = direction.arrivals.back() {
            at = at.max(*last);
        }
        let mut left = room;
        for buffer in buffers {
            let part = buffer.get(..left.min(buffer.len())).unwrap_or_default();
            direction.octets.extend(part);
            left -= part.len();
        }
        self.corrupt_last(end, room);
        let direction = &mut self.directions[end];
        direction.arrivals.push_back((at, room));
        self.woken.extend(direction.reader.take());
        Ok(room)
    }

    /// Changes some of the last `len` octets written at `end`, if garbage is due there.
    fn corrupt_last(&mut self, end: EndIndex, len: usize) {
        while self.directions[end].garbage > 0 {
            let place = self.dice.below(len as u64) as usize;
            let bit = 1 << self.dice.below(8);
            let direction = &mut self.directions[end];
            direction.garbage -= 1;
            let at = direction.octets.len() - 1 - place;
            if let Some(octet) = direction.octets.get_mut(at) {
                *octet ^= bit;
            }
        }
    }

    fn short(&mut self, len: usize) -> usize {
        // Mostly a few octets, so that headers are cut everywhere, but never so few that a long payload crawls.
        let high = if self.dice.per_mille(500) { 16.max(len / 64) } else { len };
        self.dice.between(1, high.min(len) as u64) as usize
    }

    /// Whether a write at `end` may make progress, or fail.
    pub(super) fn poll_writable(
        &mut self,
        end: EndIndex,
        cx: &Context<'_>,
        now: Instant,
    ) -> io::Result<Found<()>> {
        self.arrive(end, now);
        if self.ends[end].is_reset {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let full = self.directions[end].octets.len() >= self.capacity;
        if !full || self.ends[end].writer_is_done {
            return Ok(Found::Now(()));
        }
        keep(&mut self.directions[end].writer, cx);
        // A reset that comes may be seen by nobody else.
        Ok(Found::Later(self.directions[1 - end].reset.and(self.next_event(end))))
    }

    pub(super) fn keep_reader(&mut self, end: EndIndex, cx: &Context<'_>) {
        keep(&mut self.directions[1 - end].reader, cx);
    }

    /// Whether this occasion should wake without a reason.
    pub(super) fn wakes_idly(&mut self) -> bool {
        self.dice.per_mille(self.rates.idle_wake)
    }

    /// Ends the sending direction of `end`.
    pub(super) fn shutdown(&mut self, end: EndIndex, now: Instant) {
        if std::mem::replace(&mut self.ends[end].writer_is_done, true) {
            return;
        }
        let mut at = now + self.delay() + Duration::from_millis(self.dice.below(self.rates.late_end_ms + 1));
        let direction = &mut self.directions[end];
        if let Some((last, _)) = direction.arrivals.back() {
            at = at.max(*last);
        }
        direction.end = Some(at);
        self.woken.extend(direction.reader.take());
        self.woken.extend(direction.writer.take());
    }

    pub(super) fn drop_reader(&mut self, end: EndIndex, now: Instant) {
        self.ends[end].reader_is_gone = true;
        self.close_if_gone(end, now);
    }

    pub(super) fn drop_writer(&mut self, end: EndIndex, now: Instant) {
        self.shutdown(end, now);
        self.ends[end].writer_is_gone = true;
        self.close_if_gone(end, now);
    }

    fn is_closed(&self, end: EndIndex) -> bool {
        self.ends[end].reader_is_gone && self.ends[end].writer_is_gone
    }

    /// Both halves of `end` are gone: octets that nobody will read come back as a reset.
    fn close_if_gone(&mut self, end: EndIndex, now: Instant) {
        if !self.is_closed(end) || self.ends[end].is_reset {
            return;
        }
        let incoming = &mut self.directions[1 - end];
        if incoming.octets.is_empty() {
            self.woken.extend(incoming.writer.take());
            return;
        }
        let seen = match incoming.arrived {
            0 => incoming.arrivals.front().map_or(now, |(at, _)| *at),
            _ => now,
        };
        incoming.octets.clear();
        incoming.arrivals.clear();
        incoming.arrived = 0;
        self.woken.extend(incoming.writer.take());
        self.reset_from(end, seen.max(now));
    }

    /// At that time `end`, which is closed, is sent something: what of its own would arrive later was still to be sent
    /// by then, and goes with the socket.
    fn reset_from(&mut self, end: EndIndex, at: Instant) {
        let back = at + self.delay();
        let outgoing = &mut self.directions[end];
        while let Some((arrival, len)) = outgoing.arrivals.back().copied() {
            if arrival <= at {
                break;
            }
            outgoing.arrivals.pop_back();
            outgoing.octets.truncate(outgoing.octets.len() - len);
            outgoing.end = None;
        }
        outgoing.reset.get_or_insert(back);
        self.woken.extend(outgoing.reader.take());
    }

    /// `end` fails from now on.
    pub(super) fn break_end(&mut self, end: EndIndex) {
        self.ends[end].is_reset = true;
        for direction in &mut self.directions {
            self.woken.extend(direction.reader.take());
            self.woken.extend(direction.writer.take());
        }
        // Nothing more comes here, and what had come is gone.
        let incoming = &mut self.directions[1 - end];
        incoming.octets.clear();
        incoming.arrivals.clear();
        incoming.arrived = 0;
    }

    /// Both ends get an error.
    pub(super) fn reset(&mut self) {
        self.break_end(0);
        self.break_end(1);
    }

    /// One end gets an error; the other hears of it when it writes.
    pub(super) fn half_reset(&mut self, end: EndIndex) {
        self.break_end(end);
        self.ends[end].reader_is_gone = true;
        self.ends[end].writer_is_gone = true;
    }

    /// Nothing passes from `end` to the other any more.
    pub(super) fn cut(&mut self, end: EndIndex) {
        self.directions[end].is_cut = true;
    }

    /// Nothing passes from `end` to the other until then.
    pub(super) fn stall(&mut self, end: EndIndex, until: Instant) {
        let direction = &mut self.directions[end];
        direction.stalled_until = Some(direction.stalled_until.map_or(until, |known| known.max(until)));
    }

    /// Changes so many of the next octets that `end` writes.
    pub(super) fn corrupt(&mut self, end: EndIndex, octets: u32) {
        self.directions[end].garbage += octets;
    }

    /// All is well again, from now on: what was held back arrives.
    pub(super) fn heal(&mut self) {
        for direction in &mut self.directions {
            direction.is_cut = false;
            direction.stalled_until = None;
            direction.garbage = 0;
        }
        self.set_rates(FaultRates::none());
    }
}

fn keep(place: &mut Option<Waker>, cx: &Context<'_>) {
    match place {
        Some(waker) => waker.clone_from(cx.waker()),
        None => *place = Some(cx.waker().clone()),
    }
}
