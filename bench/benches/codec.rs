//! Headers, frames and the decoder: octets to values and back, without any socket. `cargo bench -p dynamo-am-bench`.

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use dynamo_am::wire::header::{Header, PlainMessage, Trace};
use dynamo_am::wire::zmtp::decoder::{Decoder, PayloadLimits, Step};
use dynamo_am::wire::zmtp::frame::{FrameHeader, encode_header};
use dynamo_am::{Codec, DeliveryMode};

/// What the link's reader has at once.
const CHUNK_LEN: usize = 64 << 10;
const PAYLOAD: [u8; 64] = [0x5a; 64];

fn main() {
    divan::main();
}

fn plain(payload: &[u8], out: &mut Vec<u8>) {
    let message = PlainMessage {
        mode: DeliveryMode::WithResponse,
        codec: Codec::Raw,
        depth: 0,
        id: black_box(7),
        handler: black_box(b"echo"),
        deadline_ms: Some(black_box(30_000)),
    };
    assert!(message.encode_frames(payload, out));
}

/// With a deadline and nothing else, as nearly all are.
fn usual() -> Header<'static> {
    Header { deadline_ms: Some(30_000), ..Header::message(DeliveryMode::WithResponse, 7, b"echo") }
}

/// With everything that is optional.
fn full() -> Header<'static> {
    Header {
        trace: Some(Trace { trace_id: [1; 16], span_id: [2; 8], flags: 1 }),
        extras: Some(&[0x81, 0xA1, b'k', 0xA1, b'v']),
        ..usual()
    }
}

#[divan::bench]
fn message_of_64_octets_encode(bencher: Bencher<'_, '_>) {
    let mut out = Vec::with_capacity(4096);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        out.clear();
        plain(black_box(&PAYLOAD), &mut out);
        black_box(out.len())
    });
}

#[divan::bench(args = ["usual", "full"])]
fn header_encode(bencher: Bencher<'_, '_>, kind: &str) {
    let header = if kind == "full" { full() } else { usual() };
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        black_box(&header).encode(&mut out);
        black_box(out.len())
    });
}

#[divan::bench(args = ["usual", "full"])]
fn header_decode(bencher: Bencher<'_, '_>, kind: &str) {
    let mut octets = Vec::new();
    if kind == "full" { full() } else { usual() }.encode(&mut octets);
    bencher.bench_local(|| Header::decode(black_box(&octets)).map(|header| header.id));
}

#[divan::bench(args = [64, 1000, 1 << 20])]
fn frame_header(bencher: Bencher<'_, '_>, body_len: usize) {
    let mut out = Vec::with_capacity(16);
    bencher.bench_local(|| {
        out.clear();
        encode_header(false, black_box(body_len), &mut out);
        FrameHeader::decode(black_box(&out)).map(|found| found.map(|frame| frame.body_len))
    });
}

/// A chunk full of messages, as the reader finds them: framing and header of each.
#[divan::bench(args = [0, 64, 1024, 16 << 10])]
fn chunk_decode(bencher: Bencher<'_, '_>, payload_len: usize) {
    let payload = vec![0x5a; payload_len];
    let (mut chunk, mut message) = (Vec::with_capacity(CHUNK_LEN), Vec::new());
    plain(&payload, &mut message);
    let mut count = 0_usize;
    while chunk.len() + message.len() <= CHUNK_LEN {
        chunk.extend_from_slice(&message);
        count += 1;
    }
    let limits = PayloadLimits {
        in_place_len_max: CHUNK_LEN,
        large_len_min: CHUNK_LEN,
        frame_len_max: 1 << 20,
        skip_len_max: 0,
    };
    let bencher = bencher.counter(ItemsCount::new(count)).counter(BytesCount::new(chunk.len()));
    bencher.bench_local(|| {
        let (mut decoder, mut rest, mut found) = (Decoder::new(limits), black_box(&chunk[..]), 0);
        while let Ok(Step::Message { header, payload, used }) = decoder.step(rest) {
            found += usize::from(Header::decode(&rest[header]).is_ok());
            black_box(&rest[payload]);
            rest = &rest[used..];
        }
        assert_eq!(found, count, "every message is found");
    });
}
