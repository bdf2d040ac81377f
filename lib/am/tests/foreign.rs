//! Peers that are no node of ours and no libzmq either: they send garbage, half of something, or too much. They
//! learn of it where they can, and harm nobody else: a good caller gets its answers all the while.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use common::{caller, connect, double, end, soon, until};
use dynamo_am::{ActiveMessageManager, Endpoint, Handler, Limits, Raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const ID: [u8; 8] = [1, 2, 3, 4, 5, 6, 7, 8];
const NACK: u8 = 3;
const RESPONSE: u8 = 4;
const WITH_RESPONSE: u8 = 2;
/// Small, so that what is over it is quickly sent.
const PAYLOAD_LEN_MAX: u64 = 1 << 20;

/// A node, and a caller of it that never stops calling.
struct Scene {
    node: ActiveMessageManager,
    good: ActiveMessageManager,
    answers: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    calling: JoinHandle<()>,
}

impl Scene {
    async fn start() -> Self {
        let node = ActiveMessageManager::builder()
            .listen("tcp://127.0.0.1:0")
            .limits(Limits { payload_len_max: PAYLOAD_LEN_MAX, ..Limits::default() })
            .start()
            .await
            .unwrap();
        node.register(double()).unwrap();
        node.register(Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) })).unwrap();
        node.register(Handler::inline_raw("inline_echo", |_cx, payload| Ok(payload.to_raw()))).unwrap();
        let good = caller().await;
        let peer = connect(&good, &node).await;
        let (answers, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (counter, ended) = (answers.clone(), done.clone());
        let calling = tokio::spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                assert_eq!(soon("the good caller's answer", peer.call::<i64>("double", &4)).await, Ok(8));
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { node, good, answers, done, calling }
    }

    /// A connection that has said nothing yet.
    async fn stranger(&self) -> TcpStream {
        let Endpoint::Tcp { .. } = &self.node.endpoints()[0] else { unreachable!() };
        let text = self.node.endpoints()[0].to_string();
        TcpStream::connect(text.trim_start_matches("tcp://")).await.unwrap()
    }

    /// A connection whose handshake is done, as a foreign socket of that type.
    async fn foreign(&self, socket_type: &str) -> Foreign {
        let mut stream = self.stranger().await;
        stream.write_all(&greeting(3, 1, "NULL")).await.unwrap();
        stream.write_all(&ready(socket_type)).await.unwrap();
        let mut theirs = [0; 64];
        soon("a greeting", stream.read_exact(&mut theirs)).await.unwrap();
        let mut foreign = Foreign { stream };
        let (flags, body) = soon("READY", foreign.frame()).await.unwrap();
        assert_eq!((flags & 4, &body[..6]), (4, &b"\x05READY"[..]));
        foreign
    }

    /// Nobody was harmed: the good caller gets answers to calls that it makes from now on.
    async fn check_unharmed(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        until("the good caller has its answers", || {
            self.calling.is_finished() || self.answers.load(Ordering::Relaxed) > before + 10
        })
        .await;
        assert!(!self.calling.is_finished(), "the good caller has failed");
    }

    async fn end(self) {
        self.check_unharmed().await;
        self.done.store(true, Ordering::Relaxed);
        soon("the good caller's end", self.calling).await.unwrap();
        end([self.good, self.node]).await;
    }
}

fn greeting(major: u8, minor: u8, mechanism: &str) -> Vec<u8> {
    let mut octets = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, major, minor];
    octets.extend_from_slice(mechanism.as_bytes());
    octets.resize(64, 0);
    octets
}

fn ready(socket_type: &str) -> Vec<u8> {
    let mut body = b"\x05READY\x0BSocket-Type".to_vec();
    body.extend_from_slice(&u32::try_from(socket_type.len()).unwrap().to_be_bytes());
    body.extend_from_slice(socket_type.as_bytes());
    frame(4, &body)
}

/// A frame; `flags` are 1 for more to come and 4 for a command.
fn frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let mut octets = match u8::try_from(body.len()) {
        Ok(len) => vec![flags, len],
        Err(_) => long_frame_header(flags, body.len() as u64),
    };
    octets.extend_from_slice(body);
    octets
}

