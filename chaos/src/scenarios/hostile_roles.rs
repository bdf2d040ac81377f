//! The node and the honest client of the hostile scenarios, each in a process of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, CallError, Client, Handler, HandlerError, Limits, Peer, Raw};
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::time::MissedTickBehavior;

use super::hostile_stage::{HonestCounts, NodeArguments, NodeHealth};
use crate::failure::Result;
use crate::process::{Orders, say, say_json};
use crate::scenario::block_on;

/// Calls that the honest client has under way at once.
const HONEST_CALLS: u64 = 8;
/// Each of them begins so long after the one before it, unless that has taken longer: a client with a demand of its
/// own, 8000 calls a second, rather than one that takes what it can get.
const HONEST_PAUSE: Duration = Duration::from_millis(1);
/// Payload of every other honest call.
const HONEST_PAYLOAD_LEN: usize = 256;
/// What `nap` takes: a handler whose queue fills.
const NAP: Duration = Duration::from_millis(5);
/// What `hold` takes: longer than an attacker's descriptors may stay behind.
const HOLD: Duration = Duration::from_secs(4);
/// So many of `hold` run at once: more than all links together can have here.
const HOLDS_MAX: usize = 65_536;
/// What `mib` answers with.
const MIB: usize = 1 << 20;

static PANICS: AtomicU64 = AtomicU64::new(0);

/// The node that is attacked. Says its address, then its health whenever it is asked.
pub(super) fn node(arguments: &str) -> Result<()> {
    let arguments: NodeArguments = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        usual(panic);
    }));
    block_on(2, async {
        let mut limits = Limits::default();
        if arguments.handshake_ms > 0 {
            limits.handshake_timeout = Duration::from_millis(arguments.handshake_ms);
        }
        let builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc();
        let node = builder.limits(limits).start().await?;
        register(&node)?;
        if arguments.descriptors_max > 0 {
            let most = Some(arguments.descriptors_max);
            setrlimit(Resource::Nofile, Rlimit { current: most, maximum: most })?;
        }
        say(node.endpoints()[0].to_string().trim_start_matches("tcp://"))?;
        loop {
            orders.expect("health").await?;
            let ends_calls = ends_calls(&node.client()).await;
            say_json(&NodeHealth { panics: PANICS.load(Ordering::Relaxed), ends_calls })?;
        }
    })
}

/// The handlers that the honest client and the attackers call.
pub(super) fn register(node: &ActiveMessageManager) -> Result<()> {
    node.register(Handler::inline("double", |_cx, n: i64| Ok(n * 2)))?;
    node.register(Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }))?;
    node.register(Handler::inline_raw("sink", |_cx, _payload| Ok(())))?;
    node.register(Handler::inline_raw("inline_echo", |_cx, payload| Ok(payload.to_raw())))?;
    node.register(Handler::unary("until_cancelled", |cx, _payload: Raw| async move {
        cx.cancelled().await;
        Err::<(), _>(HandlerError::msg("cancelled"))
    }))?;
    let nap = |_cx, _payload: Raw| async {
        tokio::time::sleep(NAP).await;
        Ok(())
    };
    node.register(Handler::message("nap", nap).limit(64))?;
    let hold = |_cx, _payload: Raw| async {
        tokio::time::sleep(HOLD).await;
        Ok(())
    };
    node.register(Handler::message("hold", hold).limit(HOLDS_MAX))?;
    node.register(Handler::unary("mib", |_cx, _payload: Raw| async { Ok(Raw::from(vec![7_u8; MIB])) }))?;
    Ok(())
}

/// Whether a call of the node's own that nobody answers ends by its deadline: its clock goes on.
async fn ends_calls(client: &Client) -> bool {
    let payload = Raw::from("x");
    let call = client
        .active_message("until_cancelled")
        .payload(&payload)
        .deadline(Duration::from_millis(100))
        .expect_response::<Raw>();
    let ended = async { call.send(&client.myself()).await?.response().await.map(drop) };
    let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
    matches!(ended, Ok(Err(CallError::DeadlineExceeded { .. })))
}

#[derive(Debug, Default)]
struct Tally {
    answered: AtomicU64,
    failed: AtomicU64,
    slowest_us: AtomicU64,
    first_failure: Mutex<Option<String>>,
}

/// The honest client: says that it is connected, calls all the while, and says its counts whenever it is asked.
pub(super) fn honest(arguments: &str) -> Result<()> {
    let address: SocketAddr = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(1, async {
        let node = ActiveMessageManager::builder().no_ipc().start().await?;
        let peer = node.client().connect(format!("tcp://{address}")).await?;
        let tally = Arc::new(Tally::default());
        let (pause, paused) = tokio::sync::watch::channel(false);
        for number in 0..HONEST_CALLS {
            tokio::spawn(call_on(peer.clone(), number, tally.clone(), paused.clone()));
        }
        say("connected")?;
        loop {
            match orders.next().await.as_str() {
                "count" => say_json(&tally.counts())?,
                "pause" => drop(pause.send(true)),
                "go on" => drop(pause.send(false)),
                order => crate::ensure!(false, "the honest client was told `{order}`"),
            }
        }
    })
}

/// Calls one after the other, and checks each answer.
async fn call_on(peer: Peer, number: u64, tally: Arc<Tally>, mut paused: tokio::sync::watch::Receiver<bool>) {
    let payload = Raw::from(vec![number.to_le_bytes()[0]; HONEST_PAYLOAD_LEN]);
    let mut ticks = tokio::time::interval(HONEST_PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for n in 0_i64.. {
        ticks.tick().await;
        if paused.wait_for(|paused| !paused).await.is_err() {
            return;
        }
        let began = Instant::now();
        let outcome = if n % 2 == 0 {
            peer.call::<i64>("double", &n).await.map(|doubled| doubled == n * 2)
        } else {
            peer.call::<Raw>("echo", &payload).await.map(|echo| echo == payload)
        };
        match outcome {
            Ok(true) => {
                let took = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
                tally.slowest_us.fetch_max(took, Ordering::Relaxed);
                tally.answered.fetch_add(1, Ordering::Relaxed);
            }
            Ok(false) => tally.fail("an answer that is wrong".to_owned()),
            Err(error) => {
                tally.fail(error.to_string());
            }
        }
    }
}

impl Tally {
    fn fail(&self, what: String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what);
    }

    #[allow(clippy::cast_precision_loss, reason = "no call takes 2^53 us")]
    fn counts(&self) -> HonestCounts {
        HonestCounts {
            answered: self.answered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            slowest_ms: self.slowest_us.swap(0, Ordering::Relaxed) as f64 / 1e3,
            first_failure: self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }
}
