//! What messages cost in memory, by an allocator that counts: a small one allocates nothing, and payloads are not
//! copied between the user's `Bytes` and the socket, nor between the receive buffer and the handler.
//!
//! The counters are the process's, so the tests take turns.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use common::{end, soon, until};
use dynamo_am::{ActiveMessageManager, Handler, InlineContext, Limits, Peer, Raw};
use dynamo_am_alloc_count::{Counting, Counts, counts, set_large_len};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Held by the test whose turn it is.
fn my_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn block_on<T>(test: impl Future<Output = T>) -> T {
    let builder = &mut tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(test)
}

/// Two nodes in this process, linked by tcp or ipc.
struct Two {
    server: ActiveMessageManager,
    node: ActiveMessageManager,
    peer: Peer,
}

impl Two {
    async fn start(endpoint: &str, handler: Handler) -> Self {
        let server = ActiveMessageManager::builder().listen(endpoint).no_ipc().start().await.unwrap();
        server.register(handler).unwrap();
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let peer = soon("connect", node.client().connect(&server.endpoints()[0])).await.unwrap();
        Self { server, node, peer }
    }

    async fn end(self) {
        end([self.node, self.server]).await;
    }
}

/// Sends `count` messages and waits until `seen` has counted them.
async fn send(peer: &Peer, payload: &(impl dynamo_am::Encode + ?Sized), count: u64, seen: &AtomicU64) {
    let goal = seen.load(Ordering::Relaxed) + count;
    for _ in 0..count {
        soon("room", peer.notify("take", payload)).await.unwrap();
    }
    until("all have come", || seen.load(Ordering::Relaxed) == goal).await;
}

/// What `count` messages cost after as many that are not counted; the handler only counts them.
async fn cost(endpoint: &str, payload: &(impl dynamo_am::Encode + ?Sized), count: u64) -> Counts {
    let seen = Arc::new(AtomicU64::new(0));
    let counter = seen.clone();
    let take = Handler::inline_raw("take", move |_cx: &InlineContext<'_>, _payload| {
        counter.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let two = Two::start(endpoint, take).await;
    send(&two.peer, payload, count, &seen).await;
    let before = counts();
    send(&two.peer, payload, count, &seen).await;
    let cost = counts().since(before);
    two.end().await;
    cost
}

#[test]
fn a_small_one_way_message_allocates_nothing_at_either_end() {
    let _turn = my_turn();
    const COUNT: u64 = 100_000;
    for endpoint in ["tcp://127.0.0.1:0", "ipc://*"] {
        let raw = block_on(cost(endpoint, &Raw::from(vec![7u8; 64]), COUNT));
        assert!(raw.allocations < COUNT / 20, "{raw:?} for {COUNT} raw messages by {endpoint}");
        let typed = block_on(cost(endpoint, &[7u64; 7], COUNT));
        assert!(typed.allocations < COUNT / 20, "{typed:?} for {COUNT} typed messages by {endpoint}");
    }
}

#[test]
fn an_inline_handlers_payload_is_not_copied_whatever_its_length() {
    let _turn = my_turn();
    const COUNT: u64 = 1000;
    for len in [KIB, 8 * KIB, 15 * KIB, 16 * KIB, 32 * KIB, 48 * KIB] {
        set_large_len(len);
        let cost = block_on(cost("tcp://127.0.0.1:0", &Raw::from(vec![7u8; len]), COUNT));
        // Buffers still grow and are replaced now and then. A long payload at the end of a chunk, of which there are
        // a quarter to three quarters, is read into a buffer of its own; a copy for each would come on top.
        let allowed = if len < 16 * KIB { COUNT / 5 } else { COUNT * 9 / 10 };
        assert!(cost.large < allowed, "{cost:?} for {COUNT} payloads of {len} octets");
    }
}

#[test]
fn a_payload_longer_than_the_receive_chunk_has_one_buffer_from_socket_to_handler() {
    let _turn = my_turn();
    const COUNT: u64 = 100;
    for len in [100 * KIB, MIB] {
        set_large_len(len / 2);
        let cost = block_on(cost("tcp://127.0.0.1:0", &Raw::from(vec![7u8; len]), COUNT));
        assert!(cost.large <= COUNT + COUNT / 20, "{cost:?} for {COUNT} payloads of {len} octets");
    }
}

/// A greeting and a READY.
fn hello(properties: &[u8]) -> Vec<u8> {
    let mut hello = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1];
    hello.extend_from_slice(b"NULL");
    hello.resize(64, 0);
    // A long frame with a command: as good as a short one.
    hello.push(6);
    hello.extend_from_slice(&(properties.len() as u64 + 6).to_be_bytes());
    hello.extend_from_slice(b"\x05READY");
    hello.extend_from_slice(properties);
    hello
}

