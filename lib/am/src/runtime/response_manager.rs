//! Answers on their way to their callers: from a decoded reply to a slot of the link's slab.

use crate::proto::pending::{ReceiptReply, Reply};
use crate::transport::link::{Link, Received};
use crate::wire::codes::{Kind, NackCode};
use crate::wire::header::Header;

/// Hands a reply to its caller; `false` when nobody waits for it any more.
#[inline]
pub(crate) fn handle_reply(link: &Link, header: &Header<'_>, payload: Received<'_>) -> bool {
    let codec = header.codec;
    // From here on the link's account holds it.
    let (payload, hold) = payload.into_payload();
    drop(hold);
    let reply = match header.kind {
        Kind::Ack => Reply::Ack,
        Kind::Response => Reply::Response { codec, payload },
        Kind::Receipt => Reply::Receipt(ReceiptReply { status: header.aux, codec, payload }),
        Kind::Nack => Reply::Nack { code: NackCode::from_u8(header.aux), text: payload },
        Kind::Message | Kind::Cancel | Kind::Credit | Kind::Chunk | Kind::Bye => return false,
    };
    link.handle_reply(header.id, reply)
}
