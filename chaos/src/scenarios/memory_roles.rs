//! The nodes of the memory scenarios: they offer, receive, hold and let go as they are told, line by line.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_am::{
    ActiveMessageManager, CallError, Client, Handler, InstanceId, Limits, Peer, Raw, TrySendError,
};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::failure::{Failure, Result};
use crate::process::{Orders, say, say_json};
use crate::scenario::block_on;

/// Payload lengths that are offered, in octets.
pub(super) const SIZES: [usize; 5] = [64, 4 << 10, 256 << 10, 1 << 20, 8 << 20];
/// The longest payload that is taken.
pub(super) const LARGE_LEN: usize = 64 << 20;
/// Of each length so many octets are offered in a round, and of the shortest an eighth of that.
const ROUND_LEN: usize = 8 << 20;
/// One of so many attempts waits a moment for credit; the others take what is there.
const WAITING_INTERVAL: u64 = 512;
/// How long such an attempt waits.
const WAIT: Duration = Duration::from_millis(1);
/// A call that is offered has so long: longer than any scenario holds it.
const CALL_MAX: Duration = Duration::from_secs(240);

/// What a node is told to do. It answers each with one line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) enum Order {
    /// Connect there; says the peer's instance.
    Connect(SocketAddr),
    /// Offer messages to peers in turn; says [`Offered`].
    Offer(Offer),
    /// Offer calls of `reply`, and poll none of them; says [`Offered`].
    Call(Offer),
    /// Poll all calls to their end; says [`Ended`].
    Poll,
    /// Let go what the handlers hold, now and from now on; says `released`.
    Release,
    /// Say [`Seen`].
    Seen,
    /// Say the instances of all peers.
    Peers,
    /// Send so many slow messages of 64 octets, each behind 64 KiB of fast ones; says how many.
    SlowAmongFast {
        /// To whom.
        peer: Vec<u8>,
        slow: u64,
        /// Length of each fast one's payload.
        fast_len: usize,
    },
}

/// What is to be offered.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Offer {
    /// To whom.
    pub(super) peers: Vec<Vec<u8>>,
    /// The handler that is named.
    pub(super) handler: String,
    /// Octets of payload in all, refused ones included.
    pub(super) total: u64,
    /// Over how long, in ms.
    pub(super) time_ms: u64,
}

/// What became of an offer.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Offered {
    /// Octets that were offered, refused ones included.
    pub(super) octets: u64,
    pub(super) attempts: u64,
    /// How many were accepted, by length.
    pub(super) accepted: BTreeMap<usize, u64>,
    /// Sends that waited and gave up.
    pub(super) gave_up: u64,
}

/// How calls ended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Ended {
    /// With the value that was asked for.
    pub(super) answered: u64,
    /// Told that there was no room.
    pub(super) overloaded: u64,
    /// In any other way.
    pub(super) otherwise: u64,
    /// The first of these.
    pub(super) first: Option<String>,
}

/// What the handlers have seen.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Seen {
    /// By length: how many, none of them twice.
    pub(super) sequence: BTreeMap<usize, u64>,
    pub(super) twice: u64,
    pub(super) fast: u64,
    pub(super) slow: u64,
}

#[derive(Debug, Default)]
struct State {
    sequence: Mutex<BTreeMap<usize, HashSet<u64>>>,
    twice: AtomicU64,
    fast: AtomicU64,
    slow: AtomicU64,
}

/// A payload of that length whose first octets are its number.
pub(super) fn numbered(len: usize, number: u64) -> Vec<u8> {
    let mut payload = vec![0x5A; len];
    payload[..8].copy_from_slice(&number.to_be_bytes());
    payload
}

/// The number in a payload.
pub(super) fn number_of(payload: &[u8]) -> Option<u64> {
    payload.first_chunk().map(|number| u64::from_be_bytes(*number))
}

