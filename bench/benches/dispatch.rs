//! A message through a whole node without a socket: two nodes in this process, linked in memory, on one thread. What
//! is measured is the sender, both ends of the link, the router, the dispatcher and the handler.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use divan::Bencher;
use divan::counter::ItemsCount;
use dynamo_am::{ActiveMessageManager, Handler, Peer, Raw};
use tokio::runtime::{Builder, Runtime};

/// Messages in a turn of the measurement: below the peer's credit, so that none waits for it.
const BURST_LEN: u64 = 1000;

fn main() {
    divan::main();
}

/// Two linked nodes and what has been handled.
struct Pair {
    runtime: Runtime,
    peer: Peer,
    handled: Arc<AtomicU64>,
    /// Held so that the link lives.
    _nodes: [ActiveMessageManager; 2],
}

impl Pair {
    fn new(handler: impl FnOnce(Arc<AtomicU64>) -> Handler) -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let endpoint = format!("inproc://dispatch-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
        let handled = Arc::new(AtomicU64::new(0));
        let (peer, nodes) = runtime.block_on(async {
            let server = ActiveMessageManager::builder().no_ipc().listen(endpoint.as_str()).start().await;
            let server = server.expect("the server starts");
            server.register(handler(handled.clone())).expect("the name is free");
            let client = ActiveMessageManager::builder().no_ipc().start().await.expect("the client starts");
            let peer = client.client().connect(endpoint.as_str()).await.expect("it is there");
            (peer, [server, client])
        });
        Self { runtime, peer, handled, _nodes: nodes }
    }

    fn send_burst(&self, payload: &Raw) {
        let goal = self.handled.load(Ordering::Relaxed) + BURST_LEN;
        self.runtime.block_on(async {
            for _ in 0..BURST_LEN {
                self.peer.notify("tick", payload).await.expect("it is sent");
            }
            while self.handled.load(Ordering::Relaxed) < goal {
                tokio::task::yield_now().await;
            }
        });
    }
}

fn spawned(handled: Arc<AtomicU64>) -> Handler {
    Handler::message("tick", move |_cx, _payload: Raw| {
        let handled = handled.clone();
        async move {
            handled.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    })
}

fn inline(handled: Arc<AtomicU64>) -> Handler {
    Handler::inline_raw("tick", move |_cx, _payload| {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    })
}

#[divan::bench(args = ["inline", "ordered", "spawned"])]
fn one_way(bencher: Bencher<'_, '_>, kind: &str) {
    let pair = match kind {
        "inline" => Pair::new(inline),
        "ordered" => Pair::new(|handled| spawned(handled).ordered()),
        _ => Pair::new(spawned),
    };
    let payload = Raw::from(vec![0x5a; 64]);
    bencher.counter(ItemsCount::new(BURST_LEN)).bench_local(|| pair.send_burst(&payload));
}

#[divan::bench]
fn call_and_answer(bencher: Bencher<'_, '_>) {
    let pair = Pair::new(|_| Handler::inline_raw("echo", |_cx, payload| Ok(payload.to_raw())));
    let payload = Raw::from(vec![0x5a; 64]);
    bencher.counter(ItemsCount::new(1_usize)).bench_local(|| {
        let echoed = pair.runtime.block_on(pair.peer.call::<Raw>("echo", &payload));
        echoed.expect("it is answered").len()
    });
}
