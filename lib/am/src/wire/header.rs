//! The message header: 16 fixed octets, the handler's name, and fields that flags announce.
//!
//! It is the first frame of every message. The sender encodes it straight into the link's send buffer; the
//! receiver decodes it in place, borrowing the receive chunk, and the router then knows everything about the
//! message without a look at its payload. Both lie on the path of every message, so neither allocates (but
//! for growing the buffer) and a header without optional fields is a handful of loads and compares.
//!
//! What is done with a header that cannot be accepted is decided in [`answer`](super::answer).
//!
//! **Invariants**
//! 1. Nothing is read beyond a length that was checked, and no allocation has a size that a peer chose.
//! 2. What [`Header::encode`] writes, [`Header::decode`] reads back as the same value.
//! 3. Octets behind the known fields, the reserved octet and flags 32 and 64 are ignored, so that later
//!    versions can use them.
//! 4. A refused header still says its id, kind and mode as far as they can be read.
//!
//! Not done here: UTF-8 of the handler name and of the endpoint, and what extras contain, are checked where
//! they are used, since most messages are dispatched by comparing octets.

#![deny(clippy::indexing_slicing, clippy::cast_possible_truncation)]

mod error;

pub use error::{HeaderError, HeaderErrorKind};

use super::codes::{ChunkOf, Codec, CreditAccount, DeliveryMode, Kind, NackCode, RECEIPT_ACCEPTED, flags};
use super::extras::EXTRAS_LEN_MAX;
use super::zmtp::frame::{self, FRAME_HEADER_LEN_MAX};

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// First octet of a header in JSON, which is kept free and not understood.
pub const JSON_VERSION: u8 = b'{';
/// Length in octets of what every header has.
pub const FIXED_LEN: usize = 16;
/// Most octets that a header may have, ignored ones behind it included.
pub const HEADER_LEN_MAX: usize = 16 * 1024;
/// Most calls that may be made within each other, handler by handler; stops cycles of calls.
pub const DEPTH_MAX: u8 = 16;
/// Most octets of a handler name.
pub const NAME_LEN_MAX: usize = 255;
/// Most octets of the endpoint in a claimed sender.
pub const SENDER_ENDPOINT_LEN_MAX: usize = 255;

/// A W3C trace context (`traceparent`), in octets.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Trace {
    /// Trace id.
    pub trace_id: [u8; 16],
    /// Id of the span that sent the message.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 is "sampled".
    pub flags: u8,
}

/// Who a message says it comes from. A claim: never used for order, rights or dialling.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ClaimedSender<'a> {
    /// Octets of an `InstanceId`, as they came.
    pub instance: [u8; 16],
    /// Text of an endpoint, 0 to 255 octets; not checked to be UTF-8.
    pub endpoint: &'a [u8],
}

/// A decoded header, or one to encode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header<'a> {
    /// What the message is.
    pub kind: Kind,
    /// Octet 2, whose meaning depends on the kind: see [`mode`](Self::mode), [`nack_code`](Self::nack_code),
    /// [`chunk_of`](Self::chunk_of) and [`credit_account`](Self::credit_account). A Receipt's status.
    pub aux: u8,
    /// How the payload is encoded.
    pub codec: Codec,
    /// 0, and one more for each call made through a handler's context; at most [`DEPTH_MAX`].
    pub depth: u8,
    /// The message's id; on a reply, Chunk or Cancel the id of what it belongs to.
    pub id: u64,
    /// The handler's name, 1 to 255 octets on a Message, else empty. UTF-8 is checked where it is looked up.
    pub handler: &'a [u8],
    /// Time left, in milliseconds, when the message entered the send buffer.
    pub deadline_ms: Option<u32>,
    /// Trace context.
    pub trace: Option<Trace>,
    /// Who the sender claims to be.
    pub sender: Option<ClaimedSender<'a>>,
    /// Undecoded extras, for [`Extras::decode`](super::extras::Extras::decode); at most 8 KiB.
    pub extras: Option<&'a [u8]>,
    /// Length in octets of the whole payload, when the payload frame is only its first part.
    pub total_len: Option<u64>,
}