/// The role: a node that listens, says its address, and obeys.
pub(super) fn node(_arguments: &str) -> Result<()> {
    let mut orders = Orders::listen();
    block_on(2, async {
        // What is held is let go before this; its own scenario is about slow consumers.
        let limits = Limits { slow_consumer_timeout: CALL_MAX, ..Limits::default() };
        let builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc();
        let node = builder.limits(limits).start().await?;
        let state = Arc::new(State::default());
        let (gate, opened) = watch::channel(false);
        register(&node, &state, &opened)?;
        say(node.endpoints()[0].to_string().trim_start_matches("tcp://"))?;
        let client = node.client();
        let mut calls = Vec::new();
        loop {
            match serde_json::from_str(&orders.next().await)? {
                Order::Connect(address) => {
                    let peer = client.connect(format!("tcp://{address}")).await?;
                    say_json(&peer.instance_id().as_bytes())?;
                }
                Order::Offer(offer) => say_json(&offer_messages(&client, &offer).await?)?,
                Order::Call(offer) => say_json(&offer_calls(&client, &offer, &mut calls).await?)?,
                Order::Poll => say_json(&poll(std::mem::take(&mut calls)).await)?,
                Order::Release => {
                    gate.send_replace(true);
                    say("released")?;
                }
                Order::Seen => say_json(&state.seen())?,
                Order::SlowAmongFast { peer, slow, fast_len } => {
                    say_json(&slow_among_fast(&client, &peer, slow, fast_len).await?)?;
                }
                Order::Peers => {
                    let peers: Vec<_> =
                        client.peers().iter().map(|peer| peer.instance_id().as_bytes().to_vec()).collect();
                    say_json(&peers)?;
                }
            }
        }
    })
}

fn register(node: &ActiveMessageManager, state: &Arc<State>, opened: &watch::Receiver<bool>) -> Result<()> {
    node.register(Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }))?;
    let of = state.clone();
    node.register(Handler::inline_raw("fast", move |_cx, _payload| {
        of.fast.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }))?;
    let (of, gate) = (state.clone(), opened.clone());
    let slow = Handler::message("slow", move |_cx, payload: Raw| {
        let (of, mut gate) = (of.clone(), gate.clone());
        async move {
            // Only a node that goes drops the gate.
            let _ = gate.wait_for(|open| *open).await;
            drop(payload);
            of.slow.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    });
    // All of them run at once: a message that runs costs more than one that waits.
    node.register(slow.limit(1 << 20))?;
    let (of, gate) = (state.clone(), opened.clone());
    node.register(Handler::message("sequence", move |_cx, payload: Raw| {
        let (of, mut gate) = (of.clone(), gate.clone());
        async move {
            let _ = gate.wait_for(|open| *open).await;
            of.take(&payload);
            Ok(())
        }
    }))?;
    // Made before, and answered by reference: making it takes longer than it may hold up others.
    let large = Raw::from(numbered(LARGE_LEN, LARGE_LEN as u64));
    node.register(Handler::unary("large_reply", move |_cx, _payload: Raw| {
        let large = large.clone();
        async move { Ok(large) }
    }))?;
    node.register(Handler::unary("reply", |_cx, len: u64| async move {
        let len = usize::try_from(len)?;
        Ok(Raw::from(numbered(len, len as u64)))
    }))?;
    Ok(())
}

impl State {
    fn take(&self, payload: &[u8]) {
        let mut sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = number_of(payload)
            .is_some_and(|number| sequence.entry(payload.len()).or_default().insert(number));
        self.twice.fetch_add(u64::from(!is_new), Ordering::Relaxed);
    }

    fn seen(&self) -> Seen {
        let sequence = self.sequence.lock().unwrap_or_else(PoisonError::into_inner);
        Seen {
            sequence: sequence.iter().map(|(len, numbers)| (*len, numbers.len() as u64)).collect(),
            twice: self.twice.load(Ordering::Relaxed),
            fast: self.fast.load(Ordering::Relaxed),
            slow: self.slow.load(Ordering::Relaxed),
        }
    }
}

/// Goes round the peers and the lengths until all is offered, in the time that was given.
struct Rounds {
    peers: Vec<Peer>,
    total: u64,
    time: Duration,
    began: Instant,
    offered: Offered,
}

impl Rounds {
    fn new(client: &Client, offer: &Offer) -> Result<Self> {
        let peers = offer.peers.iter().map(|octets| find(client, octets)).collect::<Result<_>>()?;
        let time = Duration::from_millis(offer.time_ms);
        Ok(Self { peers, total: offer.total, time, began: Instant::now(), offered: Offered::default() })
    }

    /// The lengths of the next round, well mixed; empty when all is offered.
    #[allow(clippy::cast_precision_loss, reason = "no count here reaches 2^53")]
    async fn next(&self) -> Vec<usize> {
        let due = self.time.mul_f64(self.offered.octets as f64 / self.total as f64);
        tokio::time::sleep(due.saturating_sub(self.began.elapsed())).await;
        if self.offered.octets >= self.total {
            return Vec::new();
        }
        let count = |len: usize| if len == SIZES[0] { ROUND_LEN / 8 / len } else { ROUND_LEN / len };
        let mut places: Vec<(f64, usize)> = SIZES
            .into_iter()
            .flat_map(|len| (0..count(len)).map(move |n| ((n as f64 + 0.5) / count(len) as f64, len)))
            .collect();
        places.sort_by(|one, other| one.0.total_cmp(&other.0));
        places.into_iter().map(|(_, len)| len).collect()
    }

