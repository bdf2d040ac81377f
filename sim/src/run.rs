//! One run: trouble, then peace, then the end; and what the oracle says of it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Once};
use std::time::Duration;

use dynamo_am::NodeTables;
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::calls;
use crate::foreign;
use crate::handlers::PANIC_ON_PURPOSE;
use crate::log::{End, Entry, Event, hash};
use crate::oracle;
use crate::scenario::{Scenario, identity};
use crate::traffic;
use crate::trouble;
use crate::world::World;

/// After trouble is over all must be well again within this.
const PEACE: Duration = Duration::from_secs(10);
/// Unless handlers are still at work on what they had taken, as they are for less than this without a sign.
const WORK_GAP: Duration = Duration::from_secs(2);
/// What they had taken is done after this.
const BACKLOG_MAX: Duration = Duration::from_secs(10_000);
/// Calls of a probe, all at once; the fewest that can wait for an answer at once are three.
const PROBES: usize = 3;
/// Octets a second on a network on which nothing goes on, for each node: PINGs and PONGs.
const QUIET_LEN_MAX: u64 = 20_000;
/// How often that is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// What came of a run.
#[derive(Debug)]
pub struct Report {
    /// Which.
    pub seed: u64,
    /// What was wrong; empty when nothing was.
    pub violations: Vec<String>,
    /// Differs whenever anything differed.
    pub hash: u64,
    /// All that happened.
    pub entries: Vec<Entry>,
}

thread_local! {
    /// Panics of this thread that nobody asked for.
    static PANICS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Panics on purpose say nothing, and others are kept for the oracle.
fn hook_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let text = info.payload_as_str().unwrap_or("no text");
            if text == PANIC_ON_PURPOSE {
                return;
            }
            let place = info.location().map(ToString::to_string).unwrap_or_default();
            PANICS.with_borrow_mut(|panics| panics.push(format!("{text} at {place}")));
            if !std::thread::current().name().is_some_and(|name| name.starts_with("seeds")) {
                before(info);
            }
        }));
    });
}

/// A run takes a fraction of a second; one that takes this many, even on a machine that is busy with other things, has
/// nodes that answer themselves without end, so that simulated time stands still.
static PATIENCE_S: AtomicU64 = AtomicU64::new(1800);

/// Waits for a run so long before it is taken for endless.
pub fn set_patience(seconds: u64) {
    PATIENCE_S.store(seconds, Ordering::Relaxed);
}

/// The runs that go on, and since when.
static RUNNING: Mutex<BTreeMap<u64, std::time::Instant>> = Mutex::new(BTreeMap::new());

/// Ends the process when a run does not end: there is no other way out of it.
fn watch(seed: u64) {
    static WATCHER: Once = Once::new();
    RUNNING.lock().insert(seed, std::time::Instant::now());
    WATCHER.call_once(|| {
        std::thread::spawn(|| {
            loop {
                std::thread::sleep(Duration::from_secs(1));
                let patience = Duration::from_secs(PATIENCE_S.load(Ordering::Relaxed));
                let stuck = RUNNING
                    .lock()
                    .iter()
                    .find(|(_, began)| began.elapsed() > patience)
                    .map(|(seed, _)| *seed);
                if let Some(seed) = stuck {
                    println!(
                        "seed {seed} violates 1 promises:\n  endless: it has not ended after {patience:?}"
                    );
                    std::process::exit(1);
                }
            }
        });
    });
}

/// Runs one seed from beginning to end.
///
/// # Panics
///
/// When the system gives no runtime.
#[must_use]
pub fn seed(seed: u64) -> Report {
    hook_panics();
    watch(seed);
    PANICS.take();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime of one thread needs nothing that could lack");
    let (scenario, entries, tasks) = runtime.block_on(async {
        let scenario = Scenario::drawn(seed);
        let world = World::new(scenario);
        let log = world.log.clone();
        let scenario = world.scenario.clone();
        run(world).await;
        // What was dropped ends at its next turn.
        sleep(Duration::from_secs(10)).await;
        let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
        (scenario, log.take(), tasks)
    });
    let mut violations = oracle::judge(&scenario, &entries);
    if tasks > 0 {
        violations.push(format!("tasks: {tasks} are left when all nodes have ended"));
    }
    violations.extend(PANICS.take().into_iter().map(|panic| format!("panic: {panic}")));
    RUNNING.lock().remove(&seed);
    Report { seed, violations, hash: hash(&entries), entries }
}

async fn run(world: Arc<World>) {
    for slot in 0..world.scenario.slots() {
        world.start(slot).await;
    }
    for number in 0..world.scenario.foreigners {
        tokio::spawn(foreign::visit(world.clone(), number as u8));
    }
    trouble::make(&world).await;
    world.quiet.cancel();
    world.net.heal();
    world.log.note("peace");
    make_peace(&world).await;
    end(&world).await;
}

