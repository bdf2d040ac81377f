//! `am serve`: a node with handlers to try things on.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dynamo_am::{ActiveMessageManager, DeliveryMode, Handler, HandlerError, RegisterError, ShutdownPolicy};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{AllowShutdown, ServeArgs};
use crate::exit::Failure;

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

/// Serves until it is interrupted, or asked to shut down by a peer that may.
pub(crate) async fn run(args: &ServeArgs) -> Result<(), Failure> {
    let mut builder = ActiveMessageManager::builder().allow_shutdown(match args.allow_shutdown {
        AllowShutdown::Nobody => ShutdownPolicy::Nobody,
        AllowShutdown::Local => ShutdownPolicy::Local,
        AllowShutdown::Anybody => ShutdownPolicy::Anybody,
    });
    for endpoint in &args.listen {
        builder = builder.listen(endpoint.as_str());
    }
    if args.insecure {
        builder = builder.allow_insecure();
    }
    let no_signals = |error: std::io::Error| Failure::usage(format!("cannot watch for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let node = builder.start().await?;
    register(&node).map_err(|error| Failure::usage(error.to_string()))?;
    announce(&node, args.json).map_err(|error| Failure::usage(format!("cannot print: {error}")))?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        request = node.shutdown_requested() => eprintln!("am: shutting down on request of {}", request.by),
    }
    node.shutdown().await.map_err(|error| Failure::handler(error.to_string()))
}

fn announce(node: &ActiveMessageManager, as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let listening: Vec<String> = node.endpoints().iter().map(ToString::to_string).collect();
    if as_json {
        writeln!(out, "{}", json!({"instance": node.instance_id().to_string(), "listening": listening}))?;
    } else {
        for endpoint in listening {
            writeln!(out, "listening {endpoint}")?;
        }
    }
    out.flush()
}

fn register(node: &ActiveMessageManager) -> Result<(), RegisterError> {
    node.register(Handler::inline_raw("echo", |_cx, payload| Ok(payload.to_raw())))?;
    node.register(Handler::inline("sum", |_cx, sum: Sum| {
        let total =
            sum.a.checked_add(sum.b).ok_or_else(|| HandlerError::msg("the sum does not fit 64 bits"))?;
        Ok(Total { total })
    }))?;
    node.register(Handler::unary("sleep", |cx, sleep: Sleep| async move {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(sleep.ms)) => Ok(()),
            () = cx.cancelled() => Err(HandlerError::msg("the caller has left")),
        }
    }))?;
    node.register(Handler::unary("fail", |_cx, fail: Fail| async move {
        Err::<(), _>(HandlerError::msg(fail.message))
    }))?;
    node.register(Handler::unary("panic", |cx, (): ()| async move {
        assert!(cx.handler() != "panic", "asked to panic");
        Ok(())
    }))?;
    let count = Arc::new(AtomicU64::new(0));
    node.register(Handler::inline_raw("count", move |cx, _payload| {
        if cx.mode() == DeliveryMode::FireAndForget {
            count.fetch_add(1, Ordering::Relaxed);
        }
        Ok(count.load(Ordering::Relaxed))
    }))
}
