//! What a node owes a peer for what that has sent, and may tell it: [`Ledger`], after `docs/wire.md`.

use std::collections::HashMap;

use dynamo_am::proto::credit::{Charge, SendCredit, Totals};
use dynamo_am::transport::link::PART_LEN;
use dynamo_am::wire::answer::{Answer, PeerClass};
use dynamo_am::wire::codes::{ChunkOf, Codec, CreditAccount, DeliveryMode, Kind, NackCode};
use dynamo_am::wire::credit_frame::CreditTotals;
use dynamo_am::wire::header::Header;

use crate::decoder::Event;

/// What was asked for with one id, and what has come.
#[derive(Debug, Default)]
struct Owed {
    /// Messages that end with an Ack, a Response or a Nack; with a Receipt or a Nack; with a Receipt and then as the
    /// first ones, which count there too.
    ends: u64,
    receipt_only: u64,
    receipt_too: u64,
    /// Acks and Responses, Nacks, Receipts.
    good_ends: u64,
    nacks: u64,
    receipts: u64,
    /// What stood in front of the messages, and so may stand in front of an answer.
    envelopes: Vec<Vec<u8>>,
}

impl Owed {
    /// Receipts of messages that have no other good end: at least, and at most.
    fn receipts_only(&self) -> (u64, u64) {
        (self.receipts.saturating_sub(self.receipt_too), self.receipts.min(self.receipt_only))
    }

    fn is_kept(&self) -> bool {
        self.good_ends <= self.ends
            && self.receipts <= self.receipt_only + self.receipt_too
            && self.good_ends + self.nacks + self.receipts_only().0 <= self.ends + self.receipt_only
    }

    fn is_paid(&self) -> bool {
        let (least, most) = self.receipts_only();
        let others = self.good_ends + self.nacks;
        (others + least..=others + most).contains(&(self.ends + self.receipt_only))
    }
}

/// Both sides of a link's account, as the peer sees them.
pub(super) struct Ledger {
    class: PeerClass,
    owed: HashMap<u64, Owed>,
    credit: [SendCredit; 2],
    /// What was sent of messages that are charged, and what of it the node has said is finished.
    sent: [Totals; 2],
    finished: [Totals; 2],
    /// Messages whose payload comes in parts, by id, with the octets that are missing.
    parts: HashMap<u64, u64>,
    /// Something was sent after which not all answers, or not all credit, come: a handler that waits, a farewell,
    /// what ends the link.
    is_open: bool,
}

impl Ledger {
    pub(super) fn new(class: PeerClass, granted: Totals) -> Self {
        // How much of the large account is granted is the node's secret until it says so.
        Self {
            class,
            owed: HashMap::new(),
            credit: [SendCredit::new(granted), SendCredit::new(Totals::default())],
            sent: [Totals::default(); 2],
            finished: [Totals::default(); 2],
            parts: HashMap::new(),
            is_open: false,
        }
    }

    /// The node will be told this.
    pub(super) fn sent(&mut self, event: &Event) {
        match event {
            Event::Message { envelope, header, payload } => {
                self.sent_message(header, envelope, payload.len(), None);
            }
            Event::TooLarge { envelope, header, .. } => {
                self.sent_message(header, envelope, 0, Some(NackCode::TooLarge));
            }
            Event::Malformed { envelope, first } => {
                let id = first.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
                let id = id.filter(|_| first[0] == 1);
                match (self.class, id) {
                    (PeerClass::ForeignReq, id) => self.owe_end(id.unwrap_or(0), envelope),
                    (PeerClass::Foreign, Some(id)) => self.owe_end(id, envelope),
                    _ => {}
                }
            }
            Event::Command(_) | Event::Lost => {}
        }
    }

    fn sent_message(
        &mut self,
        octets: &[u8],
        envelope: &[u8],
        payload_len: usize,
        refused: Option<NackCode>,
    ) {
        let header = match Header::decode(octets) {
            Ok(header) => header,
            Err(error) => {
                if self.class == PeerClass::Own && error.message_kind == Some(Kind::Message) {
                    self.charge(Charge::ordinary(octets.len(), payload_len));
                }
                return self.owe(error.answer(self.class), envelope);
            }
        };
        if let Some(code) = refused {
            return self.owe(header.refused_with(code, self.class), envelope);
        }
        if let Some(verdict) = header.refusal(self.class) {
            return self.owe(verdict, envelope);
        }
        match header.kind {
            Kind::Message => {}
            Kind::Bye => return self.is_open = true,
            Kind::Chunk => return self.sent_part(&header, payload_len as u64),
            Kind::Cancel if header.chunk_of() == Some(ChunkOf::Message) => {
                self.parts.remove(&header.id);
                return;
            }
            _ => return,
        }
        self.is_open |= header.handler == b"_wait_for_handler";
        if self.class == PeerClass::Own {
            self.charge(charge_of(&header, octets.len(), payload_len));
        }
        let mode = match header.mode() {
            Some(DeliveryMode::FireAndForget) if self.class == PeerClass::ForeignReq => {
                DeliveryMode::Confirmed
            }
            Some(mode) => mode,
            None => return,
        };
        if let Some(total) = header.total_len {
            self.begin_parts(header.id, total, payload_len as u64);
        }
        let owed = self.owed.entry(header.id).or_default();
        owed.envelopes.push(if header.total_len.is_some() { Vec::new() } else { envelope.to_vec() });
        match mode {
            DeliveryMode::FireAndForget => {}
            DeliveryMode::WithReceipt => owed.receipt_only += 1,
            mode => {
                owed.ends += 1;
                owed.receipt_too += u64::from(mode.wants_receipt());
            }
        }
    }

