//! What a received message is and who gets it: [`MessageRouter`], one for each link.
//!
//! Requests go to the [`dispatcher`](super::dispatcher), answers to the
//! [`response_manager`](super::response_manager); control messages are dealt with here. What cannot be taken is
//! answered by the rules of [`wire::answer`](crate::wire::answer), or counted and logged once per link.

use std::collections::HashMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use super::counters::Once;
use super::dispatcher::Dispatcher;
use super::node::Node;
use super::peer::PeerCore;
use super::response_manager;
use super::running::Running;
use crate::api::context::Sender;
use crate::clock;
use crate::proto::budget::Hold;
use crate::proto::credit::{Charge, ReceiveMeter, Totals};
use crate::proto::pending::Reply;
use crate::transport::link::{
    Answer, AnswerBody, Inbound, LargeBuffer, Link, LinkEnd, PART_LEN, Received, Skipped,
};
use crate::wire::answer::{Answer as Verdict, PeerClass};
use crate::wire::codes::{ChunkOf, Kind, NackCode};
use crate::wire::credit_frame::CreditTotals;
use crate::wire::header::{Header, HeaderError, refused};

/// A payload that comes in parts.
#[derive(Debug)]
struct Assembly {
    header: Vec<u8>,
    buffer: Vec<u8>,
    total_len: usize,
    charge: Charge,
    hold: Option<Hold>,
}

impl Assembly {
    /// Takes over what a part holds.
    fn absorb(&mut self, hold: Option<Hold>) {
        match (&mut self.hold, hold) {
            (Some(held), Some(hold)) => held.absorb(hold),
            (held @ None, hold) => *held = hold,
            (Some(_), None) => {}
        }
    }
}

/// What is counted during a turn and told once at its end.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    pub(crate) messages: u64,
    pub(crate) payload_len: u64,
    /// Finished without an answer.
    pub(crate) finished: Charge,
    /// Accepted, and an answer is owed.
    pub(crate) answering: i32,
    now: Option<Instant>,
}

impl Turn {
    /// The time when it was first asked for in this turn.
    #[inline]
    pub(crate) fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(clock::now)
    }
}

/// The receiving end of a link.
pub(crate) struct MessageRouter {
    node: Arc<Node>,
    link: Arc<Link>,
    peer: Arc<PeerCore>,
    class: PeerClass,
    running: Arc<Running>,
    dispatcher: Dispatcher,
    meters: [ReceiveMeter; 2],
    /// What has come from a peer that knows no credit.
    foreign_received: Totals,
    assemblies: HashMap<(ChunkOf, u64), Assembly>,
    turn: Turn,
    complained: Once,
    cancels: u64,
    requests: u64,
}

impl MessageRouter {
    pub(crate) fn new(
        node: &Arc<Node>,
        link: &Arc<Link>,
        peer: &Arc<PeerCore>,
        sender: Arc<Sender>,
        class: PeerClass,
        running: &Arc<Running>,
    ) -> Self {
        Self {
            node: node.clone(),
            link: link.clone(),
            peer: peer.clone(),
            class,
            running: running.clone(),
            dispatcher: Dispatcher::new(node, link, peer, sender, class, running),
            meters: link.settings().granted_to_peer.map(ReceiveMeter::new),
            foreign_received: Totals::default(),
            assemblies: HashMap::new(),
            turn: Turn::default(),
            complained: Once::default(),
            cancels: 0,
            requests: 0,
        }
    }

    fn answer(&self, verdict: Verdict, envelope: &[u8], text: &str, finishes: Charge) {
        match verdict {
            Verdict::Nack { id, code } => {
                self.node.counters.refused.increment(1);
                let body = AnswerBody::Nack { code, text };
                self.link.push_answer(&Answer { id, envelope, body, is_counted: false, finishes });
            }
            Verdict::Nothing => {
                self.node.counters.protocol_errors.increment(1);
                if self.complained.first() {
                    tracing::warn!(
                        peer = %self.peer_id(),
                        "dropped a message that is wrong and may not be answered: {text} (said once per link)"
                    );
                }
            }
        }
    }

