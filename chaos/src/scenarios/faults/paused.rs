//! Processes that are stopped for longer than they take silence for death, and go on as if nothing had been.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::{
    ActiveMessageManager, CallError, Handler, HandlerError, Limits, LinkEvent, LinkEvents, Peer,
};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::{Failure, Result};
use crate::process::{Orders, Process, say, say_json};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};
use crate::scenarios::PATIENCE;

/// Calls that each side has pending at the other.
const PENDING: u64 = 50;
/// Callers on each side that call without a pause.
const CALLERS: usize = 4;
const NOTIFY_INTERVAL: Duration = Duration::from_millis(1);
const PAUSE: Duration = Duration::from_secs(4);
/// How long traffic runs before a pause, so that there is some.
const RUN_UP: Duration = Duration::from_millis(500);
/// How long a wrong verdict may take to show: over the 3 s of silence that are death.
const AFTERMATH: Duration = Duration::from_millis(3500);

#[derive(Debug, Serialize, Deserialize)]
struct Arguments {
    /// Whom to dial; who dials nobody is dialled.
    dial: Option<String>,
    /// Never takes silence for death, as a peer does that knows of pauses.
    is_patient: bool,
}

/// What one side saw.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Seen {
    answered: u64,
    pending_answered: u64,
    notified: u64,
    sunk: u64,
    links_lost: u64,
    first_failure: Option<String>,
}

pub(super) fn run(form: Form) -> Result<Figures> {
    let mut figures = Figures::new();
    for round in 0..form.pick(1, 3) {
        let round = round + 1;
        figures.append(&format!("one stopped, round {round}: "), block_on(1, pause(false))?);
        figures.append(&format!("both stopped, round {round}: "), block_on(1, pause(true))?);
    }
    Ok(figures)
}

async fn pause(both: bool) -> Result<Figures> {
    // Who is not stopped itself sees 4 s of silence, and rightly takes them for death unless told otherwise.
    let mut other = Process::start("faults_paused", &Arguments { dial: None, is_patient: !both })?;
    let endpoint = other.line("its endpoint", PATIENCE).await?;
    let mut stopped =
        Process::start("faults_paused", &Arguments { dial: Some(endpoint), is_patient: false })?;
    stopped.line("its endpoint", PATIENCE).await?;
    for process in [&mut stopped, &mut other] {
        process.line("that its calls are pending", PATIENCE).await?;
    }
    tokio::time::sleep(RUN_UP).await;
    stopped.signal(Signal::STOP)?;
    if both {
        other.signal(Signal::STOP)?;
    }
    tokio::time::sleep(PAUSE).await;
    stopped.signal(Signal::CONT)?;
    if both {
        other.signal(Signal::CONT)?;
    }
    tokio::time::sleep(AFTERMATH).await;
    let mut figures = Figures::new();
    for order in ["release", "finish"] {
        for process in [&mut stopped, &mut other] {
            process.order(order)?;
        }
    }
    // Each counts only when all that the other sent has been handled.
    for process in [&mut stopped, &mut other] {
        process.line("that all it sent is handled", PATIENCE).await?;
    }
    for process in [&mut stopped, &mut other] {
        process.order("count")?;
    }
    let ours: Seen = stopped.json("what it saw", PATIENCE).await?;
    let theirs: Seen = other.json("what it saw", PATIENCE).await?;
    for seen in [&ours, &theirs] {
        if let Some(failure) = &seen.first_failure {
            return Err(Failure::new(failure).during("a call failed though both processes live"));
        }
    }
    let pending = ours.pending_answered + theirs.pending_answered;
    figures.count("links lost", ours.links_lost + theirs.links_lost, Limit::Exactly(0.0));
    #[allow(clippy::cast_precision_loss, reason = "a small count")]
    figures.count("pending calls answered", pending, Limit::Exactly((2 * PENDING) as f64));
    let lost = (ours.notified + theirs.notified).saturating_sub(ours.sunk + theirs.sunk);
    figures.count("one-way messages lost", lost, Limit::Exactly(0.0));
    figures.count("other calls answered", ours.answered + theirs.answered, Limit::AtLeast(100.0));
    Ok(figures)
}

