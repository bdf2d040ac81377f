//! A network in memory that misbehaves by a seed: [`SimNetwork`].
//!
//! It serves `tcp://ADDRESS:PORT` for nodes that are given its [`transport`](SimNetwork::transport), each with an
//! address of its own. With a paused clock, one thread and nodes that have a `seed`, a whole run is a function
//! of its seeds, so a failure can be looked at again and again. How connections behave is said by [`FaultRates`];
//! single faults can be ordered too.

mod conn;
mod rates;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use super::{BoxFuture, ByteStream, Listener, ThinTransport};
use crate::endpoint::Endpoint;
use crate::error::BindError;
use conn::Conn;
pub use rates::{Dice, FaultRates};

/// Streams that wait to be accepted.
const BACKLOG: usize = 128;
/// After so long a dial that heard nothing is tried again, as a SYN is.
const DIAL_RETRY: Duration = Duration::from_secs(1);

/// Something that happened on the network, for logs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum NetEvent {
    /// A dial has reached a listener.
    Opened {
        /// The connection.
        conn: u64,
        /// Who dialled.
        from: IpAddr,
        /// Who listens.
        to: IpAddr,
    },
    /// One end has closed.
    Closed {
        /// The connection.
        conn: u64,
        /// 0 is the end that dialled.
        by: usize,
    },
    /// A fault befell a connection.
    Fault {
        /// The connection.
        conn: u64,
        /// What was done, in words.
        what: String,
    },
    /// Nodes answer each other without end; all connections break, and no new ones are made.
    Endless,
}

/// Told of what happens on the network.
pub type Observer = Box<dyn Fn(&NetEvent) + Send + Sync>;

/// A fault that can be ordered for one connection. 0 is the end that dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Both ends get an error, and what is under way is lost.
    Reset,
    /// One end gets an error; the other when it writes.
    HalfReset(usize),
    /// Nothing passes either way any more.
    HalfOpen,
    /// Nothing passes from that end any more.
    Cut(usize),
    /// Nothing passes from that end for so long.
    Stall(usize, Duration),
    /// So many of the next octets that this end writes are changed.
    Garbage(usize, u32),
}

struct State {
    rates: FaultRates,
    dice: Dice,
    next_number: u64,
    conns: BTreeMap<u64, Arc<Mutex<Conn>>>,
    listeners: BTreeMap<SocketAddr, mpsc::Sender<ByteStream>>,
}

pub(crate) struct Net {
    state: Mutex<State>,
    observer: Observer,
    traffic: Mutex<Traffic>,
}

/// What passes, for those who want it to be quiet.
struct Traffic {
    octets: u64,
    /// Writes at this very moment.
    now: Instant,
    writes_now: u32,
    /// In all.
    writes: u64,
    /// The network has given up.
    is_endless: bool,
}

/// So many writes at one moment mean that nodes answer each other without end, and the clock would stand still.
const WRITES_AT_ONCE_MAX: u32 = 2_000_000;
/// So many in all do as well, over whatever time.
const WRITES_MAX: u64 = 60_000_000;

impl Net {
    fn tell(&self, event: &NetEvent) {
        (self.observer)(event);
    }

    /// Counts a write; `false` when there is no end of them.
    fn count(&self, len: usize, now: Instant) -> bool {
        let is_first_too_many = {
            let mut traffic = self.traffic.lock();
            traffic.octets += len as u64;
            if traffic.now != now {
                (traffic.now, traffic.writes_now) = (now, 0);
            }
            traffic.writes_now += 1;
            traffic.writes += 1;
            if traffic.is_endless {
                return false;
            }
            traffic.is_endless = traffic.writes_now >= WRITES_AT_ONCE_MAX || traffic.writes >= WRITES_MAX;
            traffic.is_endless
        };
        if is_first_too_many {
            self.tell(&NetEvent::Endless);
        }
        !is_first_too_many
    }

    fn forget(&self, number: u64) {
        let gone = self.state.lock().conns.remove(&number);
        drop(gone);
    }
}