    /// The first part of a payload. One that may not be so long ends the link, and of two with the same id the node
    /// may forget the first.
    fn begin_parts(&mut self, id: u64, total: u64, first_len: u64) {
        let part = PART_LEN as u64;
        let is_taken = first_len == part && total > part && total <= super::PAYLOAD_LEN_MAX;
        if !is_taken || self.parts.insert(id, total.saturating_sub(first_len)).is_some() {
            self.is_open = true;
        }
    }

    fn sent_part(&mut self, header: &Header<'_>, len: u64) {
        let Some(missing) = self.parts.get_mut(&header.id) else { return };
        if header.chunk_of() != Some(ChunkOf::Message) {
            return;
        }
        match missing.checked_sub(len) {
            Some(0) => drop(self.parts.remove(&header.id)),
            Some(rest) => *missing = rest,
            None => self.is_open = true,
        }
    }

    fn charge(&mut self, charge: Charge) {
        for (account, totals) in charge.accounts.into_iter().enumerate() {
            if !totals.is_zero() {
                self.credit[account].start(totals.bytes);
                self.sent[account].add(totals);
            }
        }
    }

    fn owe(&mut self, answer: Answer, envelope: &[u8]) {
        if let Answer::Nack { id, .. } = answer {
            self.owe_end(id, envelope);
        }
    }

    fn owe_end(&mut self, id: u64, envelope: &[u8]) {
        let owed = self.owed.entry(id).or_default();
        owed.ends += 1;
        owed.envelopes.push(envelope.to_vec());
    }

    /// The node has said this: it must be owed, and true.
    pub(super) fn received(&mut self, event: &Event) {
        match event {
            Event::Message { envelope, header, payload } => {
                let header = Header::decode(header).expect("a node sends headers that can be read");
                self.received_message(&header, envelope, payload);
            }
            Event::Command(body) => assert!(!body.is_empty()),
            event => panic!("a node sent {event:?}"),
        }
    }

    fn received_message(&mut self, header: &Header<'_>, envelope: &[u8], payload: &[u8]) {
        assert_ne!(self.class, PeerClass::ForeignPush, "a PUSH reads nothing, and was sent {header:?}");
        let is_own = self.class == PeerClass::Own;
        let owed = self.owed.entry(header.id).or_default();
        match header.kind {
            Kind::Ack | Kind::Response => owed.good_ends += 1,
            Kind::Nack => {
                assert!(!payload.is_empty() && std::str::from_utf8(payload).is_ok(), "a Nack says why");
                owed.nacks += 1;
            }
            Kind::Receipt => {
                assert!(header.codec != Codec::Raw && !payload.is_empty(), "a Receipt has a map");
                owed.receipts += 1;
            }
            Kind::Credit => {
                assert!(is_own, "credit for a foreign peer");
                return self.received_credit(header, payload);
            }
            Kind::Bye => {
                return assert_ne!(self.class, PeerClass::ForeignReq, "a REQ leaves for good at a Bye");
            }
            Kind::Chunk => return assert!(is_own, "a part of a payload for a foreign peer"),
            _ => panic!("a node that calls nobody sent {header:?}"),
        }
        assert!(owed.is_kept(), "more answers than were asked for: {header:?}, {owed:?}");
        assert!(
            owed.envelopes.iter().any(|asked| asked == envelope),
            "an answer behind {envelope:?}, asked for behind {:?}",
            owed.envelopes
        );
    }

    fn received_credit(&mut self, header: &Header<'_>, payload: &[u8]) {
        let totals = CreditTotals::decode(payload).expect("a Credit has four totals");
        let finished = Totals { messages: totals.messages_finished, bytes: totals.bytes_finished };
        let granted = Totals { messages: totals.messages_granted, bytes: totals.bytes_granted };
        let account = match header.credit_account().expect("a Credit names its account") {
            CreditAccount::Ordinary => 0,
            CreditAccount::Large => 1,
        };
        let told = self.credit[account].handle_grant(finished, granted);
        assert!(told.is_ok(), "{told:?}: {totals:?}, and sent was {:?}", self.sent[account]);
        self.finished[account] = finished;
    }

    /// Whether some of what was asked for may never come.
    pub(super) const fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether all that is owed has come; what has not, in words.
    pub(super) fn outstanding(&self) -> Option<String> {
        if self.is_open || !self.parts.is_empty() {
            return None;
        }
        if let Some((id, owed)) = self.owed.iter().find(|(_, owed)| !owed.is_paid()) {
            return Some(format!("message {id} has no end: {owed:?}"));
        }
        let is_told = self.class != PeerClass::Own || self.finished == self.sent;
        let credit = || format!("credit is missing: sent {:?}, finished {:?}", self.sent, self.finished);
        (!is_told).then(credit)
    }
}

/// What a message of our own peers is charged.
fn charge_of(header: &Header<'_>, header_len: usize, payload_len: usize) -> Charge {
    let is_system = header.handler[0] == b'_'
        && header.mode().is_some_and(|mode| mode.wants_ack() || mode.wants_response());
    match header.total_len {
        Some(total) => Charge::large(header_len, total),
        None if is_system => Charge::system_call(),
        None => Charge::ordinary(header_len, payload_len),
    }
}