fn list(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in properties {
        list.push(u8::try_from(name.len()).unwrap());
        list.extend_from_slice(name.as_bytes());
        list.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
        list.extend_from_slice(value);
    }
    list
}

/// What one of our own nodes says that takes everything and never asks for a pause.
fn insatiable() -> Vec<u8> {
    list(&[
        ("Socket-Type", b"ROUTER"),
        ("Identity", &[0x5D; 16]),
        ("X-AM-Version", b"1"),
        ("X-AM-Incarnation", &[1; 16]),
        ("X-AM-Host", b"elsewhere"),
        ("X-AM-Max-Message", b"1000000000000"),
        ("X-AM-Credit", b"1000000000,1000000000000"),
    ])
}

/// A socket that takes messages and says nothing, with these properties in its READY. Reads into one buffer, so it
/// costs nothing.
fn taker(octets: Arc<AtomicUsize>, properties: Vec<u8>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(&hello(&properties)).unwrap();
        let mut buffer = vec![0; 256 * KIB];
        while let Ok(len @ 1..) = stream.read(&mut buffer) {
            octets.fetch_add(len, Ordering::Relaxed);
        }
    });
    endpoint
}

#[test]
fn the_senders_bytes_are_not_copied_on_their_way_to_the_socket() {
    let _turn = my_turn();
    const COUNT: usize = 100;
    set_large_len(16 * KIB);
    for to_own_node in [false, true] {
        // To one of our own, what is longer than 1 MiB goes in parts.
        for len in [16 * KIB, 64 * KIB, MIB, 8 * MIB] {
            let octets = Arc::new(AtomicUsize::new(0));
            let properties = if to_own_node { insatiable() } else { list(&[("Socket-Type", b"ROUTER")]) };
            let at = taker(octets.clone(), properties);
            let cost = block_on(async {
                // The taker sends no heartbeats.
                let patient = Limits { silence_max: Duration::from_secs(3600), ..Limits::default() };
                let node = ActiveMessageManager::builder().limits(patient).start().await.unwrap();
                let client = node.client();
                let peer = match to_own_node {
                    true => soon("connect", client.connect(at)).await.unwrap(),
                    false => soon("connect", client.connect_foreign(at)).await.unwrap(),
                };
                let payload = Raw::from(vec![7u8; len]);
                // One after the other: what waits for room is another test's matter.
                let send = async |count: usize| {
                    for _ in 0..count {
                        let goal = octets.load(Ordering::Relaxed) + len;
                        soon("room", peer.notify("take", &payload)).await.unwrap();
                        until("it has come", || octets.load(Ordering::Relaxed) >= goal).await;
                    }
                };
                send(COUNT / 10).await;
                let before = counts();
                send(COUNT).await;
                let cost = counts().since(before);
                drop(node);
                cost
            });
            assert!(
                cost.large < COUNT as u64 / 20,
                "{cost:?} for {COUNT} payloads of {len} octets, to an own node: {to_own_node}"
            );
        }
    }
}

/// A foreign client that asks for answers, one after the other, and reads them into one buffer: it costs nothing.
struct Asker {
    stream: std::net::TcpStream,
    buffer: Vec<u8>,
    request: Vec<u8>,
}

