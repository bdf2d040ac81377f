//! A whole node against a peer that shakes hands properly and then sends what it likes.
//!
//! The node says nothing that it does not owe, owes nothing in the end, keeps its account of credit right, and
//! forgets the peer when that is gone; an honest client is answered before, meanwhile and afterwards. Time is
//! paused, and moves when all tasks wait.

mod hostile;
mod ledger;
mod operation;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use dynamo_am::transport::ThinTransport;
use dynamo_am::transport::inproc::InprocTransport;
use dynamo_am::wire::zmtp::properties::{AM_VERSION, AmHello};
use dynamo_am::{
    ActiveMessageManager, Endpoint, Handler, HandlerError, Incarnation, InstanceId, Limits, Peer, Raw,
};

use hostile::Hostile;
use operation::Operation;

/// The longest payload that the node takes.
pub(crate) const PAYLOAD_LEN_MAX: u64 = 4 << 20;
/// Most operations of one input, and most octets that they may write: a sanitizer makes copying dear.
const OPERATIONS_MAX: usize = 128;
const WRITTEN_LEN_MAX: usize = 6 << 20;
/// How long, in ticks, the node may take to forget a peer that has gone.
const FORGET_TICKS: u32 = 100;
const TICK: Duration = Duration::from_millis(10);

/// Who the hostile peer says it is, and what the node is like.
#[derive(Debug, Arbitrary)]
struct Setup {
    role: Role,
    is_deaf: bool,
    /// The node has small limits.
    is_tight: bool,
    /// What the hostile peer takes and grants.
    max_message_len: u16,
    credit: (u8, u16),
}

#[derive(Debug, Clone, Copy, Arbitrary)]
enum Role {
    Own,
    Dealer,
    Req,
    Push,
    Router,
    /// One of our own nodes, with the id of a peer that is linked already, or of the node itself.
    Thief {
        of_node: bool,
    },
}

/// Runs the operations that the input stands for.
pub fn router(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok(setup) = input.arbitrary::<Setup>() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime without I/O can be built").block_on(run(&setup, &mut input));
}