/// A Message without optional fields but the deadline, which is what nearly all are.
#[derive(Clone, Copy, Debug)]
pub struct PlainMessage<'a> {
    /// Delivery mode.
    pub mode: DeliveryMode,
    /// How the payload is encoded.
    pub codec: Codec,
    /// 0, and one more for each call made through a handler's context.
    pub depth: u8,
    /// The message's id.
    pub id: u64,
    /// The handler's name, 1 to 255 octets.
    pub handler: &'a [u8],
    /// Time left, in milliseconds.
    pub deadline_ms: Option<u32>,
}

impl PlainMessage<'_> {
    /// Octets of the header.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        FIXED_LEN + self.handler.len() + if self.deadline_ms.is_some() { 4 } else { 0 }
    }

    /// Appends the whole message, frame headers included: the same octets as [`Header::encode`] between two frame
    /// headers, in fewer steps. `false` and nothing appended when the header does not fit a short frame.
    #[inline]
    #[must_use]
    pub fn encode_frames(&self, payload: &[u8], out: &mut Vec<u8>) -> bool {
        let (Ok(header_len), Ok(name_len)) =
            (u8::try_from(self.header_len()), u8::try_from(self.handler.len()))
        else {
            return false;
        };
        let more = u8::from(!payload.is_empty());
        let flags = if self.deadline_ms.is_some() { flags::DEADLINE } else { 0 };
        let [i0, i1, i2, i3, i4, i5, i6, i7] = self.id.to_be_bytes();
        let (kind, mode, codec, depth) =
            (Kind::Message.as_u8(), self.mode.as_u8(), self.codec.as_u8(), self.depth);
        out.reserve(self.header_len() + payload.len() + 2 + FRAME_HEADER_LEN_MAX);
        out.extend_from_slice(&[
            more, header_len, VERSION, kind, mode, flags, codec, name_len, depth, 0, i0, i1, i2, i3, i4, i5,
            i6, i7,
        ]);
        out.extend_from_slice(self.handler);
        if let Some(deadline) = self.deadline_ms {
            out.extend_from_slice(&deadline.to_be_bytes());
        }
        if more != 0 {
            frame::encode_header(false, payload.len(), out);
            out.extend_from_slice(payload);
        }
        true
    }
}

impl<'a> Header<'a> {
    /// A Message to `handler` (1 to 255 octets), with a raw payload and without optional fields.
    #[inline]
    #[must_use]
    pub const fn message(mode: DeliveryMode, id: u64, handler: &'a [u8]) -> Self {
        Self { handler, ..Self::plain(Kind::Message, mode.as_u8(), id) }
    }

    /// An Ack, a Response or an accepting Receipt to the message `id`; also a Cancel of it. Octet 2 is 0.
    #[inline]
    #[must_use]
    pub const fn reply(kind: Kind, id: u64) -> Self {
        Self::plain(kind, RECEIPT_ACCEPTED, id)
    }

    /// A Nack to the message `id`; its payload is the error text.
    #[must_use]
    pub const fn nack(code: NackCode, id: u64) -> Self {
        Self::plain(Kind::Nack, code.as_u8(), id)
    }

    /// A further part of the payload of `of` with that id.
    #[must_use]
    pub const fn chunk(of: ChunkOf, id: u64) -> Self {
        Self::plain(Kind::Chunk, of.as_u8(), id)
    }

    /// Says that no further part of that payload will come.
    #[must_use]
    pub const fn cancel_rest(of: ChunkOf, id: u64) -> Self {
        Self::plain(Kind::Cancel, of.as_u8(), id)
    }

    /// A Credit for one account; its payload is [`CreditTotals`](super::credit_frame::CreditTotals).
    #[must_use]
    pub const fn credit(account: CreditAccount) -> Self {
        Self::plain(Kind::Credit, account.as_u8(), 0)
    }

    /// A Bye: the sender sends no new Messages on this link and wants none. `moved` says (octet 2 is 1) that
    /// another link to the same node takes its place; else the node is going.
    #[must_use]
    pub const fn bye(moved: bool) -> Self {
        Self::plain(Kind::Bye, moved as u8, 0)
    }

