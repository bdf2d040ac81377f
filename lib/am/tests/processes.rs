//! Nodes in processes of their own: many clients, many calls, big payloads, and processes that die.
//!
//! This program starts itself again: with a role in its environment, [`as_another_process`] is a node. Such a
//! process ends with its parent, whose end of its standard input it watches.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests; the lint sees only `#[test]` itself")]

mod common;

use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::{PATIENCE, caller, soon, until};
use dynamo_am::{
    ActiveMessageManager, CallError, Handler, HandlerError, InstanceId, Limits, LinkEvent, Peer, Raw,
    ShutdownPolicy,
};
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

const ROLE: &str = "DYNAMO_AM_TEST_ROLE";
const ENDPOINT: &str = "DYNAMO_AM_TEST_ENDPOINT";
const IDENTITY: &str = "DYNAMO_AM_TEST_IDENTITY";
/// Lines meant for the parent begin so; the test harness prints others, and before them on the same line.
const WORD: &str = "told: ";

const MIB: usize = 1 << 20;

/// Calls that a client process makes.
const CALLS: i64 = 500;

/// Another process of this program. Killed when dropped.
struct Process {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Process {
    fn start(role: &str, more: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "as_another_process", "--nocapture", "--test-threads=1"])
            .env(ROLE, role)
            .envs(more.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// A server on a free port; gives its endpoint as well.
    async fn server() -> (Self, String) {
        let mut server = Self::start("server", &[(ENDPOINT, "tcp://127.0.0.1:0")]);
        let endpoint = server.word().await;
        (server, endpoint)
    }

    /// The next line meant for us.
    async fn word(&mut self) -> String {
        soon("a word of another process", async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the process has ended");
                if let Some((_, word)) = line.split_once(WORD) {
                    return word.to_owned();
                }
            }
        })
        .await
    }

    /// As kill -9.
    async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends a signal by name.
    async fn signal(&self, name: &str) {
        let pid = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().await.unwrap().success());
    }
}

#[test]
fn as_another_process() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        match role.as_str() {
            "server" => be_server().await,
            "client" => be_client().await,
            "waiting client" => be_waiting_client().await,
            other => panic!("no role `{other}`"),
        }
    });
    // What waits on standard input would keep the runtime.
    runtime.shutdown_background();
}

#[allow(clippy::print_stdout, reason = "the parent reads it")]
fn tell(word: impl std::fmt::Display) {
    println!("\n{WORD}{word}");
}

async fn be_server() {
    let mut builder = ActiveMessageManager::builder()
        .listen(std::env::var(ENDPOINT).unwrap())
        .allow_shutdown(ShutdownPolicy::Local);
    if let Ok(identity) = std::env::var(IDENTITY) {
        builder = builder.identity(identity.parse().unwrap());
    }
    let node = builder.start().await.unwrap();
    let octets = Arc::new(AtomicU64::new(0));
    let counter = octets.clone();
    let meeting = Arc::new(tokio::sync::Barrier::new(800));
    for handler in [
        Handler::inline("square", |_cx, n: i64| Ok(n * n)),
        Handler::unary("echo", |_cx, payload: Raw| async move { Ok(payload) }),
        Handler::inline_raw("measure", |_cx, payload| {
            Ok((payload.len(), payload.first().copied(), payload.last().copied()))
        }),
        Handler::inline_raw("sink", move |_cx, payload| {
            counter.fetch_add(payload.len() as u64, Ordering::Relaxed);
            Ok(())
        }),
        Handler::inline("sunk", move |_cx, (): ()| Ok(octets.load(Ordering::Relaxed))),
        Handler::unary("meet", move |_cx, n: i64| {
            let meeting = meeting.clone();
            async move {
                meeting.wait().await;
                Ok(n)
            }
        }),
        Handler::unary("forever", |_cx, (): ()| std::future::pending::<Result<(), HandlerError>>()),
    ] {
        node.register(handler).unwrap();
    }
    tell(&node.endpoints()[0]);
    let mut input = tokio::io::stdin();
    tokio::select! {
        request = node.shutdown_requested() => {
            node.shutdown().await.unwrap();
            tell(format_args!("asked by {}", request.by));
        }
        _ = input.read_u8() => {}
    }
}

