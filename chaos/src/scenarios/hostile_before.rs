//! Attacks before there is a link: on the listener, the greeting and READY.

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::hostile_stage::Finding;
use super::hostile_tools::{CLOSED_MAX, Target, is_stuck, raise_descriptors, time_to_close};
use crate::failure::Result;
use crate::raw::{
    COMMAND, Header, OwnHello, RawClient, frame, frame_header, greeting, is_closed, mode, property, ready,
};

/// A node gives a handshake so long by default.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);
/// What may come on top of it: a byte each second is how the attacker sees that it is closed.
const SLACK: Duration = Duration::from_millis(2500);

/// Connections that say one octet a second: a quarter each in the greeting, in READY, in a first message's header
/// as a foreign peer, and in one's payload as an own node.
pub(super) fn slow_loris(target: Target) -> Result<Vec<Finding>> {
    let count = target.pick(200, 2000);
    raise_descriptors(count + 100)?;
    let mut slow = Vec::new();
    let mut refused = 0;
    let mut round = Instant::now();
    for number in 0..count {
        // The first ones creep while the last ones come.
        if round.elapsed() > Duration::from_secs(1) {
            slow.iter_mut().for_each(Slow::creep);
            round = Instant::now();
        }
        match Slow::connect(target, number) {
            Ok(connection) => slow.push(connection),
            // More handshakes than a node takes at once.
            Err(_) => refused += 1,
        }
    }
    let began = Instant::now();
    let watched = HANDSHAKE_MAX + SLACK + Duration::from_secs(1);
    while began.elapsed() < watched {
        let round = Instant::now();
        slow.iter_mut().for_each(Slow::creep);
        std::thread::sleep(Duration::from_secs(1).saturating_sub(round.elapsed()));
    }
    let waiting = |slow: &&Slow| slow.in_handshake;
    let alive = slow.iter().filter(waiting).filter(|slow| slow.closed_after.is_none()).count() as u64;
    let longest = slow.iter().filter(waiting).filter_map(|slow| slow.closed_after).max().unwrap_or_default();
    let links = slow.iter().filter(|slow| !slow.in_handshake && slow.closed_after.is_none()).count() as u64;
    Ok(vec![
        Finding::count("connections", count),
        Finding::count("refused at once", refused),
        Finding::exactly("handshakes that outlived their limit", alive, 0),
        Finding::within("longest handshake", longest, HANDSHAKE_MAX + SLACK),
        Finding::count("slow links that live on", links),
    ])
}

/// A connection that creeps.
struct Slow {
    stream: TcpStream,
    rest: Vec<u8>,
    at: usize,
    in_handshake: bool,
    began: Instant,
    closed_after: Option<Duration>,
}

impl Slow {
    fn connect(target: Target, number: u64) -> Result<Self> {
        let hello = OwnHello::numbered(number + 1);
        let message = Header::message(mode::ONE_WAY, 1, "sink").with_payload(&[0; 40_000]);
        let (client, rest, in_handshake) = match number % 4 {
            0 => (RawClient::connect(target.address)?, greeting().to_vec(), true),
            1 => {
                let mut client = RawClient::connect(target.address)?;
                client.write(&greeting())?;
                (client, hello.ready(), true)
            }
            2 => (target.dealer()?, message, false),
            _ => {
                let mut client = RawClient::own(target.address, &hello)?;
                client.write(&message[..1000])?;
                (client, message[1000..].to_vec(), false)
            }
        };
        let stream = client.stream().try_clone()?;
        stream.set_nonblocking(true)?;
        Ok(Self { stream, rest, at: 0, in_handshake, began: Instant::now(), closed_after: None })
    }

    /// One octet more.
    fn creep(&mut self) {
        let Some(octet) = self.rest.get(self.at..=self.at) else { return };
        if self.closed_after.is_some() {
            return;
        }
        match self.stream.write(octet) {
            Ok(_) => self.at += 1,
            Err(error) if is_stuck(&error) => {}
            Err(_) => self.closed_after = Some(self.began.elapsed()),
        }
    }
}