    /// Whom the next attempt is for, and whether it waits.
    async fn attempt(&mut self, len: usize) -> (Peer, bool) {
        self.offered.attempts += 1;
        self.offered.octets += len as u64;
        if self.offered.attempts.is_multiple_of(64) {
            tokio::task::yield_now().await;
        }
        let index = usize::try_from(self.offered.attempts).unwrap_or_default() % self.peers.len();
        (self.peers[index].clone(), self.offered.attempts.is_multiple_of(WAITING_INTERVAL))
    }
}

fn find(client: &Client, octets: &[u8]) -> Result<Peer> {
    let instance = <[u8; 16]>::try_from(octets).ok().and_then(InstanceId::from_bytes);
    let peer = instance.and_then(|instance| client.peer(instance));
    peer.ok_or_else(|| Failure::new("a peer is not linked"))
}

async fn slow_among_fast(client: &Client, peer: &[u8], slow: u64, fast_len: usize) -> Result<u64> {
    /// A receive chunk.
    const CHUNK_LEN: usize = 64 << 10;
    let peer = find(client, peer)?;
    let fast = Raw::from(vec![1; fast_len]);
    for number in 0..slow {
        for _ in 0..CHUNK_LEN / fast_len {
            peer.notify("fast", &fast).await?;
        }
        peer.notify("slow", &Raw::from(numbered(64, number))).await?;
    }
    Ok(slow)
}

async fn offer_messages(client: &Client, offer: &Offer) -> Result<Offered> {
    let mut rounds = Rounds::new(client, offer)?;
    loop {
        let lens = rounds.next().await;
        if lens.is_empty() {
            return Ok(rounds.offered);
        }
        for len in lens {
            let (peer, waits) = rounds.attempt(len).await;
            // The numbers of each peer's messages do not matter as long as they differ.
            let number = rounds.offered.accepted.get(&len).copied().unwrap_or_default();
            let payload = Raw::from(numbered(len, number));
            let message = client.active_message(&offer.handler).payload(&payload);
            let sent = match waits {
                true => matches!(tokio::time::timeout(WAIT, message.send(&peer)).await, Ok(Ok(_))),
                false => is_accepted(message.try_send(&peer).map(drop))?,
            };
            rounds.offered.gave_up += u64::from(waits && !sent);
            *rounds.offered.accepted.entry(len).or_default() += u64::from(sent);
        }
    }
}

type PendingCall = (usize, dynamo_am::MessageStatus<dynamo_am::WithResponse<Raw>>);

async fn offer_calls(client: &Client, offer: &Offer, calls: &mut Vec<PendingCall>) -> Result<Offered> {
    let mut rounds = Rounds::new(client, offer)?;
    loop {
        let lens = rounds.next().await;
        if lens.is_empty() {
            return Ok(rounds.offered);
        }
        for len in lens {
            let (peer, _) = rounds.attempt(len).await;
            let wanted = len as u64;
            let call = client.active_message(&offer.handler).payload(&wanted).deadline(CALL_MAX);
            match call.expect_response::<Raw>().try_send(&peer) {
                Ok(status) => {
                    calls.push((len, status));
                    *rounds.offered.accepted.entry(len).or_default() += 1;
                }
                Err(error) => drop(is_accepted(Err(error))?),
            }
        }
    }
}

/// Whether it was; a refusal for want of room is an answer, anything else a failure.
fn is_accepted(sent: std::result::Result<(), TrySendError>) -> Result<bool> {
    match sent {
        Ok(()) => Ok(true),
        Err(TrySendError::Full(_) | TrySendError::Failed(CallError::NotSent { transient: true, .. })) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn poll(calls: Vec<PendingCall>) -> Ended {
    let mut ended = Ended::default();
    for (len, call) in calls {
        match call.response().await {
            Ok(Raw(value)) if value.len() == len && number_of(&value) == Some(len as u64) => {
                ended.answered += 1;
            }
            Ok(_) => ended.fail("an answer that is wrong".to_owned()),
            Err(error) if error.to_string().contains("overloaded") => ended.overloaded += 1,
            Err(error) => ended.fail(error.to_string()),
        }
    }
    ended
}

impl Ended {
    fn fail(&mut self, what: String) {
        self.otherwise += 1;
        self.first.get_or_insert(what);
    }
}