    const fn plain(kind: Kind, aux: u8, id: u64) -> Self {
        Self {
            kind,
            aux,
            codec: Codec::Raw,
            depth: 0,
            id,
            handler: &[],
            deadline_ms: None,
            trace: None,
            sender: None,
            extras: None,
            total_len: None,
        }
    }

    /// A Message's delivery mode; `None` on other kinds.
    #[inline]
    #[must_use]
    pub const fn mode(&self) -> Option<DeliveryMode> {
        if matches!(self.kind, Kind::Message) { DeliveryMode::from_u8(self.aux) } else { None }
    }

    /// A Nack's error code; `None` on other kinds.
    #[must_use]
    pub const fn nack_code(&self) -> Option<NackCode> {
        if matches!(self.kind, Kind::Nack) { Some(NackCode::from_u8(self.aux)) } else { None }
    }

    /// What a Chunk carries on, or what a Cancel breaks off; `None` on other kinds, and on the Cancel of a
    /// request.
    #[must_use]
    pub const fn chunk_of(&self) -> Option<ChunkOf> {
        if matches!(self.kind, Kind::Chunk | Kind::Cancel) { ChunkOf::from_u8(self.aux) } else { None }
    }

    /// The account that a Credit is about; `None` on other kinds.
    #[must_use]
    pub const fn credit_account(&self) -> Option<CreditAccount> {
        if matches!(self.kind, Kind::Credit) { CreditAccount::from_u8(self.aux) } else { None }
    }

