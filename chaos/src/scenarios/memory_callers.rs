//! Callers that do not take their answers, senders in great number, and slow messages among fast ones.

use std::time::{Duration, Instant};

use super::PATIENCE;
use super::memory::{Node, RESUMED_MAX, offer, offer_max, report_offered, time_ms, total};
use super::memory_healthy::Healthy;
use super::memory_raw::{DeafPeer, Received};
use super::memory_roles::{Ended, Offered, Order, SIZES, Seen, numbered};
use crate::failure::Result;
use crate::raw::{Header, kind, mode};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};

/// A message is charged so much beside its octets.
const OVERHEAD_LEN: u64 = 1024;

/// A caller makes calls for 10 GiB of replies and polls none of them; then all of them.
pub(super) fn unpolled_calls(form: Form) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let (mut caller, mut callee) = (Node::start().await?, Node::start().await?);
        let mut healthy = Healthy::start(form, callee.address).await?;
        let peer: Vec<u8> = caller.tell(&Order::Connect(callee.address), "its peer", PATIENCE).await?;
        caller.watch()?;
        callee.watch()?;
        healthy.disturbed_from_now().await?;
        let order = Order::Call(offer(form, vec![peer], "reply"));
        let offered: Offered = caller.tell(&order, "what was accepted", offer_max(form)).await?;
        healthy.report(&mut figures).await?;
        report_offered(&offered, &mut figures);
        let ended: Ended = caller.tell(&Order::Poll, "how they ended", RESUMED_MAX * 2).await?;
        caller.report("caller", &mut figures)?;
        callee.report("callee", &mut figures)?;
        let made: u64 = offered.accepted.values().sum();
        if let Some(first) = &ended.first {
            eprintln!("the first call that ended otherwise: {first}");
        }
        figures.count("calls answered", ended.answered, Limit::AtLeast(1.0));
        figures.count("calls told that there was no room", ended.overloaded, Limit::Free);
        figures.count("calls that ended otherwise", ended.otherwise, Limit::Exactly(0.0));
        let without_end = made - ended.answered - ended.overloaded - ended.otherwise;
        figures.count("calls without an end", without_end, Limit::Exactly(0.0));
        Ok(figures)
    })
}

/// A raw caller asks for as many replies as it is granted, and reads none; then all of them.
pub(super) fn deaf_caller(form: Form) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let mut callee = Node::start().await?;
        let mut deaf = DeafPeer::start(callee.address, 1)?;
        let mut healthy = Healthy::start(form, callee.address).await?;
        callee.watch()?;
        healthy.disturbed_from_now().await?;
        let (messages, _) = deaf.granted()?;
        let (mut asked, mut count) = (0, 0_u64);
        while asked < total(form) && count < messages {
            let len = SIZES[usize::try_from(count)? % SIZES.len()];
            let header = Header { codec: 1, ..Header::message(mode::RESPONSE, count, "reply") };
            deaf.client.write(&header.with_payload(len.to_string().as_bytes()))?;
            asked += len as u64;
            count += 1;
        }
        tokio::time::sleep(Duration::from_millis(time_ms(form))).await;
        healthy.report(&mut figures).await?;
        figures.count("calls made", count, Limit::Free);
        figures.add("replies asked for", crate::usage::mib(asked), "MiB", Limit::Free);
        let received = tokio::task::spawn_blocking(move || deaf.receive(count, RESUMED_MAX)).await??;
        callee.report("callee", &mut figures)?;
        let Received { replies, twice, .. } = received;
        let of = |kind| replies.get(&kind).copied().unwrap_or_default();
        figures.count("calls answered", of(kind::RESPONSE), Limit::AtLeast(1.0));
        figures.count("calls told that there was no room", of(kind::NACK), Limit::Free);
        figures.count("answers lost", count - replies.values().sum::<u64>(), Limit::Exactly(0.0));
        figures.count("answers that came twice", twice, Limit::Exactly(0.0));
        Ok(figures)
    })
}

