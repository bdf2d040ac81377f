//! Attacks with what costs nothing to send: empty frames, commands, credit and answers that nobody asked for.

use std::time::Duration;

use super::hostile_stage::Finding;
use super::hostile_tools::{CLOSED_MAX, Target, pour, still_serves, time_to_close};
use crate::failure::Result;
use crate::raw::{Header, MORE, PART_LEN, RawClient, command, credit, frame, kind, mode};

/// What a node takes of one link before it closes it, and a socket buffer's worth that is on its way by then.
const ON_ITS_WAY_LEN: u64 = 8 << 20;

/// A million empty frames that announce more; a link that is closed is replaced by the next.
pub(super) fn empty_frames(target: Target) -> Result<Vec<Finding>> {
    let octets = [MORE, 0].repeat(1000);
    until_closed(target, &octets, 1000, target.pick(100_000, 1_000_000))
}

/// 100 000 PINGs, likewise.
pub(super) fn pings(target: Target) -> Result<Vec<Finding>> {
    let octets = command("PING", &[0, 0, 1, 2, 3, 4]).repeat(100);
    until_closed(target, &octets, 100, target.pick(20_000, 100_000))
}

/// 100 000 commands that nobody knows, likewise.
pub(super) fn unknown_commands(target: Target) -> Result<Vec<Finding>> {
    let octets = command("DANCE", &[0; 16]).repeat(100);
    until_closed(target, &octets, 100, target.pick(20_000, 100_000))
}

/// Sends `octets`, which hold `each`, over one link after the other until `total` are sent: every link is closed.
fn until_closed(target: Target, octets: &[u8], each: u64, total: u64) -> Result<Vec<Finding>> {
    let mut pace = target.pace(total);
    let (mut links, mut longest) = (0, Duration::ZERO);
    // At most so many before a link is replaced: what is on its way when the node closes is not its fault.
    let times = (ON_ITS_WAY_LEN / octets.len() as u64).min(total / each / 10).max(10);
    while pace.left() > 0 {
        let mut client = target.dealer()?;
        let poured = pour(&mut client, octets, times);
        longest = longest.max(time_to_close(&mut client, "a link that sends what is free")?);
        links += 1;
        pace.done(poured.max(1) * each);
    }
    Ok(vec![
        Finding::count("sent", total),
        Finding::at_least("links closed", links, 1),
        Finding::within("longest until closed", longest, CLOSED_MAX),
    ])
}

/// Credit that cannot be true, and messages beyond the grant.
pub(super) fn forged_credit(target: Target) -> Result<Vec<Finding>> {
    let grown = credit(0, [0, 0, 8192, 32 << 20]);
    let short = Header::reply(kind::CREDIT, 0, 0).with_payload(&[0; 31]);
    let beyond = Header::message(mode::ONE_WAY, 1, "hold").with_payload(b"").repeat(8193 + 64);
    let large = Header { total_len: Some(64 << 20), ..Header::message(mode::ONE_WAY, 1, "sink") };
    let large = large.with_payload(&vec![0; PART_LEN]).repeat(2);
    let cases: [(&str, Vec<u8>); 8] = [
        ("more finished than sent", credit(0, [1 << 20, 1 << 30, 1 << 21, 1 << 31])),
        ("the same of the large account", credit(1, [1 << 20, 1 << 30, 1 << 21, 1 << 31])),
        ("a grant that shrinks", [grown, credit(0, [0, 0, 8192, 16 << 20])].concat()),
        ("a first grant below that of READY", credit(0, [0, 0, 1, 1])),
        ("totals that are cut short", short),
        ("an account that is not there", Header::reply(kind::CREDIT, 2, 0).with_payload(&[0; 32])),
        ("messages beyond the grant", beyond),
        ("two payloads where one is granted", large),
    ];
    let mut findings = Vec::new();
    for round in 0..target.pick(1, 20) {
        for (number, (what, octets)) in cases.iter().enumerate() {
            let mut client = target.own(1000 * (round + 1) + number as u64)?;
            // The node may close before it has read all.
            let _ = client.write(octets);
            if *what == "an account that is not there" {
                // Wrong, but harmless: counted, and the link goes on.
                findings.push(Finding::exactly(what, still_serves(&mut client)?.into(), 1));
                continue;
            }
            let time = time_to_close(&mut client, &format!("a link with {what}"))?;
            findings.push(Finding::within(&format!("{what}: closed"), time, CLOSED_MAX));
        }
        if round + 1 < target.pick(1, 20) {
            findings.clear();
        }
        std::thread::sleep(target.pick(Duration::ZERO, target.time() / 20));
    }
    Ok(findings)
}

/// Answers to calls that were never made, Nacks for Nacks, and parts of payloads that nobody began: none of it is
/// answered, and the links go on.
pub(super) fn forged_replies(target: Target) -> Result<Vec<Finding>> {
    let total = target.pick(20_000, 1_000_000);
    let answered = |id: u64| {
        let nack = Header::reply(kind::NACK, 2, id).with_payload(b"no");
        let response = Header { codec: 1, ..Header::reply(kind::RESPONSE, 0, id) }.with_payload(b"666");
        let receipt = Header::reply(kind::RECEIPT, 0, id).with_payload(&[0x80]);
        let chunk = Header::reply(kind::CHUNK, 4, id).with_payload(&[0; 8]);
        [Header::reply(kind::ACK, 0, id).with_payload(b""), nack, response, receipt, chunk].concat()
    };
    let mut octets = Vec::new();
    for id in 0..40_u64 {
        // Slots that exist, slots that do not, and the bits that the runtime gives a meaning.
        octets.extend(answered(id));
        octets.extend(answered(u64::MAX - id));
        octets.extend(answered(1 << 63 | id));
        octets.extend(answered(1 << 62 | id << 32));
        octets.extend(answered(id << 32 | 7));
    }
    let each = 40 * 5 * 5;
    let mut own = target.own(1)?;
    let mut dealer = target.dealer()?;
    let mut pace = target.pace(total);
    let mut closed = 0;
    while pace.left() > 0 {
        for client in [&mut own, &mut dealer] {
            closed += u64::from(client.write(&octets).is_err());
        }
        pace.done(2 * each);
    }
    let replied = |client: &mut RawClient| -> Result<u64> {
        client.write(&frame(0, &Header::reply(kind::ACK, 0, 1).encode()))?;
        Ok(still_serves(client)?.into())
    };
    Ok(vec![
        Finding::count("forged", total),
        Finding::exactly("links closed", closed, 0),
        Finding::exactly("the own link still serves", replied(&mut own)?, 1),
        Finding::exactly("the foreign link still serves", replied(&mut dealer)?, 1),
    ])
}