async fn run(setup: &Setup, input: &mut Unstructured<'_>) {
    static NAMES: AtomicU64 = AtomicU64::new(0);
    let name = format!("inproc://fuzzed-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let node = start_node(&name, setup.is_tight).await;
    let client = ActiveMessageManager::builder().no_ipc().start().await.expect("it listens nowhere");
    let honest = client.client().connect(name.as_str()).await.expect("the node listens");
    call(&honest, "before").await;
    let own = [node.instance_id(), client.instance_id()];
    if let Some(mut hostile) = dial(&name, setup, own).await {
        act(&mut hostile, input, &honest).await;
        let missing = hostile.settle(async || tokio::time::sleep(TICK).await).await;
        assert_eq!(missing, None, "as {:?}", setup.role);
        drop(hostile);
    }
    call(&honest, "after").await;
    forgets(&node).await;
    let health = honest.call::<Health>("_health_check", &()).await.expect("system handlers answer");
    assert_eq!((health.peers, health.running), (1, 0), "nothing of the peer that has gone is left");
}

/// What `_health_check` says, as far as it is looked at.
#[derive(Debug, serde::Deserialize)]
struct Health {
    peers: usize,
    running: u64,
}

async fn start_node(name: &str, is_tight: bool) -> ActiveMessageManager {
    let usual = Limits { payload_len_max: PAYLOAD_LEN_MAX, ..Limits::default() };
    let limits = match is_tight {
        false => usual,
        true => Limits {
            credit_messages: 40,
            credit_bytes: 64 * 1024,
            system_calls_max: 4,
            send_buffer_len_max: 4096,
            handler_concurrency: 2,
            handler_queue_len: 2,
            ..usual
        },
    };
    let node = ActiveMessageManager::builder().no_ipc().listen(name).limits(limits).start().await;
    let node = node.expect("nobody else has that name");
    let handlers = [
        Handler::inline_raw("echo", |_cx, payload| Ok(payload.to_raw())),
        Handler::inline_raw("fail", |_cx, _payload| Err::<(), _>(HandlerError::msg("as it always does"))),
        Handler::unary("spawned", |_cx, payload: Raw| async move {
            tokio::task::yield_now().await;
            Ok(payload)
        }),
        Handler::unary("ordered", |_cx, number: u64| async move { Ok(number / 2) }).ordered(),
        Handler::batched("batched", |batch: Vec<u64>| async move {
            Ok(batch.into_iter().map(Ok).collect::<Vec<Result<u64, HandlerError>>>())
        }),
        Handler::deferred("deferred", |_cx, payload: Raw, reply| reply.ok(&payload)),
        Handler::message("note", |_cx, _payload: Raw| async { Ok(()) }),
        Handler::unary("nested", |cx, payload: Raw| async move {
            let answer = cx.client().myself().call::<Raw>("echo", &payload).await;
            answer.map_err(|error| HandlerError::msg(error.to_string()))
        }),
    ];
    for handler in handlers {
        node.register(handler).expect("each has a name of its own");
    }
    node
}

/// What becomes of the hostile peer's handshake: `None` when the node does not want it.
async fn dial(name: &str, setup: &Setup, [node, client]: [InstanceId; 2]) -> Option<Hostile> {
    let endpoint: Endpoint = name.parse().expect("it was listened on");
    let stream = InprocTransport::new().dial(&endpoint).await.expect("the node listens");
    let instance = match setup.role {
        Role::Own => InstanceId::from_bytes(*b"hostile peer id.")?,
        Role::Thief { of_node: true } => node,
        Role::Thief { of_node: false } => client,
        Role::Dealer => return Hostile::foreign(stream, "DEALER", setup.is_deaf).await,
        Role::Req => return Hostile::foreign(stream, "REQ", setup.is_deaf).await,
        Role::Push => return Hostile::foreign(stream, "PUSH", setup.is_deaf).await,
        Role::Router => return Hostile::foreign(stream, "ROUTER", setup.is_deaf).await,
    };
    let hello = AmHello {
        version: AM_VERSION,
        instance,
        incarnation: Incarnation::from_bytes([7; 16]),
        endpoints: vec!["tcp://127.0.0.1:9".to_owned()],
        host: "elsewhere".to_owned(),
        max_message_len: u64::from(setup.max_message_len) * 256,
        credit_messages: setup.credit.0.into(),
        credit_bytes: setup.credit.1.into(),
    };
    let hostile = Hostile::own(stream, hello, setup.is_deaf).await;
    let is_thief = matches!(setup.role, Role::Thief { .. });
    assert!(!is_thief || hostile.is_none(), "an id was stolen from who lives");
    hostile
}

/// Does what the input says.
async fn act(hostile: &mut Hostile, input: &mut Unstructured<'_>, honest: &Peer) {
    let mut written = 0;
    for _ in 0..OPERATIONS_MAX {
        if input.is_empty() || hostile.is_over || written > WRITTEN_LEN_MAX {
            return;
        }
        let Ok(operation) = input.arbitrary::<Operation<'_>>() else { return };
        match operation {
            Operation::Read if hostile.is_deaf() => {}
            Operation::Read => hostile.read(),
            Operation::Rest(turns) => {
                for _ in 0..turns {
                    tokio::task::yield_now().await;
                }
            }
            Operation::Honest => call(honest, "meanwhile").await,
            operation => {
                let octets = operation.octets();
                written += octets.len();
                hostile.write(&octets).await;
            }
        }
    }
}

async fn call(honest: &Peer, what: &str) {
    let answer = honest.call::<String>("echo", what).await;
    assert_eq!(answer.expect("an honest client is answered"), what);
}

/// Only the honest client is known in the end.
async fn forgets(node: &ActiveMessageManager) {
    for _ in 0..FORGET_TICKS {
        if node.client().peers().len() == 1 {
            return;
        }
        tokio::time::sleep(TICK).await;
    }
    panic!("peers that have gone are known still: {:?}", node.client().peers());
}