/// A thousand raw senders use up what they are granted, for handlers that do not end until they are let.
pub(super) fn thousand_senders(form: Form) -> Result<Figures> {
    let mut figures = Figures::new();
    for (what, lens) in [("mixed: ", &[64, 4 << 10, 64, 60 << 10][..]), ("short: ", &[64][..])] {
        let part = many_senders(form, lens)?;
        figures.append(what, part);
    }
    Ok(figures)
}

fn many_senders(form: Form, lens: &'static [usize]) -> Result<Figures> {
    block_on(2, async {
        let mut figures = Figures::new();
        let links = form.pick(100, 1000);
        super::hostile_tools::raise_descriptors(2 * links + 100)?;
        let mut receiver = Node::start().await?;
        // They come first, so that the first of them are granted much.
        let mut senders = DeafPeer::start_many(receiver.address, links)?;
        let mut healthy = Healthy::start(form, receiver.address).await?;
        receiver.watch()?;
        healthy.disturbed_from_now().await?;
        let sent = tokio::task::spawn_blocking(move || {
            let sent = senders
                .iter_mut()
                .map(|sender| use_up(sender, lens, total(form) / links))
                .collect::<Result<Vec<_>>>();
            sent.map(|sent| (senders, sent))
        });
        let (senders, sent) = sent.await??;
        tokio::time::sleep(form.pick(Duration::from_millis(300), Duration::from_secs(3))).await;
        healthy.report(&mut figures).await?;
        let (count, octets) = sent.iter().fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        figures.count("links", links, Limit::Free);
        figures.count("messages sent", count, Limit::Free);
        figures.add("octets sent", crate::usage::mib(octets), "MiB", Limit::Free);
        receiver.report("receiver", &mut figures)?;
        receiver.release().await?;
        // Numbers are each sender's own, so that only their lengths are told apart here.
        let seen = loop_until_handled(&mut receiver, count).await?;
        figures.count("accepted and lost", count.saturating_sub(seen), Limit::Exactly(0.0));
        drop(senders);
        Ok(figures)
    })
}

/// Sends until the grant is used up or `total` octets are sent; gives messages and octets.
fn use_up(sender: &mut DeafPeer, lens: &[usize], total: u64) -> Result<(u64, u64)> {
    let (messages, bytes) = sender.granted()?;
    let (mut count, mut charged, mut octets) = (0, 0, 0);
    while count < messages && charged < bytes && octets < total {
        let len = lens[usize::try_from(count)? % lens.len()];
        let header = Header::message(mode::ONE_WAY, count, "slow");
        sender.client.write(&header.with_payload(&numbered(len, count)))?;
        charged += header.encode().len() as u64 + len as u64 + OVERHEAD_LEN;
        octets += len as u64;
        count += 1;
    }
    Ok((count, octets))
}

async fn loop_until_handled(receiver: &mut Node, expected: u64) -> Result<u64> {
    let began = Instant::now();
    loop {
        let seen: Seen = receiver.tell(&Order::Seen, "what it has seen", PATIENCE).await?;
        if seen.slow >= expected || began.elapsed() > RESUMED_MAX {
            return Ok(seen.slow);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// One slow message of 64 octets behind each 64 KiB of fast ones of `fast_len`.
pub(super) async fn slow_among_fast(form: Form, fast_len: usize) -> Result<Figures> {
    let mut figures = Figures::new();
    let (mut sender, mut receiver) = (Node::start().await?, Node::start().await?);
    let peer: Vec<u8> = sender.tell(&Order::Connect(receiver.address), "its peer", PATIENCE).await?;
    receiver.watch()?;
    sender.watch()?;
    // So many that the fast ones always find credit beside them.
    let slow = form.pick(1000, 4000);
    let order = Order::SlowAmongFast { peer, slow, fast_len };
    let sent: u64 = sender.tell(&order, "that it has sent", RESUMED_MAX).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    receiver.report("receiver", &mut figures)?;
    sender.report("sender", &mut figures)?;
    figures.count("slow messages held", sent, Limit::Exactly(form.pick(1000.0, 4000.0)));
    receiver.release().await?;
    let seen = loop_until_handled(&mut receiver, slow).await?;
    figures.count("slow messages lost", slow - seen, Limit::Exactly(0.0));
    Ok(figures)
}
