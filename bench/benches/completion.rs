//! Pending calls: a slot is taken, waited for, answered and freed, in the order of the answers and at random.

use std::time::{Duration, Instant};

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use dynamo_am::proto::payload::Payload;
use dynamo_am::proto::pending::{Pending, Polled, Reply};
use dynamo_am::{Codec, DeliveryMode};

const LIMIT: usize = 65_536;

fn main() {
    divan::main();
}

/// Makes `count` calls that wait, answers them in the order that `stride` says, and takes the answers.
fn complete(table: &mut Pending<usize>, ids: &mut Vec<u64>, count: usize, stride: usize, deadline: Instant) {
    ids.clear();
    for waiter in 0..count {
        let id =
            table.insert(DeliveryMode::WithResponse, deadline, waiter as u64, None).expect("there is room");
        assert!(matches!(table.poll_outcome(id, |_| waiter), Polled::Waiting));
        ids.push(id);
    }
    for at in 0..count {
        let id = ids[at * stride % count];
        let payload = Payload::copy_from(black_box(&[0x5a; 64]));
        let woken = table.handle_reply(id, Reply::Response { codec: Codec::Raw, payload });
        assert!(matches!(black_box(woken), Some(Some(_))));
        assert!(matches!(black_box(table.poll_outcome(id, |_| 0)), Polled::Ready(_)));
    }
}

#[divan::bench(args = [1, 64, 256, 4096])]
fn in_order(bencher: Bencher<'_, '_>, outstanding: usize) {
    let (mut table, mut ids) = (Pending::new(LIMIT), Vec::with_capacity(outstanding));
    let deadline = Instant::now() + Duration::from_secs(30);
    bencher
        .counter(ItemsCount::new(outstanding))
        .bench_local(|| complete(&mut table, &mut ids, outstanding, 1, deadline));
}

/// 31 has no divisor in common with the counts, so each is answered once, far from the last.
#[divan::bench(args = [64, 256, 4096])]
fn scattered(bencher: Bencher<'_, '_>, outstanding: usize) {
    let (mut table, mut ids) = (Pending::new(LIMIT), Vec::with_capacity(outstanding));
    let deadline = Instant::now() + Duration::from_secs(30);
    bencher
        .counter(ItemsCount::new(outstanding))
        .bench_local(|| complete(&mut table, &mut ids, outstanding, 31, deadline));
}

/// What the sweep does each 10 ms when one deadline has passed, so that the table must be looked through.
#[divan::bench(args = [64, 4096, 65_536])]
fn sweep(bencher: Bencher<'_, '_>, outstanding: usize) {
    let mut table: Pending<usize> = Pending::new(LIMIT);
    let now = Instant::now();
    for at in 0..outstanding {
        let left = if at == 0 { Duration::ZERO } else { Duration::from_secs(30) };
        table.insert(DeliveryMode::WithResponse, now + left, at as u64, None).expect("there is room");
    }
    let (mut woken, mut cancelled) = (Vec::new(), Vec::with_capacity(1));
    bencher.counter(ItemsCount::new(outstanding)).bench_local(|| {
        table.expire(black_box(now), &mut woken, &mut cancelled);
        assert_eq!(cancelled.len(), 1, "exactly one has expired");
        for id in cancelled.drain(..) {
            table.abandon(id);
        }
        table.insert(DeliveryMode::WithResponse, now, 0, None).expect("its place is free")
    });
}