fn long_frame_header(flags: u8, len: u64) -> Vec<u8> {
    let mut octets = vec![flags | 2];
    octets.extend_from_slice(&len.to_be_bytes());
    octets
}

fn header(mode: u8, name: &str) -> Vec<u8> {
    let mut octets = vec![1, 1, mode, 0, 0, u8::try_from(name.len()).unwrap(), 0, 0];
    octets.extend_from_slice(&ID);
    octets.extend_from_slice(name.as_bytes());
    octets
}

fn message(mode: u8, name: &str, payload: &[u8]) -> Vec<u8> {
    [frame(1, &header(mode, name)), frame(0, payload)].concat()
}

struct Foreign {
    stream: TcpStream,
}

impl Foreign {
    async fn send(&mut self, octets: &[u8]) {
        soon("room in the socket", self.stream.write_all(octets)).await.unwrap();
    }

    async fn frame(&mut self) -> std::io::Result<(u8, Vec<u8>)> {
        let flags = self.stream.read_u8().await?;
        let len =
            if flags & 2 == 0 { self.stream.read_u8().await?.into() } else { self.stream.read_u64().await? };
        let mut body = vec![0; usize::try_from(len).unwrap()];
        self.stream.read_exact(&mut body).await?;
        Ok((flags, body))
    }

    /// The next message: kind, code, id and payload.
    async fn reply(&mut self) -> (u8, u8, [u8; 8], Vec<u8>) {
        soon("a reply", async {
            let mut frames = Vec::new();
            loop {
                let (flags, body) = self.frame().await.unwrap();
                if flags & 4 != 0 {
                    continue;
                }
                frames.push(body);
                if flags & 1 == 0 {
                    let payload = if frames.len() > 1 { frames.pop().unwrap() } else { Vec::new() };
                    let header = frames.pop().unwrap();
                    return (header[1], header[2], header[8..16].try_into().unwrap(), payload);
                }
            }
        })
        .await
    }

    async fn check_nack(&mut self, code: u8) {
        let (kind, found, id, payload) = self.reply().await;
        assert_eq!((kind, found, id), (NACK, code, ID), "{}", String::from_utf8_lossy(&payload));
        assert!(!payload.is_empty(), "a refusal in no words");
    }

    /// The link lives: a call is answered.
    async fn check_alive(&mut self) {
        self.send(&message(WITH_RESPONSE, "echo", b"alive")).await;
        assert_eq!(self.reply().await, (RESPONSE, 0, ID, b"alive".to_vec()));
    }
}