    /// Octets that [`encode`](Self::encode) appends.
    #[inline]
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        let mut len = FIXED_LEN.saturating_add(self.handler.len());
        if self.deadline_ms.is_some() {
            len = len.saturating_add(4);
        }
        if self.trace.is_some() {
            len = len.saturating_add(25);
        }
        if let Some(sender) = &self.sender {
            len = len.saturating_add(18).saturating_add(sender.endpoint.len());
        }
        if let Some(extras) = self.extras {
            len = len.saturating_add(2).saturating_add(extras.len());
        }
        if self.total_len.is_some() {
            len = len.saturating_add(8);
        }
        len
    }

    /// Appends the header to `out`.
    ///
    /// # Panics
    /// When the handler name or the claimed sender's endpoint is longer than 255 octets, or the extras are
    /// longer than 8 KiB: such a value must be refused where it enters the program, since cut short it would
    /// mean something else. Nothing has been written then.
    #[inline]
    pub fn encode(&self, out: &mut Vec<u8>) {
        let name_len = field_len_u8(self.handler.len(), "a handler name is checked when it is given");
        let flags = self.flags();
        if flags & COMPOUND == 0 {
            self.encode_fixed(name_len, flags, out);
        } else {
            self.encode_compound(name_len, flags, out);
        }
    }

    /// The fixed part, the name and the deadline: all that most messages have.
    #[inline]
    fn encode_fixed(&self, name_len: u8, flags: u8, out: &mut Vec<u8>) {
        let [i0, i1, i2, i3, i4, i5, i6, i7] = self.id.to_be_bytes();
        let (kind, codec) = (self.kind.as_u8(), self.codec.as_u8());
        let fixed: [u8; FIXED_LEN] =
            [VERSION, kind, self.aux, flags, codec, name_len, self.depth, 0, i0, i1, i2, i3, i4, i5, i6, i7];
        out.reserve(self.encoded_len());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.handler);
        if let Some(deadline) = self.deadline_ms {
            out.extend_from_slice(&deadline.to_be_bytes());
        }
    }

    #[inline(never)]
    fn encode_compound(&self, name_len: u8, flags: u8, out: &mut Vec<u8>) {
        let endpoint_len = self.sender.map_or(0, |sender| sender.endpoint.len());
        let endpoint_len = field_len_u8(endpoint_len, "an endpoint is at most 255 octets when it is parsed");
        let extras_len = self.extras.map_or(0, <[u8]>::len);
        assert!(extras_len <= EXTRAS_LEN_MAX, "extras are at most 8 KiB when they are encoded");
        let extras_len = u16::try_from(extras_len).unwrap_or(u16::MAX);

        self.encode_fixed(name_len, flags, out);
        if let Some(trace) = &self.trace {
            out.extend_from_slice(&trace.trace_id);
            out.extend_from_slice(&trace.span_id);
            out.push(trace.flags);
        }
        if let Some(sender) = &self.sender {
            out.extend_from_slice(&sender.instance);
            out.extend_from_slice(&[0, endpoint_len]);
            out.extend_from_slice(sender.endpoint);
        }
        if let Some(extras) = self.extras {
            out.extend_from_slice(&extras_len.to_be_bytes());
            out.extend_from_slice(extras);
        }
        if let Some(total) = self.total_len {
            out.extend_from_slice(&total.to_be_bytes());
        }
    }

    #[inline]
    const fn flags(&self) -> u8 {
        let mut flags = 0;
        if self.deadline_ms.is_some() {
            flags |= flags::DEADLINE;
        }
        if self.trace.is_some() {
            flags |= flags::TRACE;
        }
        if self.sender.is_some() {
            flags |= flags::SENDER;
        }
        if self.extras.is_some() {
            flags |= flags::EXTRAS;
        }
        if self.total_len.is_some() {
            flags |= flags::CHUNKED;
        }
        flags
    }

    /// Reads a header frame in place.
    ///
    /// # Errors
    /// [`HeaderError`], with what could still be read; [`HeaderError::answer`] says what to do with it.
    #[inline]
    pub fn decode(bytes: &'a [u8]) -> Result<Self, HeaderError> {
        let mut header = Self::blank();
        header.read(bytes).map_err(|kind| refused(bytes, kind))?;
        Ok(header)
    }

    /// A header to [`read`](Self::read) into.
    #[inline]
    pub(crate) const fn blank() -> Self {
        Self::plain(Kind::Bye, 0, 0)
    }

    /// As [`decode`](Self::decode), into a [`blank`](Self::blank) header where it lies: moving one costs more than
    /// reading it. After an error the header is of no use; [`refused`] says what of it was readable.
    #[inline(always)]
    pub(crate) fn read(&mut self, bytes: &'a [u8]) -> Result<(), HeaderErrorKind> {
        let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_LEN>() else {
            return Err(HeaderErrorKind::TooShort { len: bytes.len() });
        };
        let [version, kind, aux, flags, codec, name_len, depth, _reserved, id @ ..] = *fixed;
        if version != VERSION {
            return Err(unknown_version(version));
        }
        let Some(kind) = Kind::from_u8(kind) else {
            return Err(HeaderErrorKind::UnknownKind(kind));
        };
        // The mode comes before all else that can be wrong: it decides whether the error is answered.
        check_aux(kind, aux)?;
        if bytes.len() > HEADER_LEN_MAX {
            return Err(HeaderErrorKind::TooLong { len: bytes.len() });
        }
        if flags & flags::MUST_UNDERSTAND != 0 {
            return Err(HeaderErrorKind::MustUnderstand);
        }
        let Some(codec) = Codec::from_u8(codec) else {
            return Err(HeaderErrorKind::UnknownCodec(codec));
        };
        if depth > DEPTH_MAX {
            return Err(HeaderErrorKind::TooDeep(depth));
        }
        let Some((handler, rest)) = rest.split_at_checked(usize::from(name_len)) else {
            return Err(HeaderErrorKind::Truncated { field: "handler name" });
        };
        if name_len == 0 && matches!(kind, Kind::Message) {
            return Err(HeaderErrorKind::NameMissing);
        }
        self.kind = kind;
        self.aux = aux;
        self.codec = codec;
        self.depth = depth;
        self.id = u64::from_be_bytes(id);
        self.handler = handler;
        if flags & (flags::DEADLINE | COMPOUND) != 0 {
            self.read_optional(flags, rest)?;
        }
        Ok(())
    }

    fn read_optional(&mut self, flags: u8, mut rest: &'a [u8]) -> Result<(), HeaderErrorKind> {
        if flags & flags::DEADLINE != 0 {
            self.deadline_ms = Some(u32::from_be_bytes(*take(&mut rest, "deadline")?));
        }
        if flags & flags::TRACE != 0 {
            let trace_id = *take(&mut rest, "trace context")?;
            let span_id = *take(&mut rest, "trace context")?;
            let [flags] = *take(&mut rest, "trace context")?;
            self.trace = Some(Trace { trace_id, span_id, flags });
        }
        if flags & flags::SENDER != 0 {
            let instance = *take(&mut rest, "claimed sender")?;
            let len = u16::from_be_bytes(*take(&mut rest, "claimed sender")?);
            if usize::from(len) > SENDER_ENDPOINT_LEN_MAX {
                return Err(HeaderErrorKind::EndpointTooLong(len));
            }
            let endpoint = take_slice(&mut rest, len, "claimed sender")?;
            self.sender = Some(ClaimedSender { instance, endpoint });
        }
        if flags & flags::EXTRAS != 0 {
            let len = u16::from_be_bytes(*take(&mut rest, "extras")?);
            if usize::from(len) > EXTRAS_LEN_MAX {
                return Err(HeaderErrorKind::ExtrasTooLong(len));
            }
            self.extras = Some(take_slice(&mut rest, len, "extras")?);
        }
        if flags & flags::CHUNKED != 0 {
            self.total_len = Some(u64::from_be_bytes(*take(&mut rest, "payload length")?));
        }
        Ok(())
    }
}

