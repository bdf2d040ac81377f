//! dynamo-am, by its public API alone: over tcp with inline handlers, the same with a task for each message,
//! and over a unix socket.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Result, bail};
use bytes::Bytes;
use dynamo_am::{ActiveMessageManager, Handler, Peer, Raw};

use super::Serving;
use crate::load::{self, BATCH, Flood, Phase};
use crate::meter::{Latencies, Outcome, Recorder};
use crate::spec::{RoleSpec, System, Workload};

pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    let endpoint = match spec.system {
        System::DynamoAmIpc => format!("ipc://{}", spec.directory.join("am").display()),
        _ => "tcp://127.0.0.1:0".to_owned(),
    };
    let node = ActiveMessageManager::builder().listen(&endpoint).no_ipc().start().await?;
    let count = move || handled.fetch_add(1, Ordering::Relaxed);
    let handlers = if spec.system == System::DynamoAmSpawned {
        [
            Handler::unary("echo", move |_cx, payload: Raw| async move {
                count();
                Ok(payload)
            }),
            Handler::unary("sink", move |_cx, payload: Raw| async move {
                std::hint::black_box(payload);
                count();
                Ok(())
            }),
        ]
    } else {
        [
            Handler::inline_raw("echo", move |_cx, payload| {
                count();
                Ok(payload.to_raw())
            }),
            Handler::inline_raw("sink", move |_cx, payload| {
                std::hint::black_box(&payload[..]);
                count();
                Ok(())
            }),
        ]
    };
    for handler in handlers {
        node.register(handler)?;
    }
    let Some(address) = node.endpoints().first().map(ToString::to_string) else {
        bail!("the node listens nowhere");
    };
    Ok(Serving::new(address, node))
}

#[derive(Clone)]
pub struct Client {
    /// The link lives as long as this.
    node: Arc<ActiveMessageManager>,
    peer: Peer,
}

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        let node = ActiveMessageManager::builder().no_ipc().start().await?;
        let peer = node.client().connect(address).await?;
        Ok(Self { node: Arc::new(node), peer })
    }

    /// A loop that sends, and takes the answers in the order of their calls.
    async fn window(&self, phase: &Phase) -> Result<Outcome> {
        let latencies = Latencies::new()?;
        let mut recorder = Recorder::new(&latencies);
        let client = self.node.client();
        let payload = Raw(phase.payload.clone());
        let echo =
            || client.active_message("echo").payload(&payload).expect_response::<Raw>().send(&self.peer);
        let (mut done, began) = (0, Instant::now());
        let mut calls = VecDeque::with_capacity(phase.case.outstanding);
        for _ in 0..phase.case.outstanding {
            calls.push_back((Instant::now(), echo().await?));
        }
        while let Some((sent, call)) = calls.pop_front() {
            let Raw(reply) = call.response().await?;
            if reply.len() != payload.0.len() {
                bail!("a reply of another length");
            }
            let now = Instant::now();
            recorder.record(now - sent);
            done += 1;
            if now - began < phase.duration {
                calls.push_back((now, echo().await?));
            }
        }
        drop(recorder);
        Ok(phase.outcome(done, done, began).with_latencies(&latencies))
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let len = payload.len();
        let Raw(reply) = self.peer.call("echo", &Raw(payload)).await?;
        if reply.len() != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        Ok(self.peer.confirm("sink", &Raw(payload)).await?)
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let payload = Raw(payload);
        while flood.go_on().await {
            for _ in 0..BATCH {
                self.peer.notify("sink", &payload).await?;
            }
        }
        Ok(())
    }

    async fn run(&self, phase: Phase) -> Result<Outcome> {
        match phase.case.workload {
            Workload::Window => self.window(&phase).await,
            _ => load::run(self.clone(), phase).await,
        }
    }
}