/// READY with 64 Ki properties, in four dresses.
pub(super) fn properties(target: Target) -> Result<Vec<Finding>> {
    let names: Vec<u8> = (0..65_536).flat_map(|n| property(&format!("X-{n}"), b"")).collect();
    let few: Vec<u8> = (0..65).flat_map(|n| property(&format!("X-{n}"), b"")).collect();
    let command = |list: &[u8]| frame(COMMAND, &[&b"\x05READY"[..], list].concat());
    let twice = ready(&[("Socket-Type", b"DEALER"), ("socket-type", b"DEALER")]);
    let dresses = [command(&names), command(&few), twice, endless_value()];
    let mut pace = target.pace(target.pick(40, 400));
    let (mut longest, mut accepted) = (Duration::ZERO, 0);
    while pace.left() > 0 {
        let mut client = RawClient::connect(target.address)?;
        client.write(&greeting())?;
        let dress = usize::try_from(pace.left())? % dresses.len();
        // The node may close before it has read all.
        let _ = client.write(&dresses[dress]);
        let (time, octets) = closed(&mut client)?;
        longest = longest.max(time);
        accepted += u64::from(octets > 64);
        pace.done(1);
    }
    Ok(vec![
        Finding::exactly("accepted", accepted, 0),
        Finding::within("longest until closed", longest, CLOSED_MAX),
    ])
}

/// A READY whose only property announces a value of 4 GiB.
fn endless_value() -> Vec<u8> {
    frame(COMMAND, &[&b"\x05READY\x0BSocket-Type"[..], &u32::MAX.to_be_bytes(), b"DEALER"].concat())
}

/// Waits for the node's close; gives how long that took and how many octets came before.
fn closed(client: &mut RawClient) -> Result<(Duration, u64)> {
    let began = Instant::now();
    let octets = client.read_to_end()?;
    Ok((began.elapsed(), octets))
}

/// Frames of absurd announced lengths, before and after the handshake, as foreign and as own peer.
pub(super) fn announced_sizes(target: Target) -> Result<Vec<Finding>> {
    const SIZES: [u64; 4] = [(1 << 63) - 1, 1 << 63, u64::MAX, (1 << 30) + 1];
    let mut pace = target.pace(target.pick(64, 2000));
    let mut longest = Duration::ZERO;
    while pace.left() > 0 {
        let size = SIZES[usize::try_from(pace.left())? % SIZES.len()];
        let header = frame(1, &Header::message(mode::RESPONSE, 1, "double").encode());
        let mut client = match pace.left() % 4 {
            0 => {
                let mut client = RawClient::connect(target.address)?;
                client.write(&greeting())?;
                client.write(&frame_header(COMMAND, size))?;
                client
            }
            1 => {
                let mut client = target.dealer()?;
                client.write(&frame_header(0, size))?;
                client
            }
            2 => {
                let mut client = target.dealer()?;
                client.write(&[header, frame_header(0, size)].concat())?;
                client
            }
            _ => {
                let mut client = target.own(pace.left())?;
                client.write(&[header, frame_header(0, size)].concat())?;
                client
            }
        };
        longest = longest.max(time_to_close(&mut client, "a link with a frame of an absurd length")?);
        pace.done(1);
    }
    Ok(vec![Finding::within("longest until closed", longest, CLOSED_MAX)])
}

/// Connections that are dropped as soon as they stand, 1 000 a second, from four threads.
pub(super) fn connect_and_drop(target: Target) -> Result<Vec<Finding>> {
    const THREADS: u64 = 4;
    let count = target.pick(1000, 10_000);
    let (made, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let mut pace = target.pace(count / THREADS);
                while pace.left() > 0 {
                    let connected = RawClient::connect(target.address);
                    // Half of them greet first.
                    match connected.and_then(|mut client| match pace.left() % 2 {
                        0 => Ok(()),
                        _ => client.write(&greeting()),
                    }) {
                        Ok(()) => made.fetch_add(1, Ordering::Relaxed),
                        Err(error) if is_closed(&error) => made.fetch_add(1, Ordering::Relaxed),
                        Err(_) => failed.fetch_add(1, Ordering::Relaxed),
                    };
                    pace.done(1);
                }
            });
        }
    });
    let per_second = made.load(Ordering::Relaxed) * 1000 / u64::try_from(began.elapsed().as_millis())?.max(1);
    Ok(vec![
        Finding::count("connections", made.load(Ordering::Relaxed)),
        Finding::count("connections a second", per_second),
        Finding::exactly("connections that failed", failed.load(Ordering::Relaxed), 0),
    ])
}
