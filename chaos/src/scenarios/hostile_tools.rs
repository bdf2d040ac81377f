//! What the attackers have in common: their pace, and how they see that they were closed.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::{Failure, Result};
use crate::raw::{Header, OwnHello, RawClient, mode};

/// A link that is to be closed is closed by then; the slack is for a busy machine.
pub(super) const CLOSED_MAX: Duration = Duration::from_secs(1);

/// Whom to attack, and how much.
#[derive(Debug, Clone, Copy)]
pub(super) struct Target {
    /// Where the node listens.
    pub(super) address: SocketAddr,
    /// The counts of the promise.
    pub(super) full: bool,
}

impl Target {
    /// One value or the other.
    pub(super) fn pick<T>(self, short: T, full: T) -> T {
        if self.full { full } else { short }
    }

    /// A link as a foreign DEALER.
    pub(super) fn dealer(self) -> Result<RawClient> {
        Ok(RawClient::foreign(self.address, "DEALER")?)
    }

    /// A link as one of our own nodes.
    pub(super) fn own(self, number: u64) -> Result<RawClient> {
        Ok(RawClient::own(self.address, &OwnHello::numbered(number))?)
    }

    /// How long the counts of this attack are spread over.
    pub(super) fn time(self) -> Duration {
        self.pick(Duration::from_secs(1), Duration::from_secs(10))
    }

    /// Spreads `total` over the time of an attack.
    pub(super) fn pace(self, total: u64) -> Pace {
        Pace { began: Instant::now(), total, time: self.time(), done: 0 }
    }
}

/// Spreads so many acts evenly over a time.
#[derive(Debug)]
pub(super) struct Pace {
    began: Instant,
    total: u64,
    time: Duration,
    done: u64,
}

impl Pace {
    /// So many are done: waits until they may be.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    pub(super) fn done(&mut self, count: u64) {
        self.done += count;
        let due = self.time.mul_f64(self.done as f64 / self.total as f64);
        std::thread::sleep(due.saturating_sub(self.began.elapsed()));
    }

    /// How many are still to be done.
    pub(super) const fn left(&self) -> u64 {
        self.total.saturating_sub(self.done)
    }
}

/// Lets this process have as many descriptors as it may.
pub(super) fn raise_descriptors(wanted: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    crate::ensure!(
        limit.maximum.is_none_or(|most| most >= wanted),
        "this needs {wanted} descriptors: raise the hard limit (`ulimit -Hn`)"
    );
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })?)
}

/// Sends octets again and again until the node closes, at most `times`; gives how often they were taken.
pub(super) fn pour(client: &mut RawClient, octets: &[u8], times: u64) -> u64 {
    for taken in 0..times {
        if client.write(octets).is_err() {
            return taken;
        }
    }
    times
}

/// How long it takes until the node closes.
///
/// # Errors
///
/// When it does not within ten seconds.
pub(super) fn time_to_close(client: &mut RawClient, what: &str) -> Result<Duration> {
    let began = Instant::now();
    client.set_patience(Duration::from_secs(10))?;
    client.read_to_end().map_err(|error| Failure::new(format!("the node does not close {what}: {error}")))?;
    Ok(began.elapsed())
}

/// Whether the link still serves: it calls `double`, and passes over whatever else comes before the answer.
pub(super) fn still_serves(client: &mut RawClient) -> Result<bool> {
    const ID: u64 = 0x5E5E;
    let call = Header { codec: 1, ..Header::message(mode::RESPONSE, ID, "double") };
    match client.write(&call.with_payload(b"21")) {
        Err(error) if crate::raw::is_closed(&error) => return Ok(false),
        written => written?,
    }
    loop {
        match client.read_message() {
            Ok(frames) => {
                let is_mine =
                    frames.first().and_then(|header| header.get(8..16)) == Some(&ID.to_be_bytes()[..]);
                if is_mine {
                    return Ok(frames.get(1).is_some_and(|payload| payload == b"42"));
                }
            }
            Err(error) if crate::raw::is_closed(&error) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether a write or a read came to a stand rather than to an end.
pub(super) fn is_stuck(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
