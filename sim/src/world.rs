//! The nodes of a run, in their lives: [`World`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dynamo_am::transport::sim::{Dice, Fault, NetEvent, SimNetwork};
use dynamo_am::{ActiveMessageManager, Client, LinkEvent, Peer};
use parking_lot::Mutex;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::calls;
use crate::foreign::thief_host;
use crate::handlers;
use crate::log::{Event, Life, Log};
use crate::scenario::{Scenario, address, host, identity, slot_of};
use crate::traffic;

/// How often an application looks whether it is still connected to those it should be.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// A node that runs.
#[derive(Debug)]
pub struct Living {
    /// Which life.
    pub life: Life,
    /// The node.
    pub node: ActiveMessageManager,
    /// Fires when its application has to end.
    pub stop: CancellationToken,
}

/// What an application's tasks share.
#[derive(Debug, Clone)]
pub struct App {
    /// The run's log.
    pub log: Arc<Log>,
    /// Whose application this is.
    pub life: Life,
    /// Its node, weakly.
    pub client: Client,
    /// Fires when it has to end.
    pub stop: CancellationToken,
    /// The peers that it has dialled, by slot.
    pub dialled: Arc<Mutex<BTreeMap<u8, Peer>>>,
    /// The run.
    pub scenario: Arc<Scenario>,
}

/// All nodes, the network between them, and the log.
#[derive(Debug)]
pub struct World {
    /// The run.
    pub scenario: Arc<Scenario>,
    /// What happened.
    pub log: Arc<Log>,
    /// The network.
    pub net: SimNetwork,
    /// By slot; `None` while the node is down.
    pub slots: Vec<Mutex<Option<Living>>>,
    lives: Mutex<Vec<u32>>,
    dice: Mutex<Dice>,
    /// Fires when nothing new may be begun.
    pub quiet: CancellationToken,
}

impl World {
    /// A world without nodes.
    #[must_use]
    pub fn new(scenario: Scenario) -> Arc<Self> {
        let log = Log::new();
        let observed = log.clone();
        let observer = Box::new(move |event: &NetEvent| {
            observed.push(match event {
                NetEvent::Opened { conn, from, to } => Event::Opened(*conn, slot_of(*from), slot_of(*to)),
                NetEvent::Closed { conn, .. } => Event::Closed(*conn),
                NetEvent::Fault { conn, what } => Event::Net(*conn, what.clone()),
                NetEvent::Endless => Event::Wrong("endless: nodes answer each other without end".to_owned()),
                _ => return,
            });
        });
        let net = SimNetwork::new(scenario.dice.fork(3), scenario.rates.clone(), observer);
        let slots = scenario.slots();
        Arc::new(Self {
            dice: Mutex::new(scenario.dice.fork(4)),
            scenario: Arc::new(scenario),
            log,
            net,
            slots: (0..slots).map(|_| Mutex::new(None)).collect(),
            lives: Mutex::new(vec![0; slots.into()]),
            quiet: CancellationToken::new(),
        })
    }