/// A request with response, as a frame of its own that `more` follow.
fn request(handler: &str, more: bool) -> Vec<u8> {
    let name_len = u8::try_from(handler.len()).unwrap();
    let mut frame = vec![more.into(), 16 + name_len, 1, 1, 2, 0, 0, name_len, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    frame.extend_from_slice(handler.as_bytes());
    frame
}

impl Asker {
    fn connect(node: &ActiveMessageManager, socket_type: &str, request: Vec<u8>, answer_len: usize) -> Self {
        let at = node.endpoints()[0].to_string();
        let mut stream = std::net::TcpStream::connect(at.trim_start_matches("tcp://")).unwrap();
        stream.write_all(&hello(&list(&[("Socket-Type", socket_type.as_bytes())]))).unwrap();
        let mut asker = Self { stream, buffer: vec![0; answer_len + KIB], request };
        asker.stream.read_exact(&mut asker.buffer[..64]).unwrap();
        asker
    }

    /// Reads a frame into the buffer; gives its flags and length.
    fn read_frame(&mut self) -> (u8, usize) {
        let mut flags = [0];
        self.stream.read_exact(&mut flags).unwrap();
        let mut len = [0; 8];
        let is_long = flags[0] & 2 != 0;
        self.stream.read_exact(&mut len[if is_long { 0 } else { 7 }..]).unwrap();
        let len = usize::try_from(u64::from_be_bytes(len)).unwrap();
        self.stream.read_exact(&mut self.buffer[..len]).unwrap();
        (flags[0], len)
    }

    /// Asks, and gives the answer's length and kind.
    fn ask(&mut self) -> (usize, u8) {
        self.stream.write_all(&self.request).unwrap();
        self.answer()
    }

    /// The next answer's length and kind.
    fn answer(&mut self) -> (usize, u8) {
        let mut kind = 0;
        loop {
            let (flags, len) = self.read_frame();
            let (is_command, is_last) = (flags & 4 != 0, flags & 1 == 0);
            match (is_command, kind) {
                (true, _) => {}
                (false, 0) if len >= 16 => {
                    kind = self.buffer[1];
                    if is_last {
                        return (0, kind);
                    }
                }
                // What stands in front of the header.
                (false, 0) => {}
                (false, _) => return (len, kind),
            }
        }
    }
}

#[test]
fn a_handlers_bytes_are_not_copied_on_their_way_to_the_socket() {
    let _turn = my_turn();
    const COUNT: u64 = 100;
    const RESPONSE: u8 = 4;
    set_large_len(16 * KIB);
    for len in [16 * KIB, 64 * KIB, MIB, 8 * MIB] {
        let payload = Raw::from(vec![7u8; len]);
        let [a, b] = [payload.clone(), payload];
        let handlers = [
            Handler::inline("inline", move |_cx, (): ()| Ok(a.clone())),
            Handler::unary("unary", move |_cx, (): ()| std::future::ready(Ok(b.clone()))),
        ];
        for handler in handlers {
            let name = handler.name().to_owned();
            let cost = block_on(async {
                let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc();
                let node = node.start().await.unwrap();
                node.register(handler).unwrap();
                let mut asker = Asker::connect(&node, "DEALER", request(&name, false), len);
                let mut ask = |count: u64| (0..count).for_each(|_| assert_eq!(asker.ask(), (len, RESPONSE)));
                ask(COUNT / 10);
                let before = counts();
                ask(COUNT);
                let cost = counts().since(before);
                drop(node);
                cost
            });
            assert!(cost.large < COUNT / 20, "{cost:?} for {COUNT} answers of {len} octets by `{name}`");
        }
    }
}

#[test]
fn an_inline_handlers_payload_stands_where_it_was_received() {
    let _turn = my_turn();
    const COUNT: usize = 1000;
    for len in [64, KIB, 8 * KIB, 16 * KIB] {
        let places = Arc::new(Mutex::new(Vec::with_capacity(COUNT)));
        let seen = Arc::new(AtomicU64::new(0));
        let (all, counter) = (places.clone(), seen.clone());
        let take = Handler::inline_raw("take", move |_cx: &InlineContext<'_>, payload| {
            all.lock().unwrap().push(payload.as_ptr() as usize);
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        block_on(async {
            let two = Two::start("tcp://127.0.0.1:0", take).await;
            send(&two.peer, &Raw::from(vec![7u8; len]), COUNT as u64, &seen).await;
            two.end().await;
        });
        // In a chunk, a payload is followed by two frames' heads and the next message's header; a copy would stand at
        // the place of the one before it, or anywhere.
        let between = 2 + (16 + "take".len()) + if len < 256 { 2 } else { 9 };
        let places = places.lock().unwrap();
        let neighbours = places.windows(2).filter(|pair| pair[1] == pair[0] + len + between).count();
        assert!(
            neighbours >= COUNT / 4,
            "{neighbours} of {COUNT} payloads of {len} octets stand side by side"
        );
    }
}

#[test]
fn a_foreign_clients_payload_stands_where_it_was_received_with_an_envelope_too() {
    let _turn = my_turn();
    const ROUNDS: usize = 100;
    // As many as a chunk holds.
    const AT_ONCE: usize = 3;
    for len in [8 * KIB, 20 * KIB] {
        for (socket_type, envelope) in [("DEALER", &[][..]), ("REQ", &[1, 0])] {
            let places = Arc::new(Mutex::new(Vec::with_capacity(ROUNDS * AT_ONCE)));
            let all = places.clone();
            let take = Handler::inline_raw("take", move |_cx: &InlineContext<'_>, payload| {
                all.lock().unwrap().push(payload.as_ptr() as usize);
                Ok(())
            });
            let mut message = envelope.to_vec();
            message.extend_from_slice(&request("take", true));
            message.push(2);
            message.extend_from_slice(&(len as u64).to_be_bytes());
            message.resize(message.len() + len, 7);
            let message_len = message.len();
            block_on(async {
                let node = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").no_ipc();
                let node = node.start().await.unwrap();
                node.register(take).unwrap();
                let mut asker = Asker::connect(&node, socket_type, message.repeat(AT_ONCE), KIB);
                for _ in 0..ROUNDS {
                    asker.ask();
                    for _ in 1..AT_ONCE {
                        asker.answer();
                    }
                }
                drop(node);
            });
            let places = places.lock().unwrap();
            let neighbours = places.windows(2).filter(|pair| pair[1] == pair[0] + message_len).count();
            assert!(
                neighbours >= ROUNDS / 2,
                "{neighbours} of {} payloads of {len} octets from a {socket_type} stand side by side",
                places.len()
            );
        }
    }
}

#[test]
fn a_spawned_handlers_payload_of_16_kib_and_more_is_a_slice_of_the_receive_chunk() {
    let _turn = my_turn();
    const LEN: usize = 16 * KIB;
    const COUNT: usize = 200;
    let (kept, mut payloads) = tokio::sync::mpsc::channel(COUNT);
    block_on(async {
        let take = Handler::message("take", move |_cx, payload: Raw| {
            let kept = kept.clone();
            async move { kept.try_send(payload).map_err(Into::into) }
        })
        .ordered();
        let two = Two::start("tcp://127.0.0.1:0", take).await;
        let payload = Raw::from(vec![7u8; LEN]);
        let mut places = Vec::new();
        let mut held = Vec::new();
        for _ in 0..COUNT {
            soon("room", two.peer.notify("take", &payload)).await.unwrap();
        }
        for _ in 0..COUNT {
            let payload: Raw = soon("a payload", payloads.recv()).await.unwrap();
            places.push(payload.as_ptr() as usize);
            held.push(payload);
        }
        // In a chunk, a payload is followed by two frames' heads and the next message's header.
        let between = 2 + (16 + "take".len()) + 9;
        let neighbours = places.windows(2).filter(|pair| pair[1] == pair[0] + LEN + between).count();
        assert!(neighbours >= COUNT / 4, "{neighbours} of {COUNT} payloads stand where they were received");
        drop(held);
        two.end().await;
    });
}

#[test]
fn a_message_costs_no_more_when_many_peers_are_known() {
    let _turn = my_turn();
    const COUNT: u64 = 20_000;
    block_on(async {
        let seen = Arc::new(AtomicU64::new(0));
        let counter = seen.clone();
        let take = Handler::inline_raw("take", move |_cx: &InlineContext<'_>, _payload| {
            counter.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        let two = Two::start("tcp://127.0.0.1:0", take).await;
        let mut others = Vec::new();
        for _ in 0..100 {
            let other = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
            soon("connect", other.client().connect(&two.server.endpoints()[0])).await.unwrap();
            others.push(other);
        }
        let payload = Raw::from(vec![7u8; 64]);
        send(&two.peer, &payload, COUNT, &seen).await;
        let before = counts();
        send(&two.peer, &payload, COUNT, &seen).await;
        let cost = counts().since(before);
        assert!(cost.allocations < COUNT / 10, "{cost:?} for {COUNT} messages among a hundred peers");
        drop(others);
        two.end().await;
    });
}
