//! Fairness between links: peers that flood a node as fast as they may are heard about as much as each other.
//!
//! It ends by a count, not by time, so a slow machine changes nothing.

#![allow(clippy::unwrap_used, reason = "test helpers fail by panicking; clippy exempts only test functions")]
#![expect(clippy::print_stdout, reason = "the figure is worth seeing")]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, Handler, InstanceId, Raw};
use tokio::sync::oneshot;

const LINKS: usize = 16;
/// Each link must have been heard so often before counting begins, so that all are at it.
const WARM_COUNT: u64 = 500;
/// Messages of all links together that are counted: many times what credit lets one link have under way.
const COUNTED: u64 = 400_000;
/// The least that a link may get of an equal share.
const LEAST_SHARE: f64 = 0.25;

/// Messages handled by link; tells what was counted when it is enough.
struct Shares {
    handled: HashMap<InstanceId, u64>,
    /// What had been handled when all links were at it.
    before: Option<HashMap<InstanceId, u64>>,
    counted: u64,
    done: Option<oneshot::Sender<Vec<u64>>>,
}

impl Shares {
    fn count(&mut self, sender: InstanceId) {
        *self.handled.entry(sender).or_default() += 1;
        let Some(before) = &self.before else {
            if self.handled.len() == LINKS && self.handled.values().all(|count| *count >= WARM_COUNT) {
                self.before = Some(self.handled.clone());
            }
            return;
        };
        self.counted += 1;
        if self.counted == COUNTED
            && let Some(done) = self.done.take()
        {
            // Nobody listens any more when the test has failed, which says why itself.
            let _ = done.send(self.handled.iter().map(|(id, count)| count - before[id]).collect());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_flooding_link_is_starved_by_the_others() {
    let (done, is_done) = oneshot::channel();
    let shares = Shares { handled: HashMap::new(), before: None, counted: 0, done: Some(done) };
    let shares = Arc::new(Mutex::new(shares));
    let server = ActiveMessageManager::builder().no_ipc().listen("tcp://127.0.0.1:0").start().await.unwrap();
    let counted = shares.clone();
    let tick = Handler::inline_raw("tick", move |cx, _payload| {
        counted.lock().unwrap().count(cx.sender().instance_id());
        Ok(())
    });
    server.register(tick).unwrap();
    let address = server.endpoints().first().unwrap().to_string();
    let mut floods = Vec::new();
    for _ in 0..LINKS {
        let node = ActiveMessageManager::builder().no_ipc().start().await.unwrap();
        let peer = node.client().connect(&address).await.unwrap();
        floods.push(tokio::spawn(async move {
            let payload = Raw::from(vec![0x5a; 64]);
            // Ends with the task, or with the server.
            while peer.notify("tick", &payload).await.is_ok() {
                tokio::task::coop::consume_budget().await;
            }
            drop(node);
        }));
    }
    let counts =
        tokio::time::timeout(Duration::from_secs(120), is_done).await.expect("floods stall").unwrap();
    floods.iter().for_each(tokio::task::JoinHandle::abort);
    let equal = COUNTED as f64 / LINKS as f64;
    let least = counts.iter().copied().min().unwrap() as f64 / equal;
    let most = counts.iter().copied().max().unwrap() as f64 / equal;
    println!("of {LINKS} flooding links the least got {least:.2} of an equal share, and the most {most:.2}");
    assert!(least >= LEAST_SHARE, "{counts:?}");
}