    /// Starts the node of `slot`, and its application. `version` is that of its identity.
    pub async fn start(self: &Arc<Self>, slot: u8) {
        let life = {
            let mut lives = self.lives.lock();
            let life = lives[usize::from(slot)];
            lives[usize::from(slot)] += 1;
            Life { slot, life }
        };
        let version = if self.scenario.keeps_identity { 0 } else { life.life };
        let seed = self.dice.lock().number();
        let started = ActiveMessageManager::builder()
            .transport(self.net.transport(host(slot)))
            .allow_insecure()
            .no_ipc()
            .identity(identity(slot, version))
            .seed(seed)
            .limits(self.scenario.limits[usize::from(slot)].clone())
            .listen(format!("tcp://{}", address(slot)))
            .start()
            .await;
        let node = match started {
            Ok(node) => node,
            Err(error) => return self.log.wrong(format!("{life:?} did not start: {error}")),
        };
        self.log.push(Event::Started(life, node.instance_id().to_string()));
        if let Err(error) = handlers::register(&node, &self.log, life, &self.scenario.handlers) {
            self.log.wrong(format!("{life:?} took no handler: {error}"));
        }
        let app = App {
            log: self.log.clone(),
            life,
            client: node.client(),
            stop: CancellationToken::new(),
            dialled: Arc::default(),
            scenario: self.scenario.clone(),
        };
        let mut events = node.client().link_events();
        let watcher = app.clone();
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                watcher.note_link(event);
            }
        });
        for (from, to) in self.scenario.dials.iter().copied().filter(|(from, _)| *from == slot) {
            debug_assert_eq!(from, slot);
            tokio::spawn(app.clone().stay_connected(to));
        }
        let quiet = self.quiet.clone();
        for number in 0..self.scenario.callers {
            let dice = self
                .scenario
                .dice
                .fork(1000 + number + 100 * u64::from(slot) + 10_000 * u64::from(life.life));
            let task = 1 + number + 100 * u64::from(slot) + 10_000 * u64::from(life.life);
            tokio::spawn(traffic::run(app.clone(), quiet.clone(), dice, task));
        }
        *self.slots[usize::from(slot)].lock() = Some(Living { life, node, stop: app.stop });
    }

    /// A node with the identity of `slot`'s comes to another host, dials everybody, and goes after `stay`.
    pub async fn steal(self: &Arc<Self>, slot: u8, stay: Duration) {
        let victim = self.slots[usize::from(slot)].lock().as_ref().map(|living| living.node.instance_id());
        let Some(victim) = victim else { return };
        let (seed, life) = {
            let mut dice = self.dice.lock();
            (dice.number(), Life { slot: 50 + slot, life: dice.number() as u32 })
        };
        let started = ActiveMessageManager::builder()
            .transport(self.net.transport(thief_host(slot)))
            .allow_insecure()
            .no_ipc()
            .identity(victim)
            .seed(seed)
            .start()
            .await;
        let node = match started {
            Ok(node) => node,
            Err(error) => return self.log.wrong(format!("a thief did not start: {error}")),
        };
        self.log.push(Event::Started(life, victim.to_string()));
        if let Err(error) = handlers::register(&node, &self.log, life, &self.scenario.handlers) {
            self.log.wrong(format!("{life:?} took no handler: {error}"));
        }
        let client = node.client();
        let (log, slots) = (self.log.clone(), self.scenario.slots());
        let visits = async {
            for to in 0..slots {
                let found = client.connect(format!("tcp://{}", address(to))).await;
                log.push(Event::Theft(slot, to, found.is_ok()));
                if let Ok(peer) = found {
                    calls::run(&log, life, &client, &peer, traffic::probe()).await;
                }
            }
            std::future::pending::<()>().await;
        };
        tokio::select! {
            biased;
            () = self.quiet.cancelled() => {}
            () = sleep(stay) => {}
            () = visits => {}
        }
        self.log.push(Event::Stopped(life, "the thief goes".to_owned()));
    }

    /// Takes the node of `slot` out of the world; its application ends.
    fn take(&self, slot: u8) -> Option<Living> {
        let living = self.slots[usize::from(slot)].lock().take()?;
        living.stop.cancel();
        Some(living)
    }

    /// The node of `slot` is killed, and starts again after `rest`.
    pub async fn kill(self: &Arc<Self>, slot: u8, rest: Duration) {
        let Some(living) = self.take(slot) else { return };
        self.log.push(Event::Stopped(living.life, "killed".to_owned()));
        drop(living);
        self.start_again(slot, rest).await;
    }

    /// The machine of `slot` goes: nothing that it sends arrives any more.
    pub async fn vanish(self: &Arc<Self>, slot: u8, rest: Duration) {
        let Some(living) = self.take(slot) else { return };
        self.log.push(Event::Stopped(living.life, "vanished".to_owned()));
        for (number, hosts) in self.net.connections() {
            if hosts.contains(&host(slot)) {
                self.net.inflict(number, Fault::HalfOpen);
            }
        }
        drop(living);
        self.start_again(slot, rest).await;
    }

    /// The node of `slot` shuts down in good order.
    pub async fn shut_down(self: &Arc<Self>, slot: u8, rest: Duration) {
        let Some(living) = self.take(slot) else { return };
        self.log.push(Event::Draining(living.life));
        let ended = living.node.shutdown().await;
        self.log.push(Event::Stopped(living.life, format!("shut down: {ended:?}")));
        drop(living);
        self.start_again(slot, rest).await;
    }

    async fn start_again(self: &Arc<Self>, slot: u8, rest: Duration) {
        // A process that has ended has left its port.
        sleep(Duration::from_millis(1)).await;
        tokio::select! {
            biased;
            () = self.quiet.cancelled() => {}
            () = sleep(rest) => {}
        }
        self.start(slot).await;
    }
}

impl App {
    fn note_link(&self, event: LinkEvent) {
        self.log.push(match event {
            LinkEvent::Up { peer, .. } => Event::Up(self.life, peer.to_string()),
            LinkEvent::Down { peer, reason, .. } => Event::Down(self.life, peer.to_string(), reason),
            event => Event::Link(self.life, format!("{event:?}")),
        });
    }

    /// Connects to `slot`, and again when that is needed: what the node does not do by itself.
    async fn stay_connected(self, slot: u8) {
        let endpoint = format!("tcp://{}", address(slot));
        while !self.stop.is_cancelled() {
            let known = self.dialled.lock().get(&slot).cloned();
            if known.is_none_or(|peer| !peer.is_connected()) {
                match self.client.connect(endpoint.as_str()).await {
                    Ok(peer) => {
                        self.dialled.lock().insert(slot, peer);
                    }
                    Err(error) => self.log.note(format!("{:?} cannot connect to {slot}: {error}", self.life)),
                }
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = sleep(LOOK_INTERVAL) => {}
            }
        }
    }
}
