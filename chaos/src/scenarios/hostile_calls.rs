//! Attacks with calls: cancelled at once, never read, left behind; and payloads in parts that never fit.

use std::io;
use std::time::{Duration, Instant};

use super::hostile_stage::Finding;
use super::hostile_tools::{CLOSED_MAX, Target, is_stuck, raise_descriptors, still_serves, time_to_close};
use crate::failure::Result;
use crate::raw::{Header, MORE, PART_LEN, RawClient, frame, is_closed, kind, mode};

/// A million requests, each cancelled at once: every one is answered once. And a link with more Cancels than
/// requests, which is closed.
pub(super) fn cancels(target: Target) -> Result<Vec<Finding>> {
    const EACH: u64 = 200;
    let total = target.pick(20_000, 1_000_000);
    let mut client = target.dealer()?;
    let mut pace = target.pace(total);
    let mut answers = 0;
    let mut next = 0;
    while pace.left() > 0 {
        let mut octets = Vec::new();
        for id in next..next + EACH {
            octets.extend(Header::message(mode::RESPONSE, id, "until_cancelled").with_payload(b"x"));
            octets.extend(Header::reply(kind::CANCEL, 0, id).with_payload(b""));
        }
        client.write(&octets)?;
        for _ in 0..EACH {
            let frames = client.read_message()?;
            let header = frames.first().map_or(&[][..], Vec::as_slice);
            let id = header.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
            let is_nack = header.get(1) == Some(&kind::NACK);
            answers += u64::from(is_nack && id.is_some_and(|id| (next..next + EACH).contains(&id)));
        }
        next += EACH;
        pace.done(EACH);
    }
    let serves = still_serves(&mut client)?;
    let mut greedy = target.dealer()?;
    greedy.write(&Header::reply(kind::CANCEL, 0, 1).with_payload(b""))?;
    let closed = time_to_close(&mut greedy, "a link with more Cancels than requests")?;
    Ok(vec![
        Finding::exactly("requests answered once", answers, next),
        Finding::exactly("the link still serves", serves.into(), 1),
        Finding::within("more Cancels than requests: closed", closed, CLOSED_MAX),
    ])
}

