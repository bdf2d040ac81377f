//! What a hostile peer writes: [`Operation`]s, most of them nearly right, as octets.

use arbitrary::Arbitrary;
use dynamo_am::transport::link::PART_LEN;
use dynamo_am::wire::codes::{ChunkOf, Codec, CreditAccount, DeliveryMode, Kind};
use dynamo_am::wire::credit_frame::CreditTotals;
use dynamo_am::wire::header::{ClaimedSender, Header, Trace};
use dynamo_am::wire::zmtp::command::FLAGS_COMMAND;
use dynamo_am::wire::zmtp::frame;

/// Handlers that a message may name: those of the node, its system handlers, and one that is not there.
pub(super) const HANDLERS: [&str; 14] = [
    "echo",
    "fail",
    "spawned",
    "ordered",
    "batched",
    "deferred",
    "note",
    "nested",
    "nowhere",
    "_health_check",
    "_list_handlers",
    "_discover",
    "_request_shutdown",
    "_wait_for_handler",
];
const COMMANDS: [&[u8]; 7] = [b"PING", b"PONG", b"READY", b"ERROR", b"SUBSCRIBE", b"CANCEL", b"JOIN"];

#[derive(Debug, Arbitrary)]
pub(super) enum Operation<'a> {
    /// A message with some fields.
    Message {
        call: Call,
        payload: Body<'a>,
        envelope: Envelope,
    },
    /// The first part of a payload that is said to have parts.
    Parts {
        call: Call,
        total: Total,
        first_is_whole: bool,
    },
    /// A further part.
    Chunk {
        is_response: bool,
        id: u8,
        is_whole: bool,
    },
    /// Takes a request or a payload back.
    Cancel {
        octet2: u8,
        id: u8,
    },
    /// Any totals; small ones are likelier to be taken.
    Credit {
        is_large: bool,
        totals: [u8; 4],
        shift: u8,
    },
    /// An answer that nobody waits for.
    Answer {
        kind: u8,
        octet2: u8,
        id: u64,
        codec: u8,
        body: Body<'a>,
    },
    Bye(bool),
    Command {
        name: u8,
        data: &'a [u8],
    },
    /// A header of any octets, and a payload.
    Header {
        octets: &'a [u8],
        has_payload: bool,
    },
    /// Frames of any kind, not closed unless the last one is.
    Frames(Vec<(u8, u8)>),
    Raw(&'a [u8]),
    /// Reads what the node has sent.
    Read,
    /// Lets the node work.
    Rest(u8),
    /// An honest client calls meanwhile.
    Honest,
}

