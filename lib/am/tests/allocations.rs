//! What messages cost in memory, by an allocator that counts: a small one allocates nothing, and payloads are not
//! copied between the user's `Bytes` and the socket, nor between the receive buffer and the handler.
//!
//! The counters are the process's, so the tests take turns.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use common::{end, soon, until};
use dynamo_am::{ActiveMessageManager, Handler, InlineContext, Peer, Raw};
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

/// A socket that takes messages and says nothing, as a ROUTER would. Reads into one buffer, so it costs nothing.
fn taker(octets: Arc<AtomicUsize>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut greeting = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1];
        greeting.extend_from_slice(b"NULL");
        greeting.resize(64, 0);
        stream.write_all(&greeting).unwrap();
        stream.write_all(b"\x04\x1C\x05READY\x0BSocket-Type\x00\x00\x00\x06ROUTER").unwrap();
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
    for len in [16 * KIB, 64 * KIB, MIB, 8 * MIB] {
        let octets = Arc::new(AtomicUsize::new(0));
        let at = taker(octets.clone());
        let cost = block_on(async {
            let node = ActiveMessageManager::builder().start().await.unwrap();
            let peer = soon("connect", node.client().connect_foreign(at)).await.unwrap();
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
            end([node]).await;
            cost
        });
        assert!(cost.large < COUNT as u64 / 20, "{cost:?} for {COUNT} payloads of {len} octets");
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