/// Waits until each pair talks and nothing is left anywhere.
async fn make_peace(world: &Arc<World>) {
    let until = Instant::now() + PEACE;
    let slots = world.scenario.slots();
    let mut silent = vec![(0, 0)];
    loop {
        sleep(LOOK_INTERVAL).await;
        if !silent.is_empty() {
            silent.clear();
            for from in 0..slots {
                for to in 0..slots {
                    if !talks(world, from, to).await {
                        silent.push((from, to));
                    }
                }
            }
            // Credit may be on its way for a tick.
            sleep(Duration::from_millis(100)).await;
        }
        let left = what_is_left(world);
        if silent.is_empty() && left.is_empty() {
            be_quiet(world).await;
            return world.log.note("all is well");
        }
        // Work that was taken before is not trouble: handlers may go on with it, and it may take up all credit.
        let is_at_work = world.log.now() < world.log.worked_at() + WORK_GAP;
        if Instant::now() > until && (!is_at_work || Instant::now() > until + BACKLOG_MAX) {
            for (from, to) in silent {
                world.log.wrong(format!("peace: {from} cannot call {to}"));
            }
            left.iter().for_each(|text| world.log.wrong(format!("leftover: {text}")));
            return;
        }
    }
}

/// Nothing goes on, so next to nothing is sent.
async fn be_quiet(world: &World) {
    let before = world.net.octets();
    sleep(Duration::from_secs(1)).await;
    let sent = world.net.octets() - before;
    if sent > QUIET_LEN_MAX * u64::from(world.scenario.slots()) {
        world
            .log
            .wrong(format!("quiet: {sent} octets passed in a second in which nobody had anything to say"));
    }
}

/// Whether a call from one to the other goes well, over any link that they have.
async fn talks(world: &World, from: u8, to: u8) -> bool {
    let ends = [from, to].map(|slot| {
        let slot = world.slots[usize::from(slot)].lock();
        slot.as_ref().map(|living| (living.life, living.node.client()))
    });
    let [Some((life, client)), Some((target, _))] = ends else { return false };
    let version = if world.scenario.keeps_identity { 0 } else { target.life };
    let Some(peer) = client.peer(identity(to, version)) else { return false };
    // Several at once, so that some wait for the credit of others.
    let probes: Vec<_> = (0..PROBES)
        .map(|_| {
            let (log, client, peer) = (world.log.clone(), client.clone(), peer.clone());
            tokio::spawn(async move { calls::run(&log, life, &client, &peer, traffic::probe()).await })
        })
        .collect();
    let mut is_well = true;
    for probe in probes {
        is_well &= probe.await.is_ok_and(|end| end == End::Reply(true));
    }
    is_well
}

/// What is not empty, in words.
fn what_is_left(world: &World) -> Vec<String> {
    let mut left = Vec::new();
    for slot in &world.slots {
        let slot = slot.lock();
        match slot.as_ref() {
            None => left.push("a node is down".to_owned()),
            Some(living) => look_at(&living.node.tables(), |text| {
                left.push(format!("{:?}: {text}", living.life));
            }),
        }
    }
    left
}

fn look_at(tables: &NodeTables, mut tell: impl FnMut(String)) {
    for link in &tables.links {
        let expected = dynamo_am::LinkTables::default();
        let seen = dynamo_am::LinkTables::clone(link);
        let is_empty = seen.pending_calls == 0
            && seen.waiting_len == 0
            && seen.large == 0
            && seen.waiting_senders == 0
            && seen.waiting_for_room == 0
            && !seen.is_writing
            && seen.answering == 0
            && seen.unfinished_here == expected.unfinished_here
            && seen.unfinished_there == expected.unfinished_there
            && seen.system_calls == [0, 0]
            && !seen.is_retired
            && !seen.waits_for_turn;
        if !is_empty {
            tell(format!("{seen:?}"));
        }
    }
    if tables.has_unfinished {
        tell("it has work left of links that have ended".to_owned());
    }
    for (peer, links) in tables.peers.iter().filter(|(_, links)| *links != 1) {
        tell(format!("it knows {peer}, which has {links} links"));
    }
}

/// Half of the nodes shut down, the other half is dropped.
async fn end(world: &Arc<World>) {
    for slot in &world.slots {
        let Some(living) = slot.lock().take() else { continue };
        living.stop.cancel();
        if living.life.slot.is_multiple_of(2) {
            world.log.push(Event::Draining(living.life));
            let ended = living.node.shutdown().await;
            world.log.push(Event::Stopped(living.life, format!("shut down: {ended:?}")));
        } else {
            world.log.push(Event::Stopped(living.life, "dropped".to_owned()));
        }
        drop(living);
    }
}