async fn be_client() {
    let node = caller().await;
    let peer = node.client().connect(std::env::var(ENDPOINT).unwrap()).await.unwrap();
    let mut calls = FuturesUnordered::new();
    for n in 0..CALLS {
        if calls.len() >= 32 {
            check_square(calls.next().await);
        }
        let peer = peer.clone();
        calls.push(async move { (n, peer.call::<i64>("square", &n).await) });
    }
    while let Some(answer) = calls.next().await {
        check_square(Some(answer));
    }
    node.shutdown().await.unwrap();
    tell("done");
}

/// Calls a handler that has no end, and is there until it is killed.
async fn be_waiting_client() {
    let node = caller().await;
    let peer = node.client().connect(std::env::var(ENDPOINT).unwrap()).await.unwrap();
    let mut input = tokio::io::stdin();
    tokio::select! {
        answer = peer.call::<()>("watched", &()) => panic!("no answer was due: {answer:?}"),
        _ = input.read_u8() => {}
    }
}

fn check_square(answer: Option<(i64, Result<i64, CallError>)>) {
    let (n, squared) = answer.unwrap();
    assert_eq!(squared, Ok(n * n));
}

async fn linked(endpoint: &str) -> (ActiveMessageManager, Peer) {
    let node = caller().await;
    let peer = soon("connect", node.client().connect(endpoint)).await.unwrap();
    (node, peer)
}

/// Nodes with these limits never take silence for an end: what they notice they were told by the system.
fn patient_with_silence() -> Limits {
    Limits { silence_max: Duration::from_secs(3600), ..Limits::default() }
}

#[tokio::test]
async fn eight_clients_at_once_get_their_answers() {
    let (_server, endpoint) = Process::server().await;
    let mut clients: Vec<_> = (0..8).map(|_| Process::start("client", &[(ENDPOINT, &endpoint)])).collect();
    for client in &mut clients {
        assert_eq!(client.word().await, "done");
        assert!(soon("a client's end", client.child.wait()).await.unwrap().success());
    }
}

