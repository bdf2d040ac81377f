//! The handlers that every node has: health, handlers, discovery, shutdown. Their names begin with `_`.
//!
//! They are handlers like any other, in JSON and MessagePack, but with credit of their own, so that a busy node
//! still answers them.

use std::sync::{Arc, Weak};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::node::{Node, ShutdownPolicy, ShutdownRequest};
use crate::api::call_error::HandlerError;
use crate::api::context::InlineContext;
use crate::api::control::{ContractInfo, DispatchMode, ResponseType};
use crate::api::handler::{Handler, Reply};
use crate::clock;
use crate::error::RegisterError;
use crate::wire::zmtp::properties::AM_VERSION;

/// `_wait_for_handler` waits at most so long, whatever is asked for.
const WAIT_MAX: Duration = Duration::from_secs(3600);

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
    uptime_s: u64,
    draining: bool,
    running: u64,
    peers: usize,
}

#[derive(Serialize)]
struct HandlerInfo {
    name: String,
    kind: ResponseType,
    contract: ContractTypes,
    dispatch: DispatchMode,
}

#[derive(Serialize)]
struct ContractTypes {
    req: Option<String>,
    resp: Option<String>,
}

#[derive(Deserialize)]
struct WaitRequest {
    name: String,
    timeout_ms: u64,
}

#[derive(Serialize)]
struct WaitAnswer {
    found: bool,
}

#[derive(Serialize)]
struct Discovery {
    instance: String,
    endpoints: Vec<String>,
    version: u16,
}

#[derive(Serialize)]
struct ShutdownAnswer {
    accepted: bool,
}

fn gone() -> HandlerError {
    HandlerError::msg("this node has shut down")
}

/// Registers them all.
pub(crate) fn register(node: &Arc<Node>) -> Result<(), RegisterError> {
    let weak = Arc::downgrade(node);
    let of = |weak: &Weak<Node>| weak.upgrade().ok_or_else(gone);
    let handlers = [
        {
            let weak = weak.clone();
            Handler::inline("_health_check", move |_: &InlineContext<'_>, (): ()| Ok(health(&*of(&weak)?)))
        },
        {
            let weak = weak.clone();
            Handler::inline("_list_handlers", move |_: &InlineContext<'_>, (): ()| Ok(list(&*of(&weak)?)))
        },
        {
            let weak = weak.clone();
            Handler::inline("_discover", move |_: &InlineContext<'_>, (): ()| Ok(discover(&*of(&weak)?)))
        },
        {
            let weak = weak.clone();
            Handler::inline("_request_shutdown", move |cx: &InlineContext<'_>, (): ()| {
                request_shutdown(&of(&weak)?, cx)
            })
        },
        Handler::deferred("_wait_for_handler", move |_cx, request: WaitRequest, reply| {
            match weak.upgrade() {
                Some(node) => wait_for_handler(&node, &request, reply),
                None => reply.err(gone()),
            }
        }),
    ];
    for handler in handlers {
        node.registry.register_system(handler, &node.limits)?;
    }
    Ok(())
}

fn health(node: &Node) -> Health {
    let links = node.links.lock().clone();
    Health {
        status: if node.is_draining() { "draining" } else { "ok" },
        version: env!("CARGO_PKG_VERSION"),
        uptime_s: clock::now().duration_since(node.started).as_secs(),
        draining: node.is_draining(),
        running: links.iter().map(|entry| u64::try_from(entry.link.answering()).unwrap_or(0)).sum(),
        peers: node.peers.read().len(),
    }
}

fn list(node: &Node) -> Vec<HandlerInfo> {
    node.registry
        .list(true)
        .iter()
        .map(|entry| {
            let ContractInfo { kind, req, resp, dispatch } = entry.contract.clone();
            HandlerInfo {
                name: entry.name.to_string(),
                kind,
                contract: ContractTypes { req, resp },
                dispatch,
            }
        })
        .collect()
}

fn discover(node: &Node) -> Discovery {
    Discovery {
        instance: node.instance.to_string(),
        endpoints: node.endpoints().iter().map(ToString::to_string).collect(),
        version: AM_VERSION,
    }
}

fn request_shutdown(node: &Arc<Node>, cx: &InlineContext<'_>) -> Result<ShutdownAnswer, HandlerError> {
    let allowed = match node.settings.allow_shutdown {
        ShutdownPolicy::Nobody => false,
        ShutdownPolicy::Local => cx.sender().is_local(),
        ShutdownPolicy::Anybody => true,
    };
    if !allowed {
        return Err(HandlerError::unauthorized("this node does not let you shut it down"));
    }
    let by = cx.sender().instance_id();
    let node = node.clone();
    // The answer is queued when this returns, and leaves with the turn: told first, shut down then.
    let owner = node.clone();
    node.spawner.spawn(async move {
        let links = owner.links.lock().clone();
        for entry in links {
            let _ = tokio::time::timeout(Duration::from_secs(1), entry.link.drained()).await;
        }
        owner.shutdown_request.send_replace(Some(ShutdownRequest { by }));
    });
    Ok(ShutdownAnswer { accepted: true })
}

fn wait_for_handler(node: &Arc<Node>, request: &WaitRequest, reply: Reply<WaitAnswer>) {
    let deadline = clock::now() + Duration::from_millis(request.timeout_ms).min(WAIT_MAX);
    let registry = node.registry.clone();
    let name = request.name.clone();
    let is_there = || registry.find(name.as_bytes()).is_some();
    let slot = Arc::new(parking_lot::Mutex::new(Some(reply)));
    let told = slot.clone();
    let tell = Box::new(move |found| {
        if let Some(reply) = told.lock().take() {
            reply.ok(&WaitAnswer { found });
        }
    });
    if node.is_draining() {
        return tell(false);
    }
    if node.handler_waiters.add(&request.name, deadline, is_there, tell).is_err()
        && let Some(reply) = slot.lock().take()
    {
        reply.err(HandlerError::msg("too many wait for handlers here already"));
    }
    node.wake_sweep();
}
