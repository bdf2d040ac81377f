//! What goes wrong, and when: the seeded schedule of faults.

use std::sync::Arc;
use std::time::Duration;

use dynamo_am::transport::sim::{Dice, Fault};
use tokio::time::{Instant, sleep};

use crate::log::Event;
use crate::scenario::address;
use crate::world::World;

/// How often the schedule is asked.
const STEP: Duration = Duration::from_millis(50);
const STEPS_PER_MINUTE: u64 = 1200;

/// Whether what happens so often a minute happens in this step.
fn is_due(dice: &mut Dice, per_minute: u32) -> bool {
    per_minute > 0 && dice.below(STEPS_PER_MINUTE) < u64::from(per_minute)
}

/// Makes trouble until its time is over.
pub async fn make(world: &Arc<World>) {
    let mut dice = world.scenario.dice.fork(5);
    let until = Instant::now() + world.scenario.trouble;
    while Instant::now() < until {
        sleep(STEP).await;
        for (number, _) in world.net.connections() {
            if let Some(fault) = draw(world, &mut dice) {
                world.net.inflict(number, fault);
            }
        }
        for slot in 0..world.scenario.slots() {
            befall(world, &mut dice, slot);
        }
        if is_due(&mut dice, world.scenario.node_faults.jump) {
            let jump = dice.millis(600, 6000);
            world.log.push(Event::Jump(jump));
            tokio::time::advance(jump).await;
        }
    }
}

fn draw(world: &World, dice: &mut Dice) -> Option<Fault> {
    let rates = &world.scenario.rates;
    let end = dice.below(2) as usize;
    if is_due(dice, rates.stall) {
        return Some(Fault::Stall(end, dice.millis(1, rates.stall_ms_max)));
    }
    if is_due(dice, rates.cut) {
        return Some(Fault::Cut(end));
    }
    if is_due(dice, rates.reset) {
        return Some(Fault::Reset);
    }
    if is_due(dice, rates.half_reset) {
        return Some(Fault::HalfReset(end));
    }
    is_due(dice, rates.half_open).then_some(Fault::HalfOpen)
}

/// What befalls a node.
fn befall(world: &Arc<World>, dice: &mut Dice, slot: u8) {
    let faults = world.scenario.node_faults;
    let rest = dice.millis(0, 3000);
    let owner = world.clone();
    if is_due(dice, faults.kill) {
        tokio::spawn(async move { owner.kill(slot, rest).await });
    } else if is_due(dice, faults.vanish) {
        tokio::spawn(async move { owner.vanish(slot, rest).await });
    } else if is_due(dice, faults.shutdown) {
        tokio::spawn(async move { owner.shut_down(slot, rest).await });
    }
    if is_due(dice, faults.thief) {
        let (owner, stay) = (world.clone(), dice.millis(50, 2500));
        tokio::spawn(async move { owner.steal(slot, stay).await });
    }
    let client = world.slots[usize::from(slot)].lock().as_ref().map(|living| living.node.client());
    let Some(client) = client else { return };
    if is_due(dice, faults.disconnect)
        && let Some(peer) = dice.pick(&client.peers()).cloned()
    {
        world.log.push(Event::Left(slot, peer.instance_id().to_string()));
        let client = client.clone();
        tokio::spawn(async move { client.disconnect(&peer).await });
    }
    if is_due(dice, faults.dial_again) {
        let to = dice.below(world.scenario.slots().into()) as u8;
        let log = world.log.clone();
        tokio::spawn(async move {
            let dialled = client.connect(format!("tcp://{}", address(to))).await;
            log.note(format!("{slot} dialled {to} again: {}", dialled.is_ok()));
        });
    }
}