#[tokio::test]
async fn eight_hundred_calls_at_once_get_their_answers() {
    let (_server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    // Their handlers wait for each other, so all of them must be running.
    let calls = (0..800).map(|n| {
        let peer = peer.clone();
        async move { peer.call::<i64>("meet", &n).await }
    });
    let answers = soon("800 answers", futures::future::join_all(calls)).await;
    assert_eq!(answers, (0..800).map(Ok).collect::<Vec<_>>());
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_in_mebibytes_arrives_whole() {
    let (_server, endpoint) = Process::server().await;
    for with_ipc in [false, true] {
        let builder = ActiveMessageManager::builder();
        let builder = if with_ipc { builder } else { builder.no_ipc() };
        let node = builder.start().await.unwrap();
        let peer = soon("connect", node.client().connect(endpoint.as_str())).await.unwrap();
        let mut calls = FuturesUnordered::new();
        let mut measured = 0;
        for n in 0..1024usize {
            if calls.len() >= 8 {
                measured += check_measure(soon("an answer", calls.next()).await);
            }
            let peer = peer.clone();
            let first = u8::try_from(n % 251).unwrap();
            let mut payload = vec![first; MIB];
            payload[MIB - 1] = first ^ 0xFF;
            let payload = Raw::from(payload);
            calls.push(async move { (first, peer.call::<Measure>("measure", &payload).await) });
        }
        while let Some(answer) = soon("an answer", calls.next()).await {
            measured += check_measure(Some(answer));
        }
        assert_eq!(measured, 1024 * MIB);
        node.shutdown().await.unwrap();
    }
}

type Measure = (usize, Option<u8>, Option<u8>);

fn check_measure(answer: Option<(u8, Result<Measure, CallError>)>) -> usize {
    let (first, measured) = answer.unwrap();
    let (len, seen_first, seen_last) = measured.unwrap();
    assert_eq!((len, seen_first, seen_last), (MIB, Some(first), Some(first ^ 0xFF)));
    len
}

#[tokio::test]
async fn one_way_mebibytes_wait_for_credit_and_arrive_whole() {
    let (_server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    let payload = Raw::from(vec![7u8; MIB]);
    for _ in 0..128 {
        soon("room", peer.notify("sink", &payload)).await.unwrap();
    }
    let sunk: u64 = soon("an answer", peer.call("sunk", &())).await.unwrap();
    assert_eq!(sunk, 128 * MIB as u64);
    node.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn empty_and_longest_payloads_travel_both_ways() {
    let (_server, endpoint) = Process::server().await;
    for with_ipc in [false, true] {
        let builder = ActiveMessageManager::builder();
        let builder = if with_ipc { builder } else { builder.no_ipc() };
        let node = builder.start().await.unwrap();
        let peer = soon("connect", node.client().connect(endpoint.as_str())).await.unwrap();
        let mut longest = vec![0u8; 64 * MIB];
        for (place, octet) in longest.iter_mut().enumerate().step_by(4096) {
            *octet = u8::try_from(place / 4096 % 251).unwrap();
        }
        for payload in [Raw::default(), Raw::from(longest)] {
            let echoed: Raw = soon("an echo", peer.call("echo", &payload)).await.unwrap();
            assert!(echoed == payload, "{echoed:?} came back for {payload:?}");
        }
        node.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn small_calls_pass_between_the_parts_of_big_payloads() {
    let (_server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    let big = Raw::from(vec![3u8; 48 * MIB]);
    let echo = peer.call::<Raw>("echo", &big);
    let mut echo = std::pin::pin!(echo);
    let mut answered_before = 0;
    let echoed = soon("the big one", async {
        loop {
            tokio::select! {
                biased;
                echoed = &mut echo => return echoed,
                answer = peer.call::<i64>("square", &3) => {
                    assert_eq!(answer, Ok(9));
                    answered_before += 1;
                }
            }
        }
    })
    .await;
    assert_eq!(echoed.unwrap().len(), big.len());
    assert!(answered_before > 0, "the small calls waited for the big one");
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_payload_over_the_limit_is_a_clear_error_and_the_link_lives() {
    let (_server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    let too_long = Raw::from(vec![0u8; 64 * MIB + 1]);
    let error = soon("an error", peer.call::<Raw>("echo", &too_long)).await.unwrap_err();
    assert!(matches!(error, CallError::NotSent { transient: false, .. }), "{error}");
    assert!(error.to_string().contains(&(64 * MIB).to_string()), "the limit is named: {error}");
    assert_eq!(soon("an answer", peer.call::<i64>("square", &4)).await, Ok(16));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_killed_server_fails_its_pending_calls_at_once() {
    for with_ipc in [false, true] {
        check_that_a_kill_fails_pending_calls(with_ipc).await;
    }
}

async fn check_that_a_kill_fails_pending_calls(with_ipc: bool) {
    let (server, endpoint) = Process::server().await;
    let builder = ActiveMessageManager::builder().limits(patient_with_silence());
    let builder = if with_ipc { builder } else { builder.no_ipc() };
    let node = builder.start().await.unwrap();
    let peer = soon("connect", node.client().connect(endpoint.as_str())).await.unwrap();
    let client = node.client();
    let mut events = client.link_events();
    let mut pending = Vec::new();
    for _ in 0..10 {
        let sent = client.active_message("forever").with_receipt().expect_response::<()>();
        let (_receipt, answer) = soon("a receipt", sent.send(&peer).await.unwrap().receipt()).await.unwrap();
        pending.push(answer);
    }
    server.kill().await;
    for answer in pending {
        let error = soon("the loss", answer.response()).await.unwrap_err();
        assert!(matches!(error, CallError::PeerLost { maybe_executed: true, .. }), "{error}");
    }
    let down = soon("an event", events.next()).await.unwrap();
    assert!(matches!(down, LinkEvent::Down { peer: lost, .. } if lost == peer.instance_id()), "{down:?}");
    // Nobody is there: a call waits for the link until its deadline, and was not sent.
    let late = client.active_message("square").payload(&3).deadline(Duration::from_millis(100));
    let error = soon("the deadline", late.confirmed().send(&peer)).await.map(drop).unwrap_err();
    assert!(error.is_retry_safe() && error.is_transient(), "{error}");
    soon("shutdown", node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_killed_client_is_forgotten_and_what_it_asked_for_is_cancelled() {
    let node = ActiveMessageManager::builder()
        .listen("tcp://127.0.0.1:0")
        .limits(patient_with_silence())
        .start()
        .await
        .unwrap();
    let (told, mut seen) = tokio::sync::mpsc::channel(4);
    node.register(Handler::unary("watched", move |cx, (): ()| {
        let told = told.clone();
        async move {
            let _ = told.try_send("runs");
            cx.cancelled().await;
            let _ = told.try_send("cancelled");
            Ok(())
        }
    }))
    .unwrap();
    let client = Process::start("waiting client", &[(ENDPOINT, &node.endpoints()[0].to_string())]);
    assert_eq!(soon("the start", seen.recv()).await, Some("runs"));
    assert_eq!(node.client().peers().len(), 1);
    client.kill().await;
    assert_eq!(soon("the cancellation", seen.recv()).await, Some("cancelled"));
    until("it is forgotten", || node.client().peers().is_empty()).await;
    soon("shutdown", node.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_call_made_while_the_server_restarts_waits_for_it() {
    let directory = tempfile::tempdir().unwrap();
    // The second finds the socket that the killed one has left.
    let path = format!("ipc://{}", directory.path().join("server.sock").display());
    for listen in ["tcp://127.0.0.1:0", &path] {
        check_a_call_during_a_restart(listen).await;
    }
}

async fn check_a_call_during_a_restart(listen: &str) {
    let identity = "5d1c4f2e-9f1f-4c3a-8a0e-0b6f5d6a7c11".parse::<InstanceId>().unwrap().to_string();
    let mut server = Process::start("server", &[(ENDPOINT, listen), (IDENTITY, identity.as_str())]);
    let endpoint = server.word().await;
    let (node, peer) = linked(&endpoint).await;
    server.kill().await;
    until("the loss is noticed", || !peer.is_connected()).await;
    let waiting = peer.clone();
    let call = tokio::spawn(async move { waiting.call::<i64>("square", &5).await });
    let mut restarted = Process::start("server", &[(ENDPOINT, &endpoint), (IDENTITY, identity.as_str())]);
    assert_eq!(restarted.word().await, endpoint);
    assert_eq!(soon("an answer of the new one", call).await.unwrap(), Ok(25));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn another_instance_at_the_same_address_is_an_event_and_gets_no_calls_of_the_old_one() {
    let (server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    let mut events = node.client().link_events();
    server.kill().await;
    until("the loss is noticed", || !peer.is_connected()).await;
    let waiting = tokio::spawn({
        let peer = peer.clone();
        async move { peer.call::<i64>("square", &5).await }
    });
    let mut other = Process::start("server", &[(ENDPOINT, &endpoint)]);
    other.word().await;
    let replaced = soon("the event", async {
        loop {
            if let Some(LinkEvent::Replaced { old, new }) = events.next().await {
                return (old, new);
            }
        }
    })
    .await;
    assert_eq!(replaced.0, peer.instance_id());
    let error = soon("the old one's call", waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, CallError::NotSent { .. }), "{error}");
    let found = soon("connect", node.client().connect(endpoint.as_str())).await.unwrap();
    assert_eq!(found.instance_id(), replaced.1);
    assert_eq!(soon("an answer", found.call::<i64>("square", &6)).await, Ok(36));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stopped_server_is_noticed_by_its_silence() {
    let (server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    let sent = node.client().active_message("forever").with_receipt().expect_response::<()>();
    let (_receipt, answer) = soon("a receipt", sent.send(&peer).await.unwrap().receipt()).await.unwrap();
    server.signal("-STOP").await;
    let error = soon("the silence", answer.response()).await.unwrap_err();
    server.signal("-CONT").await;
    assert!(matches!(error, CallError::PeerLost { maybe_executed: true, .. }), "{error}");
    // It is dialled again, and back.
    assert_eq!(soon("an answer", peer.call::<i64>("square", &7)).await, Ok(49));
    node.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_asked_to_goes_in_good_order() {
    let (mut server, endpoint) = Process::server().await;
    let (node, peer) = linked(&endpoint).await;
    soon("the answer", peer.confirm("_request_shutdown", &())).await.unwrap();
    assert_eq!(server.word().await, format!("asked by {}", node.instance_id()));
    let status = tokio::time::timeout(PATIENCE, server.child.wait()).await.unwrap().unwrap();
    assert!(status.success(), "{status}");
    soon("shutdown", node.shutdown()).await.unwrap();
}