/// Reads until the node closes; gives what it had said.
async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let mut chunk = [0; 4096];
    soon("the node closes", async {
        while let Ok(len @ 1..) = stream.read(&mut chunk).await {
            said.extend_from_slice(&chunk[..len]);
        }
    })
    .await;
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_zmtp_is_closed_and_harms_nobody() {
    let scene = Scene::start().await;
    let noise: Vec<u8> =
        (0..4096u32).map(|n| u8::try_from(n.wrapping_mul(2_654_435_761) >> 24).unwrap()).collect();
    let tls_hello = [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xFC\x03\x03"[..], &noise[..500]].concat();
    for octets in [
        &b"GET / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\n\r\n"[..],
        &tls_hello,
        &noise,
        &[0; 4096],
        &[0xFF; 4096],
        &greeting(1, 0, "NULL"),
        &greeting(2, 0, "NULL"),
        &greeting(3, 1, "PLAIN"),
        &greeting(3, 1, "NULLX"),
    ] {
        let mut stream = scene.stranger().await;
        // It may close before all is written.
        let _ = soon("room", stream.write_all(octets)).await;
        let _ = stream.shutdown().await;
        let said = until_closed(&mut stream).await;
        let is_plain = !said.windows(6).any(|octets| octets == b"\x05ERROR");
        assert!(is_plain, "libzmq peers do not come back after an ERROR");
        scene.check_unharmed().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_ready_is_closed_and_harms_nobody() {
    let scene = Scene::start().await;
    let long = frame(4, &[&b"\x05READY\x01X"[..], &9000u32.to_be_bytes(), &[b'x'; 9000]].concat());
    for octets in [
        ready("SUB"),
        ready("XYZ"),
        ready(""),
        long,
        frame(4, b"\x05READY\x0BSocket-Type\xFF\xFF\xFF\xFF"),
        frame(4, b"\x05READY\x00\x00\x00\x00\x00"),
        frame(4, b"\x04PING\x00\x00"),
        frame(0, b"a message before READY"),
        long_frame_header(4, u64::MAX),
        vec![0x80; 64],
    ] {
        let mut stream = scene.stranger().await;
        let _ = stream.write_all(&greeting(3, 1, "NULL")).await;
        let _ = soon("room", stream.write_all(&octets)).await;
        until_closed(&mut stream).await;
        scene.check_unharmed().await;
    }
    assert_eq!(scene.node.client().peers().len(), 1, "only the good caller is a peer");
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_of_something_harms_nobody() {
    let scene = Scene::start().await;
    let whole = [greeting(3, 1, "NULL"), ready("DEALER"), message(WITH_RESPONSE, "echo", &[7; 300])].concat();
    // They stay open, and some of them are cut.
    let mut held = Vec::new();
    for cut in [0, 1, 10, 11, 63, 64, 65, 80, whole.len() - 310, whole.len() - 300, whole.len() - 1] {
        let mut stream = scene.stranger().await;
        stream.write_all(&whole[..cut]).await.unwrap();
        held.push(stream);
        let mut stream = scene.stranger().await;
        stream.write_all(&whole[..cut]).await.unwrap();
        drop(stream);
        scene.check_unharmed().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_messages_in_pieces_of_any_size_are_answered() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    let octets = message(WITH_RESPONSE, "echo", &[9; 300]);
    for piece in [1, 2, 3, 7, 64, 255] {
        for part in octets.chunks(piece) {
            foreign.send(part).await;
            foreign.stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        assert_eq!(foreign.reply().await, (RESPONSE, 0, ID, vec![9; 300]));
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_a_header_is_told_and_the_link_lives() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    let broken = |at: usize, octet: u8| {
        let mut header = header(WITH_RESPONSE, "echo");
        header[at] = octet;
        header
    };
    for (wrong, code) in [
        (broken(0, 2), 1),    // version
        (broken(1, 0), 1),    // kind
        (broken(1, 200), 1),  // kind
        (broken(2, 5), 1),    // mode
        (broken(3, 0x80), 1), // must-understand
        (broken(4, 9), 1),    // codec
        (broken(5, 0), 1),    // no name
        (broken(5, 9), 1),    // name cut off
        (broken(6, 17), 1),   // depth
        (header(WITH_RESPONSE, "nobody"), 2),
    ] {
        foreign.send(&frame(0, &wrong)).await;
        foreign.check_nack(code).await;
    }
    // More frames than a message has, and no envelope.
    foreign.send(&[frame(1, &header(WITH_RESPONSE, "echo")), frame(1, b"a"), frame(0, b"b")].concat()).await;
    foreign.check_nack(1).await;
    foreign.check_alive().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_answered_is_ignored_and_the_link_lives() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    for ignored in [
        frame(0, b"short"),
        frame(0, b""),
        frame(0, &[1; 15]),
        frame(0, br#"{"handler":"sum","id":7}"#),
        frame(0, &header(0, "nobody")),
        [frame(1, b"short"), frame(1, b"x"), frame(0, b"y")].concat(),
        frame(4, b"\x07UNKNOWN"),
    ] {
        foreign.send(&ignored).await;
        foreign.check_alive().await;
    }
    // Answers to nothing that was asked.
    for kind in [2, 3, 4, 5, 6] {
        let mut octets = vec![1, kind, 0, 0, 0, 0, 0, 0];
        octets.extend_from_slice(&ID);
        foreign.send(&frame(0, &octets)).await;
        foreign.check_alive().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envelope_comes_back_as_it_came() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    let hops = [frame(1, b"hop 1"), frame(1, b"hop 2"), frame(1, b"")].concat();
    foreign.send(&[hops, message(WITH_RESPONSE, "echo", b"x")].concat()).await;
    let mut frames = Vec::new();
    loop {
        let (flags, body) = soon("a frame", foreign.frame()).await.unwrap();
        frames.push(body);
        if flags & 1 == 0 {
            break;
        }
    }
    assert_eq!(frames[..3], [&b"hop 1"[..], b"hop 2", b""]);
    assert_eq!((frames[3][1], &frames[4][..]), (RESPONSE, &b"x"[..]));
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_over_the_limit_is_refused_and_the_link_lives() {
    let scene = Scene::start().await;
    let limit = usize::try_from(PAYLOAD_LEN_MAX).unwrap();
    for (socket_type, envelope) in [("DEALER", Vec::new()), ("REQ", frame(1, b""))] {
        let mut foreign = scene.foreign(socket_type).await;
        let longest = vec![5; limit];
        for name in ["echo", "inline_echo"] {
            for over in [1, 100, 3 * limit] {
                let too_long = vec![6; limit + over];
                foreign.send(&[envelope.clone(), message(WITH_RESPONSE, name, &too_long)].concat()).await;
                foreign.check_nack(6).await;
            }
            foreign.send(&[envelope.clone(), message(WITH_RESPONSE, name, &longest)].concat()).await;
            assert_eq!(foreign.reply().await, (RESPONSE, 0, ID, longest.clone()));
        }
        scene.check_unharmed().await;
    }
    // One-way, there is nobody to tell.
    let mut foreign = scene.foreign("DEALER").await;
    foreign.send(&message(0, "echo", &vec![6; limit + 1])).await;
    foreign.check_alive().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_absurd_length_ends_the_link_and_costs_nothing() {
    let scene = Scene::start().await;
    for len in [u64::MAX, 1 << 63, 1 << 40, (1 << 30) + 1 + PAYLOAD_LEN_MAX] {
        let mut foreign = scene.foreign("DEALER").await;
        foreign.send(&frame(1, &header(WITH_RESPONSE, "echo"))).await;
        let _ = foreign.stream.write_all(&long_frame_header(0, len)).await;
        until_closed(&mut foreign.stream).await;
        scene.check_unharmed().await;
    }
    let mut foreign = scene.foreign("DEALER").await;
    let _ = foreign.stream.write_all(&long_frame_header(1, 1 << 40)).await;
    until_closed(&mut foreign.stream).await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endless_messages_end_the_link() {
    let scene = Scene::start().await;
    for part in [frame(1, b""), frame(1, b"x"), frame(1, &[0; 1024])] {
        let mut foreign = scene.foreign("DEALER").await;
        let many = part.repeat(1000);
        let endless = async { while foreign.stream.write_all(&many).await.is_ok() {} };
        soon("the link's end", endless).await;
        scene.check_unharmed().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_reads_its_answers_slows_itself_only() {
    let scene = Scene::start().await;
    for name in ["echo", "inline_echo"] {
        let mut foreign = scene.foreign("DEALER").await;
        let call = message(WITH_RESPONSE, name, &vec![8; 64 * 1024]);
        // Until the node reads no more: then the socket has no room.
        let mut written = 0;
        let flooding = async {
            loop {
                let rest = &call[written % call.len()..];
                let writing = foreign.stream.write(rest);
                match tokio::time::timeout(Duration::from_secs(1), writing).await {
                    Ok(len) => written += len.unwrap(),
                    Err(_) => return,
                }
            }
        };
        soon("the node holds back", flooding).await;
        assert!(written < 512 << 20, "the node has read {written} octets from a peer that reads nothing");
        scene.check_unharmed().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_client_that_ends_its_stream_gets_the_answers_that_were_ready() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    for _ in 0..10 {
        foreign.send(&message(WITH_RESPONSE, "inline_echo", b"last words")).await;
    }
    foreign.stream.shutdown().await.unwrap();
    for _ in 0..10 {
        assert_eq!(foreign.reply().await, (RESPONSE, 0, ID, b"last words".to_vec()));
    }
    assert!(until_closed(&mut foreign.stream).await.is_empty());
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ping_is_answered_by_its_context() {
    let scene = Scene::start().await;
    let mut foreign = scene.foreign("DEALER").await;
    foreign.send(&frame(4, b"\x04PING\x00\x00context")).await;
    let (flags, body) = soon("PONG", foreign.frame()).await.unwrap();
    assert_eq!((flags & 4, &body[..]), (4, &b"\x04PONGcontext"[..]));
    foreign.check_alive().await;
    scene.end().await;
}
