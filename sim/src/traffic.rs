//! What applications do all the time: calls of every kind, in every way.

use std::time::Duration;

use dynamo_am::Peer;
use dynamo_am::transport::sim::Dice;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::calls::{self, Spec};
use crate::message::{Kind, Mode, Outcome, Plan};
use crate::world::App;

/// Calls until the application ends or the world is to be quiet.
pub async fn run(app: App, quiet: CancellationToken, mut dice: Dice, task: u64) {
    while !app.stop.is_cancelled() && !quiet.is_cancelled() {
        let rest = dice.millis(0, app.scenario.rest_ms);
        sleep(rest).await;
        let Some(peer) = choose_peer(&app, &mut dice) else { continue };
        match dice.below(10) {
            0..3 => {
                let spec = draw(&app, &mut dice, 0);
                calls::run(&app.log, app.life, &app.client, &peer, spec).await;
            }
            3..5 => spawn_some(&app, &mut dice, &peer),
            5..6 => burst(&app, &mut dice, &peer),
            _ => in_order(&app, &mut dice, &peer, task).await,
        }
    }
}

fn choose_peer(app: &App, dice: &mut Dice) -> Option<Peer> {
    if dice.per_mille(60) {
        return Some(app.client.myself());
    }
    let mut peers = app.client.peers();
    // Those that are not connected at the moment are called as well.
    peers.extend(app.dialled.lock().values().cloned());
    dice.pick(&peers).cloned()
}

/// Several calls at once.
fn spawn_some(app: &App, dice: &mut Dice, peer: &Peer) {
    for _ in 0..dice.between(2, 8) {
        let spec = draw(app, dice, 0);
        let (app, peer) = (app.clone(), peer.clone());
        tokio::spawn(async move {
            calls::run(&app.log, app.life, &app.client, &peer, spec).await;
        });
    }
}

/// As much as goes without waiting.
fn burst(app: &App, dice: &mut Dice, peer: &Peer) {
    for _ in 0..dice.between(4, 30) {
        let spec = Spec { give_up_after: None, ..draw(app, dice, 0) };
        if let Ok(sent) = calls::try_send(&app.log, app.life, &app.client, peer, spec) {
            tokio::spawn(sent.finish());
        }
    }
}

/// Messages whose order is looked at: each is sent when the one before is in the send buffer.
async fn in_order(app: &App, dice: &mut Dice, peer: &Peer, task: u64) {
    for _ in 0..dice.between(3, 12) {
        let kind = *dice.pick(&[Kind::Inline, Kind::InlineToo, Kind::Ordered]).unwrap_or(&Kind::Inline);
        let mode = *dice
            .pick(&[Mode::OneWay, Mode::OneWay, Mode::Confirmed, Mode::Response])
            .unwrap_or(&Mode::OneWay);
        let spec = Spec { kind, mode, task, give_up_after: None, ..draw(app, dice, task) };
        if let Ok(sent) = calls::send(&app.log, app.life, &app.client, peer, spec).await {
            tokio::spawn(sent.finish());
        }
    }
}

fn draw(app: &App, dice: &mut Dice, task: u64) -> Spec {
    let mut kind = *dice.pick(&Kind::ALL).unwrap_or(&Kind::Unary);
    let mut mode = *dice.pick(&Mode::ALL).unwrap_or(&Mode::Response);
    if dice.per_mille(15) {
        kind = Kind::Absent;
    }
    if kind == Kind::Never && matches!(mode, Mode::OneWay | Mode::Receipt) {
        // Nobody could cancel it.
        mode = Mode::Response;
    }
    let is_calm = app.scenario.is_calm;
    let outcome = match dice.below(20) {
        0 => Outcome::Fail,
        1 => Outcome::Panic,
        _ => Outcome::Well,
    };
    let deadline = match dice.below(6) {
        0 if !is_calm => dice.millis(1, 60),
        1 if !is_calm => dice.millis(60, 1500),
        _ => dice.millis(2000, 4000),
    };
    let give_up_after = (dice.per_mille(120) && !is_calm).then(|| dice.millis(0, 100));
    Spec { kind, mode, plan: draw_plan(app, dice, outcome), deadline, task, give_up_after, is_nested: false }
}

fn draw_plan(app: &App, dice: &mut Dice, outcome: Outcome) -> Plan {
    let work_ms = match dice.below(10) {
        0..5 => 0,
        5..9 => dice.below(30) as u32,
        _ => dice.below(600) as u32,
    };
    let payload_len = len(app, dice);
    let reply_len = len(app, dice);
    Plan { work_ms, outcome, reply_len, payload_len }
}

fn len(app: &App, dice: &mut Dice) -> u32 {
    if dice.per_mille(app.scenario.large) {
        return dice.between(1_050_000, 2_300_000) as u32;
    }
    (match dice.below(20) {
        0..12 => dice.below(100),
        12..17 => dice.below(3000),
        17..19 => dice.below(20_000),
        _ => dice.below(100_000),
    }) as u32
}

/// What is left when trouble is over: one small call that must go well.
#[must_use]
pub fn probe() -> Spec {
    Spec {
        kind: Kind::Inline,
        mode: Mode::Response,
        plan: Plan { work_ms: 0, outcome: Outcome::Well, reply_len: 8, payload_len: 8 },
        deadline: Duration::from_secs(1),
        task: 0,
        give_up_after: None,
        is_nested: false,
    }
}