/// A simulated network. Clones are the same network.
#[derive(Clone)]
pub struct SimNetwork(Arc<Net>);

impl fmt::Debug for SimNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimNetwork").finish_non_exhaustive()
    }
}

impl SimNetwork {
    /// A network without nodes, whose chances come from `dice`.
    #[must_use]
    pub fn new(dice: Dice, rates: FaultRates, observer: Observer) -> Self {
        let (conns, listeners) = (BTreeMap::new(), BTreeMap::new());
        let state = Mutex::new(State { rates, dice, next_number: 1, conns, listeners });
        let traffic = Mutex::new(Traffic {
            octets: 0,
            now: Instant::now(),
            writes_now: 0,
            writes: 0,
            is_endless: false,
        });
        Self(Arc::new(Net { state, observer, traffic }))
    }

    /// The network as the node at `address` sees it.
    #[must_use]
    pub fn transport(&self, address: IpAddr) -> Arc<dyn ThinTransport> {
        Arc::new(SimTransport { net: self.clone(), address })
    }

    /// Dials as a program at `from` would, without a node: for scripted peers.
    ///
    /// # Errors
    ///
    /// When nobody listens there, or the network says so.
    pub async fn dial(&self, from: IpAddr, to: SocketAddr) -> io::Result<ByteStream> {
        loop {
            if self.0.traffic.lock().is_endless {
                return Err(refused(to));
            }
            let (wait, is_lost, is_refused) = {
                let mut state = self.0.state.lock();
                let rates = state.rates.clone();
                let wait = rates.latency_ms + state.dice.below(rates.jitter_ms + 1);
                (wait, state.dice.per_mille(rates.lost_dial), state.dice.per_mille(rates.refused_dial))
            };
            if is_lost {
                sleep(DIAL_RETRY).await;
                continue;
            }
            if wait > 0 {
                sleep(Duration::from_millis(wait)).await;
            }
            if is_refused {
                return Err(refused(to));
            }
            return self.open(from, to).await;
        }
    }

    async fn open(&self, from: IpAddr, to: SocketAddr) -> io::Result<ByteStream> {
        let (listener, conn, number) = {
            let mut state = self.0.state.lock();
            let listener = state.listeners.get(&to).cloned().ok_or_else(|| refused(to))?;
            let number = state.next_number;
            state.next_number += 1;
            let dice = state.dice.fork(number);
            let conn = Arc::new(Mutex::new(Conn::new([from, to.ip()], state.rates.clone(), dice)));
            state.conns.insert(number, conn.clone());
            (listener, conn, number)
        };
        let [ours, theirs] =
            [(0, to.ip()), (1, from)].map(|(end, peer)| stream::stream(&self.0, &conn, number, end, peer));
        // A full queue is waited for, as with a socket's backlog.
        listener.send(theirs).await.map_err(|_| refused(to))?;
        self.0.tell(&NetEvent::Opened { conn: number, from, to: to.ip() });
        Ok(ours)
    }

    /// The connections that are alive: number and the two addresses, the dialling one first.
    #[must_use]
    pub fn connections(&self) -> Vec<(u64, [IpAddr; 2])> {
        let conns: Vec<_> =
            self.0.state.lock().conns.iter().map(|(number, conn)| (*number, conn.clone())).collect();
        conns
            .into_iter()
            .filter_map(|(number, conn)| {
                let conn = conn.lock();
                conn.is_alive().then_some((number, conn.hosts))
            })
            .collect()
    }

