//! What an end hears, and what the test knows of it: [`Ear`] and [`Inbox`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use dynamo_am::proto::credit::{Charge, ReceiveMeter, Totals};
use dynamo_am::proto::pending::{ReceiptReply, Reply};
use dynamo_am::transport::link::{Inbound, LargeBuffer, Link, LinkEnd, Received, Skipped};
use dynamo_am::wire::codes::{DeliveryMode, Kind, NackCode};
use dynamo_am::wire::credit_frame::CreditTotals;
use dynamo_am::wire::header::Header;

/// A request that waits for its answer here.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) tag: u64,
    pub(super) mode: DeliveryMode,
    pub(super) charge: Charge,
    pub(super) has_receipt: bool,
}

/// What the reading task and the test share.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    pub(super) waiting: Vec<Request>,
    /// Tags of what has come, in order.
    pub(super) arrived: Vec<u64>,
    pub(super) seen: HashMap<u64, Told>,
    pub(super) cancelled: u64,
    pub(super) late: u64,
}

/// What was said of a message here.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    pub(super) receipt: bool,
    pub(super) good: bool,
    pub(super) bad: bool,
}

pub(super) fn locked(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what a link receives, as a node's router does, but for running anything.
pub(super) struct Ear {
    link: Arc<Link>,
    inbox: Arc<Mutex<Inbox>>,
    meters: [ReceiveMeter; 2],
    received: [Totals; 2],
    answering: i32,
}

impl Ear {
    pub(super) fn new(link: &Arc<Link>, inbox: &Arc<Mutex<Inbox>>) -> Self {
        let meters = link.settings().granted_to_peer.map(ReceiveMeter::new);
        let (link, inbox) = (Arc::clone(link), Arc::clone(inbox));
        Self { link, inbox, meters, received: [Totals::default(); 2], answering: 0 }
    }

    fn request(&mut self, header: &Header<'_>, header_len: usize, payload: &[u8]) {
        let mode = header.mode().expect("a message has a mode");
        let is_system = header.handler.first() == Some(&b'_') && (mode.wants_response() || mode.wants_ack());
        let charge = if is_system {
            assert!(self.link.receive_system_call(), "more system calls than are allowed");
            Charge::system_call()
        } else {
            let charge = Charge::ordinary(header_len, payload.len());
            let link = &self.link;
            let taken = self.meters[0].receive(charge.accounts[0].bytes, || link.granted(0));
            assert_eq!(taken, Ok(()), "an honest sender is in breach of credit");
            self.received[0].add(charge.accounts[0]);
            charge
        };
        let tag = u64::from_be_bytes(payload[..8].try_into().expect("a payload begins with its tag"));
        self.answering += i32::from(mode.is_answered() && mode != DeliveryMode::WithReceipt);
        let mut inbox = locked(&self.inbox);
        inbox.arrived.push(tag);
        assert!(inbox.seen.insert(tag, Told::default()).is_none(), "a message came twice");
        inbox.waiting.push(Request { id: header.id, tag, mode, charge, has_receipt: false });
    }

    fn reply(&mut self, header: &Header<'_>, payload: Received<'_>) {
        let codec = header.codec;
        let reply = match header.kind {
            Kind::Ack => Reply::Ack,
            Kind::Response => Reply::Response { codec, payload: payload.into_payload().0 },
            Kind::Receipt => {
                Reply::Receipt(ReceiptReply { status: header.aux, codec, payload: payload.into_payload().0 })
            }
            _ => Reply::Nack { code: NackCode::from_u8(header.aux), text: payload.into_payload().0 },
        };
        if !self.link.handle_reply(header.id, reply) {
            locked(&self.inbox).late += 1;
        }
    }
}

impl Inbound for Ear {
    fn message(&mut self, octets: &[u8], envelope: &[u8], payload: Received<'_>) -> Result<(), LinkEnd> {
        assert!(envelope.is_empty(), "our own kind sends no envelopes");
        let header = Header::decode(octets).expect("a link sends headers that can be read");
        match header.kind {
            Kind::Message => self.request(&header, octets.len(), payload.as_slice()),
            Kind::Ack | Kind::Nack | Kind::Response | Kind::Receipt => self.reply(&header, payload),
            Kind::Credit => {
                let account = header.credit_account().expect("a Credit names its account");
                let totals = CreditTotals::decode(payload.as_slice()).expect("a Credit has four totals");
                let told = self.link.handle_credit(account, &totals);
                assert_eq!(told, Ok(()), "an honest receiver is in breach of credit: {totals:?}");
            }
            Kind::Cancel => locked(&self.inbox).cancelled += 1,
            Kind::Bye => {
                let said_before = self.link.is_retired();
                self.link.retire();
                if !said_before {
                    self.link.say_bye(false);
                }
                self.link.note_bye();
            }
            kind => panic!("nothing here is sent in parts, and {kind} came"),
        }
        Ok(())
    }

    fn malformed(&mut self, first: &[u8], _envelope: &[u8]) {
        panic!("a link sent a malformed message: {first:?}");
    }

    fn skipped(&mut self, _: &[u8], _: &[u8], len: u64, why: Skipped) -> Result<(), LinkEnd> {
        panic!("a payload of {len} octets was skipped: {why:?}");
    }

    fn large_buffer(&mut self, _header: &[u8]) -> LargeBuffer {
        LargeBuffer::default()
    }

    fn end_turn(&mut self) {
        let answering = std::mem::take(&mut self.answering);
        self.link.end_turn(Charge::default(), answering, self.received);
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.link.poll_turn(cx)
    }
}
