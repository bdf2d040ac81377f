//! `am serve`: a node with handlers to try things on, until a signal or `am shutdown` ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, DeliveryMode, Endpoint, Handler, HandlerError, Raw};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::ServeArgs;
use crate::exit::{Exit, Failure};
use crate::output::{print, print_error};
use crate::signals::Signals;

#[derive(Deserialize)]
struct Sum {
    a: i64,
    b: i64,
}

#[derive(Serialize)]
struct Total {
    total: i64,
}

#[derive(Deserialize)]
struct Sleep {
    ms: u64,
}

#[derive(Deserialize)]
struct Fail {
    message: String,
}

/// Serves until it is told to end.
///
/// # Errors
///
/// When it cannot listen, when nobody reads its first lines, or when handlers would not end.
pub(crate) async fn run(args: ServeArgs) -> Result<Exit, Failure> {
    // Before the first line is printed: who reads it may send a signal at once.
    let mut signals = Signals::new()?;
    let mut builder = ActiveMessageManager::builder().allow_shutdown(args.allow_shutdown.into());
    for endpoint in args.listen {
        builder = builder.listen(endpoint);
    }
    if args.insecure {
        builder = builder.allow_insecure();
    }
    let node = builder.start().await?;
    for handler in handlers() {
        node.register(handler)?;
    }
    print(announcement(&node, args.json))?;
    tokio::select! {
        () = signals.next() => {}
        request = node.shutdown_requested() => {
            print_error(&format!("am: shutting down on request of {}\n", request.by));
        }
    }
    tokio::select! {
        ended = node.shutdown() => ended?,
        () = signals.next() => return Err(Failure::interrupted()),
    }
    Ok(Exit::Ok)
}

fn announcement(node: &ActiveMessageManager, as_json: bool) -> String {
    let endpoints = node.endpoints().iter().map(Endpoint::to_string);
    if as_json {
        let listening: Vec<String> = endpoints.collect();
        return format!("{}\n", json!({"instance": node.instance_id().to_string(), "listening": listening}));
    }
    endpoints.map(|endpoint| format!("listening {endpoint}\n")).collect()
}

fn handlers() -> [Handler; 6] {
    let counted = Arc::new(AtomicU64::new(0));
    [
        Handler::inline_raw("echo", |_cx, payload| Ok(payload.to_raw())),
        Handler::unary("sum", |_cx, Sum { a, b }: Sum| async move {
            let total = a.checked_add(b);
            let total = total.ok_or_else(|| HandlerError::msg("the sum does not fit in 64 bits"))?;
            Ok(Total { total })
        }),
        Handler::unary("sleep", |cx, Sleep { ms }: Sleep| async move {
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(ms)) => Ok(()),
                () = cx.cancelled() => Err(HandlerError::msg("nobody waits for the end any more")),
            }
        }),
        Handler::unary("fail", |_cx, Fail { message }: Fail| async move {
            Err::<(), _>(HandlerError::msg(message))
        }),
        Handler::unary("panic", |cx, _payload: Raw| async move { panicking(cx.sender().instance_id()) }),
        Handler::inline_raw("count", move |cx, _payload| {
            // It orders nothing: one link's messages come one after the other anyway.
            if cx.mode() == DeliveryMode::FireAndForget {
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(counted.load(Ordering::Relaxed))
        }),
    ]
}

fn panicking(by: dynamo_am::InstanceId) -> Result<(), HandlerError> {
    panic!("on purpose, as {by} asked for")
}