    /// Octets written so far on all connections.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.0.traffic.lock().octets
    }

    /// Something goes wrong with one connection, if it is still there.
    pub fn inflict(&self, number: u64, fault: Fault) {
        let Some(conn) = self.0.state.lock().conns.get(&number).cloned() else { return };
        self.0.tell(&NetEvent::Fault { conn: number, what: format!("{fault:?}") });
        with(&conn, |conn| match fault {
            Fault::Reset => conn.reset(),
            Fault::HalfReset(end) => conn.half_reset(end & 1),
            Fault::HalfOpen => {
                conn.cut(0);
                conn.cut(1);
            }
            Fault::Cut(end) => conn.cut(end & 1),
            Fault::Stall(end, time) => conn.stall(end & 1, Instant::now() + time),
            Fault::Garbage(end, octets) => conn.corrupt(end & 1, octets),
        });
    }

    /// From now on connections behave like this, those that are open included.
    pub fn set_rates(&self, rates: &FaultRates) {
        let conns: Vec<_> = {
            let mut state = self.0.state.lock();
            state.rates = rates.clone();
            state.conns.values().cloned().collect()
        };
        conns.iter().for_each(|conn| with(conn, |conn| conn.set_rates(rates.clone())));
    }

    /// No faults any more: what was held back passes, what is dead stays dead.
    pub fn heal(&self) {
        let conns: Vec<_> = {
            let mut state = self.0.state.lock();
            state.rates = FaultRates::none();
            state.conns.values().cloned().collect()
        };
        conns.iter().for_each(|conn| with(conn, Conn::heal));
    }
}

fn with(conn: &Mutex<Conn>, work: impl FnOnce(&mut Conn)) {
    let mut conn = conn.lock();
    work(&mut conn);
    let woken = conn.take_woken();
    drop(conn);
    woken.into_iter().for_each(std::task::Waker::wake);
}

fn refused(to: SocketAddr) -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionRefused, format!("cannot reach {to}: nobody listens there"))
}

struct SimTransport {
    net: SimNetwork,
    address: IpAddr,
}

impl fmt::Debug for SimTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimTransport").field("address", &self.address).finish_non_exhaustive()
    }
}

fn socket_address(endpoint: &Endpoint) -> Option<SocketAddr> {
    let Endpoint::Tcp { host, port } = endpoint else { return None };
    Some((host.parse::<IpAddr>().ok()?, *port).into())
}

impl ThinTransport for SimTransport {
    fn serves(&self, endpoint: &Endpoint) -> bool {
        socket_address(endpoint).is_some()
    }

    fn dial<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, io::Result<ByteStream>> {
        Box::pin(async move {
            let to = socket_address(endpoint).ok_or(io::ErrorKind::InvalidInput)?;
            self.net.dial(self.address, to).await
        })
    }

    fn listen<'a>(&'a self, endpoint: &'a Endpoint) -> BoxFuture<'a, Result<Box<dyn Listener>, BindError>> {
        Box::pin(async move {
            let unsupported = || BindError::Unsupported { endpoint: endpoint.clone() };
            let mut address = socket_address(endpoint).ok_or_else(unsupported)?;
            let (sender, arrivals) = mpsc::channel(BACKLOG);
            let mut state = self.net.0.state.lock();
            if address.port() == 0 {
                let is_free = |port: &u16| !state.listeners.contains_key(&(address.ip(), *port).into());
                address.set_port((49_152..=u16::MAX).find(is_free).ok_or_else(unsupported)?);
            }
            if state.listeners.contains_key(&address) {
                return Err(BindError::InUse { endpoint: endpoint.clone() });
            }
            state.listeners.insert(address, sender);
            let endpoint = Endpoint::Tcp { host: address.ip().to_string(), port: address.port() };
            Ok(Box::new(SimListener { net: self.net.clone(), address, endpoint, arrivals })
                as Box<dyn Listener>)
        })
    }
}

struct SimListener {
    net: SimNetwork,
    address: SocketAddr,
    endpoint: Endpoint,
    arrivals: mpsc::Receiver<ByteStream>,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimListener").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Listener for SimListener {
    fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    fn accept(&mut self) -> BoxFuture<'_, io::Result<ByteStream>> {
        Box::pin(async {
            let closed = || io::Error::new(io::ErrorKind::BrokenPipe, "the listener is closed");
            self.arrivals.recv().await.ok_or_else(closed)
        })
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        let sender = self.net.0.state.lock().listeners.remove(&self.address);
        drop(sender);
    }
}