/// A peer that sends and sends, and reads nothing.
fn deaf(target: Target, octets: &[u8]) -> Result<Vec<Finding>> {
    let time = target.pick(Duration::from_secs(2), Duration::from_secs(10));
    let mut links: Vec<_> = (0..target.pick(2, 8)).map(|_| target.dealer()).collect::<Result<_>>()?;
    for link in &links {
        link.set_patience(Duration::from_millis(20))?;
    }
    let began = Instant::now();
    let (mut sent, mut held_back, mut closed) = (0_u64, 0_u64, 0_u64);
    // A write that was cut short must go on where it was.
    let mut at = vec![0; links.len()];
    while began.elapsed() < time {
        for (link, at) in links.iter_mut().zip(&mut at) {
            match io::Write::write(&mut link.stream(), &octets[*at..]) {
                Ok(len) => {
                    sent += len as u64;
                    *at = (*at + len) % octets.len();
                }
                Err(error) if is_stuck(&error) => held_back += 1,
                // It floods in other ways, too.
                Err(error) if is_closed(&error) => closed += 1,
                Err(error) => return Err(error.into()),
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(vec![
        Finding::count("octets sent", sent),
        Finding::count("times held back", held_back),
        Finding::at_least("times held back or closed", held_back + closed, 1),
    ])
}

/// Requests of a foreign DEALER that reads no answer.
pub(super) fn deaf_to_answers(target: Target) -> Result<Vec<Finding>> {
    let payload = vec![7; 1000];
    let calls = ["echo", "inline_echo", "mib", "nobody"];
    let messages = calls.map(|name| Header::message(mode::RESPONSE, 9, name).with_payload(&payload));
    deaf(target, &messages.concat().repeat(20))
}

/// Malformed messages of a foreign DEALER, each of which earns a Nack that it does not read.
pub(super) fn deaf_to_nacks(target: Target) -> Result<Vec<Finding>> {
    let mut unknown_mode = Header::message(mode::RESPONSE, 9, "double").encode();
    unknown_mode[2] = 77;
    let no_name = Header::message(mode::CONFIRMED, 9, "").encode();
    let three = [
        frame(MORE, &Header::message(mode::RESPONSE, 9, "double").encode()),
        frame(MORE, b"x"),
        frame(0, b"y"),
    ];
    let chunked = Header { total_len: Some(1 << 21), ..Header::message(mode::RESPONSE, 9, "double") };
    let messages = [frame(0, &unknown_mode), frame(0, &no_name), three.concat(), frame(0, &chunked.encode())];
    deaf(target, &messages.concat().repeat(200))
}

/// Messages of a foreign DEALER that ask for a receipt alone, which it does not read.
pub(super) fn deaf_to_receipts(target: Target) -> Result<Vec<Finding>> {
    let messages = ["sink", "nap"].map(|name| Header::message(mode::RECEIPT, 9, name).with_payload(b"x"));
    deaf(target, &messages.concat().repeat(200))
}

/// An own node whose requests expire while their long answers wait for room, and that reads nothing.
pub(super) fn deaf_to_late_answers(target: Target) -> Result<Vec<Finding>> {
    let links = target.pick(2, 8);
    let mut clients: Vec<_> = (1..=links).map(|number| target.own(number)).collect::<Result<_>>()?;
    let call = Header { deadline_ms: Some(200), ..Header::message(mode::RESPONSE, 9, "mib") };
    let octets = call.with_payload(b"x").repeat(500);
    let mut closed = 0;
    for client in &mut clients {
        closed += u64::from(client.write(&octets).is_err());
    }
    std::thread::sleep(target.pick(Duration::from_millis(1500), Duration::from_secs(5)));
    Ok(vec![Finding::count("links", links), Finding::exactly("refused", closed, 0)])
}

/// Payloads in parts with gaps, too many octets, absurd lengths, a part of nothing.
pub(super) fn broken_chunks(target: Target) -> Result<Vec<Finding>> {
    let part = vec![1; PART_LEN];
    let first = |total, id| Header { total_len: Some(total), ..Header::message(mode::RESPONSE, id, "sink") };
    let more = |id: u64, octets: &[u8]| Header::reply(kind::CHUNK, 1, id).with_payload(octets);
    let mut findings = Vec::new();
    for round in 0..target.pick(1, 20) {
        let mut number = 100 * (round + 1);
        let mut next = || {
            number += 1;
            target.own(number)
        };
        findings.clear();
        let endings = [
            (
                "longer than announced",
                [first(3 << 20, 1).with_payload(&part), more(1, &part), more(1, &part), more(1, b"x")]
                    .concat(),
            ),
            ("a first part that is none", first(3 << 20, 1).with_payload(b"short")),
            ("parts for a payload of one part", first(10, 1).with_payload(&part)),
            (
                "2^63-1 octets announced",
                [first((1 << 63) - 1, 1).with_payload(&part), more(1, &part).repeat(8)].concat(),
            ),
        ];
        for (what, octets) in endings {
            let mut client = next()?;
            let _ = client.write(&octets);
            if what == "longer than announced" || what == "2^63-1 octets announced" {
                // What follows the whole finds nobody, and what is refused is told; either way no harm is done.
                let outcome = still_serves(&mut client);
                findings.push(Finding::at_most(
                    &format!("{what}: neither closed nor served"),
                    outcome.is_err().into(),
                    0,
                ));
                continue;
            }
            let time = time_to_close(&mut client, &format!("a link with {what}"))?;
            findings.push(Finding::within(&format!("{what}: closed"), time, CLOSED_MAX));
        }
        let mut client = next()?;
        client.write(
            &[more(7, &part), more(8, b"x"), Header::reply(kind::CHUNK, 4, 9).with_payload(&part)].concat(),
        )?;
        findings.push(Finding::exactly(
            "parts of nothing: still served",
            still_serves(&mut client)?.into(),
            1,
        ));
        std::thread::sleep(target.pick(Duration::ZERO, target.time() / 20));
    }
    Ok(findings)
}

/// Payloads that are begun and never finished, on many links, own and foreign: 64 MiB announced, one part sent.
pub(super) fn unfinished_payloads(target: Target) -> Result<Vec<Finding>> {
    let count = target.pick(60, 1000);
    raise_descriptors(2 * count + 100)?;
    let part = vec![1; PART_LEN];
    let own = Header { total_len: Some(64 << 20), ..Header::message(mode::RESPONSE, 1, "sink") }
        .with_payload(&part);
    let header = frame(MORE, &Header::message(mode::RESPONSE, 1, "sink").encode());
    let foreign = [&header[..], &crate::raw::frame_header(0, 64 << 20), &part].concat();
    let (mut held, mut refused) = (Vec::new(), 0_u64);
    for number in 1..=count {
        for (client, octets) in [(target.own(number), &own), (target.dealer(), &foreign)] {
            let Ok(mut client) = client else {
                refused += 1;
                continue;
            };
            client.set_patience(Duration::from_millis(200))?;
            match client.write(octets) {
                Ok(()) => held.push(client),
                Err(_) => refused += 1,
            }
        }
    }
    std::thread::sleep(target.pick(Duration::from_millis(500), Duration::from_secs(5)));
    Ok(vec![
        Finding::count("links held", held.len() as u64),
        Finding::count("links refused or held back", refused),
    ])
}

/// Connections that leave one-way messages to a slow handler behind, and come again.
pub(super) fn gone_senders(target: Target) -> Result<Vec<Finding>> {
    let count = target.pick(40, 400);
    let octets = Header::message(mode::ONE_WAY, 9, "hold").with_payload(&[7; 4096]).repeat(500);
    let mut pace = target.pace(count);
    let (mut taken, mut refused) = (0_u64, 0_u64);
    while pace.left() > 0 {
        match target.dealer() {
            Ok(mut client) => {
                client.set_patience(Duration::from_millis(100))?;
                taken += u64::from(client.write(&octets).is_ok());
            }
            Err(_) => refused += 1,
        }
        pace.done(1);
    }
    Ok(vec![
        Finding::count("connections that left their messages", taken),
        Finding::count("connections refused", refused),
    ])
}

/// Opens links until the node takes no more, holds them, and lets them go.
pub(super) fn all_descriptors(target: Target) -> Result<Vec<Finding>> {
    let mut links: Vec<RawClient> = Vec::new();
    for _ in 0..super::hostile::FEW_DESCRIPTORS {
        let Ok(mut client) = RawClient::connect(target.address) else { break };
        client.set_patience(Duration::from_millis(300))?;
        match client.shake(&crate::raw::ready(&[("Socket-Type", b"DEALER")])) {
            Ok(()) => links.push(client),
            Err(_) => {
                links.push(client);
                break;
            }
        }
    }
    // More that wait in the listener's backlog.
    links.extend((0..50).filter_map(|_| RawClient::connect(target.address).ok()));
    let held = links.len() as u64;
    std::thread::sleep(target.pick(Duration::from_secs(2), Duration::from_secs(5)));
    drop(links);
    let freed = Instant::now();
    let served = loop {
        if target.dealer().and_then(|mut client| still_serves(&mut client)).unwrap_or(false) {
            break freed.elapsed();
        }
        crate::ensure!(freed.elapsed() < Duration::from_secs(10), "the node serves no new links");
        std::thread::sleep(Duration::from_millis(5));
    };
    Ok(vec![
        Finding::count("links and connections held", held),
        Finding::within("served again after", served, Duration::from_secs(1)),
    ])
}