pub(super) fn play(arguments: &str) -> Result<()> {
    let arguments: Arguments = serde_json::from_str(arguments)?;
    let mut orders = Orders::listen();
    block_on(2, async {
        let mut limits = Limits::default();
        if arguments.is_patient {
            limits.silence_max = Duration::from_secs(3600);
        }
        let builder = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc().limits(limits);
        let node = builder.start().await?;
        let (release, released) = watch::channel(false);
        let sunk = Arc::new(AtomicU64::new(0));
        register(&node, &released, &sunk)?;
        let mut events = node.client().link_events();
        say(&node.endpoints()[0])?;
        let peer = match arguments.dial {
            Some(endpoint) => node.client().connect(endpoint).await?,
            None => first_peer(&node, &mut events).await?,
        };
        let traffic = Traffic::start(&peer).await?;
        say("pending")?;
        orders.expect("release").await?;
        release.send_replace(true);
        orders.expect("finish").await?;
        let mut seen = traffic.finish().await?;
        // Answered after all one-way messages that went before it.
        peer.confirm("flush", &()).await?;
        say("flushed")?;
        orders.expect("count").await?;
        seen.links_lost = lost_links(&mut events).await;
        say_json(&Seen { sunk: sunk.load(Ordering::Relaxed), ..seen })?;
        orders.expect("never").await
    })
}

fn register(
    node: &ActiveMessageManager,
    released: &watch::Receiver<bool>,
    sunk: &Arc<AtomicU64>,
) -> Result<()> {
    let (released, sunk) = (released.clone(), sunk.clone());
    node.register(Handler::unary("gated", move |_cx, (): ()| {
        let mut released = released.clone();
        async move { released.wait_for(|released| *released).await.map(|_| ()).map_err(HandlerError::from) }
    }))?;
    node.register(Handler::inline("square", |_cx, n: i64| Ok(n * n)))?;
    node.register(Handler::inline("flush", |_cx, (): ()| Ok(())))?;
    node.register(Handler::inline("sink", move |_cx, (): ()| {
        sunk.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }))?;
    Ok(())
}

async fn first_peer(node: &ActiveMessageManager, events: &mut LinkEvents) -> Result<Peer> {
    while let Some(event) = events.next().await {
        if let LinkEvent::Up { peer, .. } = event
            && let Some(peer) = node.client().peer(peer)
        {
            return Ok(peer);
        }
    }
    Err(Failure::new("the node ended before anybody dialled it"))
}

/// How many links went down so far.
async fn lost_links(events: &mut LinkEvents) -> u64 {
    let mut lost = 0;
    // Zero: only what has happened already.
    while let Ok(Some(event)) = tokio::time::timeout(Duration::ZERO, events.next()).await {
        lost += u64::from(matches!(event, LinkEvent::Down { .. } | LinkEvent::Missed(_)));
    }
    lost
}

/// What one side does to the other.
struct Traffic {
    stop: watch::Sender<bool>,
    pending: JoinSet<std::result::Result<(), CallError>>,
    callers: JoinSet<std::result::Result<u64, CallError>>,
    notifier: JoinSet<std::result::Result<u64, CallError>>,
}

impl Traffic {
    async fn start(peer: &Peer) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut pending = JoinSet::new();
        for _ in 0..PENDING {
            let message = peer.client().active_message("gated").payload(&());
            let status = message.deadline(Duration::from_secs(60)).expect_response::<()>().send(peer).await?;
            pending.spawn(status.response());
        }
        let mut callers = JoinSet::new();
        for _ in 0..CALLERS {
            let (peer, stopped) = (peer.clone(), stopped.clone());
            callers.spawn(async move {
                let mut answered = 0;
                while !*stopped.borrow() {
                    peer.call::<i64>("square", &7).await?;
                    answered += 1;
                }
                Ok(answered)
            });
        }
        let mut notifier = JoinSet::new();
        let peer = peer.clone();
        notifier.spawn(async move {
            let mut ticks = tokio::time::interval(NOTIFY_INTERVAL);
            let mut notified = 0;
            while !*stopped.borrow() {
                ticks.tick().await;
                peer.notify("sink", &()).await?;
                notified += 1;
            }
            Ok(notified)
        });
        Ok(Self { stop, pending, callers, notifier })
    }

    async fn finish(self) -> Result<Seen> {
        self.stop.send_replace(true);
        let mut seen = Seen::default();
        let mut failed = |error: CallError| {
            seen.first_failure.get_or_insert_with(|| error.to_string());
        };
        let (mut answered, mut notified, mut pending_answered) = (0, 0, 0);
        for caller in self.callers.join_all().await {
            answered += caller.map_err(&mut failed).unwrap_or_default();
        }
        for notifier in self.notifier.join_all().await {
            notified += notifier.map_err(&mut failed).unwrap_or_default();
        }
        for call in self.pending.join_all().await {
            pending_answered += u64::from(call.map_err(&mut failed).is_ok());
        }
        Ok(Seen { answered, pending_answered, notified, ..seen })
    }
}