    fn peer_id(&self) -> crate::id::InstanceId {
        use crate::api::port::Port;
        self.peer.instance()
    }

    /// A header that cannot be taken.
    #[cold]
    fn refuse_header(
        &mut self,
        error: &HeaderError,
        header_len: usize,
        envelope: &[u8],
        payload: &Received<'_>,
    ) -> Result<(), LinkEnd> {
        let mut paid = Charge::default();
        let verdict = error.answer(self.class);
        if self.class == PeerClass::Own && error.message_kind == Some(Kind::Message) {
            // It was charged by its sender, who must have the credit back.
            let charge = Charge::ordinary(header_len, payload.as_slice().len());
            self.receive(0, charge.accounts[0].bytes)?;
            match verdict {
                Verdict::Nack { .. } => paid = charge,
                Verdict::Nothing => self.turn.finished.add(charge),
            }
        }
        self.answer(verdict, envelope, &error.to_string(), paid);
        Ok(())
    }

    /// Counts what a peer of our own sends against what it was granted.
    fn receive(&mut self, account: usize, bytes: u64) -> Result<(), LinkEnd> {
        let link = &self.link;
        self.meters[account]
            .receive(bytes, || link.granted(account))
            .map_err(|error| LinkEnd::Protocol(error.to_string()))
    }

    /// Charges a request for its sender's credit.
    #[inline]
    fn charge(
        &mut self,
        header: &Header<'_>,
        header_len: usize,
        payload_len: usize,
    ) -> Result<Charge, LinkEnd> {
        let is_ordinary = self.class == PeerClass::Own
            && header.total_len.is_none()
            && header.handler.first() != Some(&b'_');
        let charge = Charge::ordinary(header_len, payload_len);
        if is_ordinary && self.meters[0].try_receive(charge.accounts[0].bytes) {
            return Ok(charge);
        }
        self.charge_any(header, header_len, payload_len)
    }

    /// The same for any request: of a foreign peer, of a system handler, in parts, or at the end of the grant that is
    /// known here.
    #[inline(never)]
    fn charge_any(
        &mut self,
        header: &Header<'_>,
        header_len: usize,
        payload_len: usize,
    ) -> Result<Charge, LinkEnd> {
        if self.class != PeerClass::Own {
            let charge = Charge::ordinary(header_len, payload_len);
            self.foreign_received.add(charge.accounts[0]);
            return Ok(charge);
        }
        let is_system = header.total_len.is_none()
            && header.handler.first() == Some(&b'_')
            && header.mode().is_some_and(|mode| mode.wants_response() || mode.wants_ack());
        if is_system {
            if !self.link.receive_system_call() {
                return Err(LinkEnd::OverLimit("system_calls_max"));
            }
            return Ok(Charge::system_call());
        }
        // It was told in READY what is taken here, and refuses what is longer by itself.
        if let Some(total) = header.total_len.filter(|total| *total > self.node.limits.payload_len_max) {
            return Err(LinkEnd::Protocol(format!("a payload of {total} octets, more than this node takes")));
        }
        let charge = match header.total_len {
            Some(total) => Charge::large(header_len, total),
            None => Charge::ordinary(header_len, payload_len),
        };
        self.receive(0, charge.accounts[0].bytes)?;
        if charge.accounts[1].messages > 0 {
            self.receive(1, charge.accounts[1].bytes)?;
        }
        Ok(charge)
    }

    #[inline]
    fn request(
        &mut self,
        header: &Header<'_>,
        header_octets: &[u8],
        envelope: &[u8],
        payload: Received<'_>,
    ) -> Result<(), LinkEnd> {
        let payload_len = payload.as_slice().len();
        let charge = self.charge(header, header_octets.len(), payload_len)?;
        self.requests += 1;
        if let Some(total) = header.total_len {
            return self.begin_assembly(ChunkOf::Message, (header, header_octets), total, payload, charge);
        }
        self.turn.messages += 1;
        self.turn.payload_len += payload_len as u64;
        self.dispatcher.dispatch(header, envelope, payload, &charge, &mut self.turn);
        Ok(())
    }