/// The fields of a message's header.
#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) struct Call {
    mode: u8,
    handler: u8,
    id: u8,
    codec: u8,
    depth: u8,
    deadline: Option<u8>,
    has_trace: bool,
    has_sender: bool,
    extras: u8,
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Body<'a> {
    None,
    Octets(&'a [u8]),
    Number(u16),
    /// So many KiB.
    Long(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Envelope {
    None,
    Empty,
    Named(u8),
    Many(u8),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
pub(super) enum Total {
    JustOver(u8),
    TwoParts(u8),
    TooLong,
    Any(u64),
}

/// Encoded extras, as header fields carry them: none, harmless ones, contracts that fit or do not, and broken ones.
const EXTRAS: [Option<&[u8]>; 6] = [
    None,
    Some(b"\x80"),
    Some(b"\x81\xa1a\xa1b"),
    Some(b"\x81\xa7am.kind\xa5unary"),
    Some(b"\x81\xa7am.kind\xa7message"),
    Some(b"\x82\xa1a"),
];
const INSTANCE: [u8; 16] = *b"0123456789abcdef";

impl Call {
    /// An unknown mode is set by the caller, in the encoded octets.
    fn header(&self) -> (Header<'static>, u8) {
        let mode = self.mode % 6;
        let handler = HANDLERS[usize::from(self.handler) % HANDLERS.len()];
        let known = DeliveryMode::from_u8(mode).unwrap_or(DeliveryMode::WithResponse);
        let header = Header {
            codec: Codec::from_u8(self.codec % 3).unwrap_or(Codec::Raw),
            depth: self.depth % 18,
            deadline_ms: self.deadline.map(|time| u32::from(time) * 100),
            trace: self.has_trace.then_some(Trace { trace_id: INSTANCE, span_id: [7; 8], flags: 1 }),
            sender: self.has_sender.then_some(ClaimedSender { instance: INSTANCE, endpoint: b"tcp://a:1" }),
            extras: EXTRAS[usize::from(self.extras) % EXTRAS.len()],
            ..Header::message(known, self.id.into(), handler.as_bytes())
        };
        (header, mode)
    }
}

impl Body<'_> {
    fn octets(&self) -> Vec<u8> {
        match self {
            Body::None => Vec::new(),
            Body::Octets(octets) => octets.to_vec(),
            Body::Number(number) => number.to_string().into_bytes(),
            Body::Long(len) => vec![b'7'; usize::from(*len) * 1024],
        }
    }
}

impl Operation<'_> {
    /// The octets to write; nothing for what is no writing.
    pub(super) fn octets(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Operation::Message { call, payload, envelope } => {
                let (header, mode) = call.header();
                envelope.put(&mut out);
                put_message(&header, Some(mode), &payload.octets(), &mut out);
            }
            Operation::Parts { call, total, first_is_whole } => {
                let (header, mode) = call.header();
                let part = PART_LEN as u64;
                let total = match total {
                    Total::JustOver(more) => part + 1 + u64::from(*more),
                    Total::TwoParts(more) => 2 * part + u64::from(*more),
                    Total::TooLong => super::PAYLOAD_LEN_MAX + 1,
                    Total::Any(total) => *total,
                };
                let header = Header { total_len: Some(total), ..header };
                put_message(&header, Some(mode), &part_of(*first_is_whole), &mut out);
            }
            Operation::Chunk { is_response, id, is_whole } => {
                let of = if *is_response { ChunkOf::Response } else { ChunkOf::Message };
                put_message(&Header::chunk(of, (*id).into()), None, &part_of(*is_whole), &mut out);
            }
            Operation::Cancel { octet2, id } => {
                let header = Header::reply(Kind::Cancel, (*id).into());
                put_message(&header, Some(octet2 % 6), &[], &mut out);
            }
            Operation::Credit { is_large, totals, shift } => {
                let account = if *is_large { CreditAccount::Large } else { CreditAccount::Ordinary };
                let [messages_finished, bytes_finished, messages_granted, bytes_granted] =
                    totals.map(|total| u64::from(total) << (shift % 64));
                let totals =
                    CreditTotals { messages_finished, bytes_finished, messages_granted, bytes_granted };
                put_message(&Header::credit(account), None, &totals.encode(), &mut out);
            }
            Operation::Answer { kind, octet2, id, codec, body } => {
                let kinds = [Kind::Ack, Kind::Nack, Kind::Response, Kind::Receipt];
                let header = Header {
                    codec: Codec::from_u8(codec % 3).unwrap_or(Codec::Raw),
                    ..Header::reply(kinds[usize::from(*kind) % kinds.len()], *id)
                };
                put_message(&header, Some(*octet2), &body.octets(), &mut out);
            }
            Operation::Bye(moved) => put_message(&Header::bye(*moved), None, &[], &mut out),
            Operation::Command { name, data } => {
                let name = COMMANDS[usize::from(*name) % COMMANDS.len()];
                let data = &data[..data.len().min(240)];
                out.extend_from_slice(&[
                    FLAGS_COMMAND,
                    (1 + name.len() + data.len()) as u8,
                    name.len() as u8,
                ]);
                out.extend_from_slice(name);
                out.extend_from_slice(data);
            }
            Operation::Header { octets, has_payload } => {
                frame::encode_header(*has_payload, octets.len(), &mut out);
                out.extend_from_slice(octets);
                if *has_payload {
                    put_payload(b"payload", &mut out);
                }
            }
            Operation::Frames(frames) => {
                for (flags, len) in frames {
                    out.extend_from_slice(&[flags % 2, *len]);
                    out.resize(out.len() + usize::from(*len), 1);
                }
            }
            Operation::Raw(octets) => out.extend_from_slice(octets),
            Operation::Read | Operation::Rest(_) | Operation::Honest => {}
        }
        out
    }
}

impl Envelope {
    fn put(self, out: &mut Vec<u8>) {
        let mut frame = |body: &[u8]| {
            frame::encode_header(true, body.len(), out);
            out.extend_from_slice(body);
        };
        match self {
            Envelope::None => {}
            Envelope::Empty => frame(b""),
            Envelope::Named(len) => {
                frame(&vec![b'n'; usize::from(len)]);
                frame(b"");
            }
            Envelope::Many(count) => {
                (0..count % 12).for_each(|_| frame(b"n"));
                frame(b"");
            }
        }
    }
}

fn part_of(is_whole: bool) -> Vec<u8> {
    vec![b'p'; if is_whole { PART_LEN } else { 100 }]
}

/// The frames of a message; `octet2` replaces that octet of its header, known or not.
fn put_message(header: &Header<'_>, octet2: Option<u8>, payload: &[u8], out: &mut Vec<u8>) {
    frame::encode_header(!payload.is_empty(), header.encoded_len(), out);
    let start = out.len();
    header.encode(out);
    if let Some(octet2) = octet2 {
        out[start + 2] = octet2;
    }
    if !payload.is_empty() {
        put_payload(payload, out);
    }
}

fn put_payload(payload: &[u8], out: &mut Vec<u8>) {
    frame::encode_header(false, payload.len(), out);
    out.extend_from_slice(payload);
}