/// Optional fields that few messages have.
const COMPOUND: u8 = flags::TRACE | flags::SENDER | flags::EXTRAS | flags::CHUNKED;

#[inline]
fn check_aux(kind: Kind, aux: u8) -> Result<(), HeaderErrorKind> {
    match kind {
        Kind::Message if DeliveryMode::from_u8(aux).is_none() => Err(HeaderErrorKind::UnknownMode(aux)),
        Kind::Chunk if ChunkOf::from_u8(aux).is_none() => {
            Err(HeaderErrorKind::UnknownChunkOf { kind, octet: aux })
        }
        Kind::Cancel if aux != 0 && ChunkOf::from_u8(aux).is_none() => {
            Err(HeaderErrorKind::UnknownChunkOf { kind, octet: aux })
        }
        Kind::Credit if CreditAccount::from_u8(aux).is_none() => Err(HeaderErrorKind::UnknownAccount(aux)),
        _ => Ok(()),
    }
}

#[inline]
fn take<'a, const N: usize>(
    rest: &mut &'a [u8],
    field: &'static str,
) -> Result<&'a [u8; N], HeaderErrorKind> {
    let (taken, behind) = rest.split_first_chunk().ok_or(HeaderErrorKind::Truncated { field })?;
    *rest = behind;
    Ok(taken)
}

fn take_slice<'a>(rest: &mut &'a [u8], len: u16, field: &'static str) -> Result<&'a [u8], HeaderErrorKind> {
    let (taken, behind) =
        rest.split_at_checked(usize::from(len)).ok_or(HeaderErrorKind::Truncated { field })?;
    *rest = behind;
    Ok(taken)
}

#[inline]
#[track_caller]
fn field_len_u8(len: usize, checked: &str) -> u8 {
    let short = u8::try_from(len);
    assert!(short.is_ok(), "{checked}");
    short.unwrap_or(u8::MAX)
}

#[cold]
const fn unknown_version(version: u8) -> HeaderErrorKind {
    match version {
        JSON_VERSION => HeaderErrorKind::JsonHeader,
        _ => HeaderErrorKind::UnknownVersion(version),
    }
}

/// Reads again, off the hot path, what a refused header still says about itself.
#[cold]
#[inline(never)]
pub(crate) fn refused(bytes: &[u8], kind: HeaderErrorKind) -> HeaderError {
    let mut error = HeaderError { kind, id: None, message_kind: None, mode: None };
    let Some([version, octet1, octet2, _, _, _, _, _, id @ ..]) = bytes.first_chunk::<FIXED_LEN>() else {
        return error;
    };
    if *version == JSON_VERSION {
        return error;
    }
    error.id = Some(u64::from_be_bytes(*id));
    if *version == VERSION {
        error.message_kind = Kind::from_u8(*octet1);
        if error.message_kind == Some(Kind::Message) {
            error.mode = DeliveryMode::from_u8(*octet2);
        }
    }
    error
}

#[cfg(test)]
mod tests;