    /// The first part of a payload of `total` octets.
    fn begin_assembly(
        &mut self,
        of: ChunkOf,
        (header, octets): (&Header<'_>, &[u8]),
        total: u64,
        payload: Received<'_>,
        charge: Charge,
    ) -> Result<(), LinkEnd> {
        let limit = self.node.limits.payload_len_max;
        let first_len = payload.as_slice().len();
        if first_len != PART_LEN || total <= PART_LEN as u64 {
            return Err(LinkEnd::Protocol("a payload in parts whose first part is not 1 MiB".to_owned()));
        }
        let unwanted = of == ChunkOf::Response && !self.link.is_pending(header.id);
        let is_crowded = self.assemblies.len() >= 2 * self.node.limits.partial_payloads_max;
        if total > limit || unwanted || is_crowded {
            if is_crowded {
                self.node.counters.limits.reached("partial_payloads_max");
            }
            let text = format!("the payload has {total} octets, and this node takes {limit}");
            let verdict = header.refused_with(NackCode::TooLarge, self.class);
            if of == ChunkOf::Message && matches!(verdict, Verdict::Nothing) {
                self.turn.finished.add(charge);
                self.node.counters.one_way_dropped.increment(1);
            }
            if of == ChunkOf::Response {
                self.link.handle_reply(header.id, Reply::NoRoom);
            }
            self.answer(verdict, &[], &text, charge);
            return Ok(());
        }
        let (buffer, hold) = match payload {
            Received::Owned { buffer, hold } => (buffer, hold),
            lent @ Received::Lent { .. } => (lent.as_slice().to_vec(), None),
        };
        let total_len = usize::try_from(total).unwrap_or(usize::MAX);
        let assembly = Assembly { header: octets.to_vec(), buffer, total_len, charge, hold };
        self.assemblies.insert((of, header.id), assembly);
        Ok(())
    }

    /// A further part. Parts of what was refused or cancelled meanwhile find nobody, and are dropped.
    fn chunk(&mut self, header: &Header<'_>, payload: Received<'_>) -> Result<(), LinkEnd> {
        let Some(of) = header.chunk_of() else { return Ok(()) };
        let key = (of, header.id);
        let Some(assembly) = self.assemblies.get_mut(&key) else { return Ok(()) };
        match payload {
            // The reader was lent the assembly's own buffer, and read straight into it.
            Received::Owned { buffer, hold } if assembly.buffer.is_empty() => {
                assembly.buffer = buffer;
                assembly.absorb(hold);
            }
            part => assembly.buffer.extend_from_slice(part.as_slice()),
        }
        let len = assembly.buffer.len();
        if len < assembly.total_len {
            return Ok(());
        }
        let Some(whole) = self.assemblies.remove(&key) else { return Ok(()) };
        if len > whole.total_len {
            return Err(LinkEnd::Protocol("the parts of a payload are longer than the whole".to_owned()));
        }
        let Ok(header) = Header::decode(&whole.header) else { return Ok(()) };
        match of {
            ChunkOf::Message => {
                self.turn.messages += 1;
                self.turn.payload_len += len as u64;
                let payload = Received::Owned { buffer: whole.buffer, hold: whole.hold };
                self.dispatcher.dispatch(&header, &[], payload, &whole.charge, &mut self.turn);
            }
            ChunkOf::Response => {
                self.reply(&header, Received::Owned { buffer: whole.buffer, hold: whole.hold });
            }
        }
        Ok(())
    }

    /// There was no memory for a payload, or a part of one: its sender, or our own caller, is told.
    #[cold]
    fn without_memory(&mut self, octets: &[u8], envelope: &[u8], payload_len: u64) -> Result<(), LinkEnd> {
        const TEXT: &str = "the memory of this node for all its peers is used up";
        let Ok(header) = Header::decode(octets) else { return Ok(()) };
        match header.kind {
            Kind::Message => {
                let len = usize::try_from(payload_len).unwrap_or(usize::MAX);
                let charge = self.charge(&header, octets.len(), len)?;
                self.requests += 1;
                self.refuse_for_memory(&header, envelope, charge, TEXT);
            }
            Kind::Response => {
                self.link.handle_reply(header.id, Reply::NoRoom);
            }
            Kind::Chunk => {
                let assembly = header.chunk_of().and_then(|of| self.assemblies.remove(&(of, header.id)));
                let Some(assembly) = assembly else { return Ok(()) };
                let Ok(first) = Header::decode(&assembly.header) else { return Ok(()) };
                if first.kind == Kind::Response {
                    self.link.handle_reply(header.id, Reply::NoRoom);
                } else {
                    self.refuse_for_memory(&first, &[], assembly.charge, TEXT);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn refuse_for_memory(&mut self, header: &Header<'_>, envelope: &[u8], charge: Charge, text: &str) {
        let verdict = header.refused_with(NackCode::Overloaded, self.class);
        if matches!(verdict, Verdict::Nothing) {
            self.turn.finished.add(charge);
            self.node.counters.one_way_dropped.increment(1);
            tracing::debug!("dropped a one-way message: {text}");
        } else {
            self.answer(verdict, envelope, text, charge);
        }
    }

    #[inline]
    fn reply(&self, header: &Header<'_>, payload: Received<'_>) {
        if !response_manager::handle_reply(&self.link, header, payload) {
            self.node.counters.late_replies.increment(1);
        }
    }

    fn cancel(&mut self, header: &Header<'_>) -> Result<(), LinkEnd> {
        self.cancels += 1;
        // Only for more Cancels than requests: a program that drops its calls is honest.
        if self.cancels > self.requests {
            return Err(LinkEnd::Protocol("more Cancels than requests".to_owned()));
        }
        match header.chunk_of() {
            Some(of) => {
                if let Some(assembly) = self.assemblies.remove(&(of, header.id))
                    && of == ChunkOf::Message
                {
                    let mode_is_answered = Header::decode(&assembly.header)
                        .ok()
                        .and_then(|header| header.mode())
                        .is_some_and(crate::wire::codes::DeliveryMode::is_answered);
                    if mode_is_answered {
                        let verdict = Verdict::Nack { id: header.id, code: NackCode::Cancelled };
                        self.answer(verdict, &[], "cancelled", assembly.charge);
                    } else {
                        self.turn.finished.add(assembly.charge);
                    }
                }
            }
            None => {
                self.running.cancel(header.id);
            }
        }
        Ok(())
    }

    fn control(&mut self, header: &Header<'_>, payload: &[u8]) -> Result<(), LinkEnd> {
        match header.kind {
            Kind::Credit => {
                let account = header.credit_account();
                let totals = CreditTotals::decode(payload);
                let (Some(account), Ok(totals)) = (account, totals) else {
                    return Err(LinkEnd::Protocol("a credit frame without totals".to_owned()));
                };
                self.link
                    .handle_credit(account, &totals)
                    .map_err(|error| LinkEnd::Protocol(error.to_string()))
            }
            Kind::Bye => {
                tracing::debug!(node = %self.node.instance, link = self.link.number(), moved = header.aux, "a Bye");
                let said_before = self.link.is_retired();
                self.link.retire();
                let moved = header.aux == 1;
                self.peer.handle_bye(&self.link, moved);
                if !said_before {
                    self.link.say_bye(moved);
                }
                self.dispatcher.note_bye();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl Inbound for MessageRouter {
    #[inline]
    fn message(&mut self, octets: &[u8], envelope: &[u8], payload: Received<'_>) -> Result<(), LinkEnd> {
        let mut header = Header::blank();
        if let Err(kind) = header.read(octets) {
            return self.refuse_header(&refused(octets, kind), octets.len(), envelope, &payload);
        }
        if self.class != PeerClass::Own
            && let Some(verdict) = header.refusal(self.class)
        {
            let text = format!("a {} is not taken from this kind of peer", header.kind);
            self.answer(verdict, envelope, &text, Charge::default());
            return Ok(());
        }
        match header.kind {
            Kind::Message => self.request(&header, octets, envelope, payload),
            Kind::Ack | Kind::Nack | Kind::Receipt => {
                self.reply(&header, payload);
                Ok(())
            }
            Kind::Response => match header.total_len {
                None => {
                    self.reply(&header, payload);
                    Ok(())
                }
                Some(total) => {
                    let charge = Charge::default();
                    self.begin_assembly(ChunkOf::Response, (&header, octets), total, payload, charge)
                }
            },
            Kind::Chunk => self.chunk(&header, payload),
            Kind::Cancel => self.cancel(&header),
            Kind::Credit | Kind::Bye => self.control(&header, payload.as_slice()),
        }
    }

    fn malformed(&mut self, first: &[u8], envelope: &[u8]) {
        let id = first.get(8..16).and_then(|id| id.try_into().ok()).map(u64::from_be_bytes);
        let reads_as_header = first.len() == 16 && first.first() == Some(&crate::wire::header::VERSION);
        let code = NackCode::Protocol;
        let verdict = match (self.class, id) {
            (PeerClass::ForeignReq, id) => {
                Verdict::Nack { id: id.filter(|_| reads_as_header).unwrap_or(0), code }
            }
            (PeerClass::Foreign, Some(id)) if reads_as_header => Verdict::Nack { id, code },
            _ => Verdict::Nothing,
        };
        let text = "the message has too many frames, or none that is a header";
        self.answer(verdict, envelope, text, Charge::default());
    }

    fn skipped(
        &mut self,
        octets: &[u8],
        envelope: &[u8],
        payload_len: u64,
        why: Skipped,
    ) -> Result<(), LinkEnd> {
        if why == Skipped::NoMemory {
            self.node.counters.limits.reached("budget_len_max");
            return self.without_memory(octets, envelope, payload_len);
        }
        self.node.counters.limits.reached("payload_len_max");
        let limit = self.node.limits.payload_len_max;
        let text = format!("the payload has {payload_len} octets, and this node takes {limit}");
        let verdict = match Header::decode(octets) {
            Ok(header) => header.refused_with(NackCode::TooLarge, self.class),
            Err(error) => error.answer(self.class),
        };
        self.answer(verdict, envelope, &text, Charge::default());
        Ok(())
    }

    fn large_buffer(&mut self, octets: &[u8]) -> LargeBuffer {
        match Header::decode(octets) {
            Ok(Header { kind: Kind::Chunk, id, aux, .. }) => {
                let buffer = ChunkOf::from_u8(aux)
                    .and_then(|of| self.assemblies.get_mut(&(of, id)))
                    .map(|assembly| std::mem::take(&mut assembly.buffer))
                    .unwrap_or_default();
                LargeBuffer { buffer, is_granted: false }
            }
            // The one message that may drive a large grant below zero is shorter than the grant.
            Ok(header) if header.kind == Kind::Message && header.total_len.is_none() => {
                let is_granted =
                    self.class == PeerClass::Own && self.running.grant().len() >= 2 * PART_LEN as u64;
                LargeBuffer { buffer: Vec::new(), is_granted }
            }
            _ => LargeBuffer::default(),
        }
    }

    fn end_turn(&mut self) {
        let turn = std::mem::take(&mut self.turn);
        if turn.messages > 0 {
            self.node.counters.messages_received.increment(turn.messages);
            self.node.counters.bytes_received.increment(turn.payload_len);
        }
        let received = match self.class {
            PeerClass::Own => self.meters.map(|meter| meter.received()),
            _ => [self.foreign_received, Totals::default()],
        };
        let is_used_up = self.link.end_turn(turn.finished, turn.answering, received);
        if is_used_up && self.running.grant().grow().is_some() {
            self.link.grow_window(self.node.granted(self.running.grant()));
        } else if is_used_up {
            self.node.counters.limits.reached("credit_messages");
        }
        self.dispatcher.end_turn();
    }

    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.class == PeerClass::Own {
            return self.link.poll_turn(cx);
        }
        let limit = self.node.granted(self.running.grant());
        self.link.poll_unfinished_below(self.foreign_received, limit, cx)
    }
}
