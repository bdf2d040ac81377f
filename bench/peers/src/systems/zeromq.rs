//! The `zeromq` crate, ZeroMQ in Rust: the same socket types as in `zmq`, used in the same ways, in tasks
//! where that has threads. Its socket can be split, so many callers share the sending half.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use tokio::sync::Mutex;
use zeromq::{
    DealerRecvHalf, DealerSendHalf, DealerSocket, PullSocket, PushSocket, RouterSocket, Socket as _,
    SocketRecv as _, SocketSend as _, ZmqMessage,
};

use super::Serving;
use super::correlate::Calls;
use crate::load::{self, BATCH, Flood, Phase};
use crate::meter::{Latencies, Outcome, Recorder};
use crate::spec::{RoleSpec, Workload};

pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    let any = "tcp://127.0.0.1:0";
    let workload = spec.case.workload;
    if workload == Workload::Oneway {
        let mut socket = PullSocket::new();
        let address = socket.bind(any).await?.to_string();
        return Ok(Serving::new(address, tokio::spawn(async move { ended(pull(socket, handled).await) })));
    }
    let mut socket = RouterSocket::new();
    let address = socket.bind(any).await?.to_string();
    let is_echo = workload != Workload::Bulk;
    let serving = tokio::spawn(async move { ended(route(socket, handled, is_echo).await) });
    Ok(Serving::new(address, serving))
}

fn ended(result: Result<()>) {
    eprintln!("a socket's loop ended: {result:?}");
    std::process::exit(1);
}

async fn pull(mut socket: PullSocket, handled: &AtomicU64) -> Result<()> {
    loop {
        std::hint::black_box(socket.recv().await?);
        handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends each message back, the last frame, its payload, only where it is an echo.
async fn route(mut socket: RouterSocket, handled: &AtomicU64, is_echo: bool) -> Result<()> {
    loop {
        let mut message = socket.recv().await?;
        handled.fetch_add(1, Ordering::Relaxed);
        if !is_echo {
            let mut frames = message.into_vecdeque();
            frames.pop_back();
            frames.push_back(Bytes::new());
            message = ZmqMessage::try_from(frames).map_err(|error| anyhow!("{error}"))?;
        }
        socket.send(message).await?;
    }
}

#[derive(Clone)]
pub enum Client {
    /// One-way.
    Push(Arc<Mutex<PushSocket>>),
    /// One loop.
    Loop(Arc<Mutex<DealerSocket>>),
    /// Many tasks.
    Tasks(Arc<Mutex<DealerSendHalf>>, Arc<Calls>),
}

impl Client {
    pub async fn connect(spec: &RoleSpec, address: &str) -> Result<Self> {
        if spec.case.workload == Workload::Oneway {
            let mut socket = PushSocket::new();
            socket.connect(address).await?;
            return Ok(Self::Push(Arc::new(Mutex::new(socket))));
        }
        let mut socket = DealerSocket::new();
        socket.connect(address).await?;
        if spec.case.workload != Workload::Concurrent {
            return Ok(Self::Loop(Arc::new(Mutex::new(socket))));
        }
        let (sender, receiver) = socket.split();
        let calls = Arc::new(Calls::default());
        let waiting = calls.clone();
        tokio::spawn(async move { ended(receive(receiver, &waiting).await) });
        Ok(Self::Tasks(Arc::new(Mutex::new(sender)), calls))
    }
}

async fn receive(mut receiver: DealerRecvHalf, calls: &Calls) -> Result<()> {
    loop {
        let message = receiver.recv().await?;
        calls.end(message.get(0).context("an empty reply")?)?;
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let Self::Tasks(sender, calls) = self else { bail!("this workload has no tasks") };
        let (id, reply) = calls.begin();
        let mut message = ZmqMessage::from(payload);
        message.push_front(Bytes::copy_from_slice(&id.to_le_bytes()));
        sender.lock().await.send(message).await?;
        reply.await.context("no reply")
    }

    async fn acked(&self, _payload: Bytes) -> Result<()> {
        bail!("bulk runs in a loop")
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let Self::Push(socket) = self else { bail!("this workload is not one-way") };
        let mut socket = socket.lock().await;
        while flood.go_on().await {
            for _ in 0..BATCH {
                socket.send(payload.clone().into()).await?;
            }
        }
        Ok(())
    }

    async fn run(&self, phase: Phase) -> Result<Outcome> {
        match self {
            Self::Push(_) | Self::Tasks(..) => load::run(self.clone(), phase).await,
            Self::Loop(socket) => in_a_loop(&mut *socket.lock().await, &phase).await,
        }
    }
}

/// Keeps as many outstanding as the case says; replies come in the order of their calls.
async fn in_a_loop(socket: &mut DealerSocket, phase: &Phase) -> Result<Outcome> {
    let latencies = Latencies::new()?;
    let mut recorder = Recorder::new(&latencies);
    let reply_len = if phase.case.workload == Workload::Bulk { 0 } else { phase.payload.len() };
    let (mut done, began) = (0, Instant::now());
    let mut calls = VecDeque::with_capacity(phase.case.outstanding);
    for _ in 0..phase.case.outstanding {
        calls.push_back(Instant::now());
        socket.send(phase.payload.clone().into()).await?;
    }
    while let Some(sent) = calls.pop_front() {
        let reply = socket.recv().await?;
        if reply.get(0).map(Bytes::len) != Some(reply_len) {
            bail!("a reply of another length");
        }
        let now = Instant::now();
        recorder.record(now - sent);
        done += 1;
        if now - began < phase.duration {
            calls.push_back(now);
            socket.send(phase.payload.clone().into()).await?;
        }
    }
    drop(recorder);
    Ok(phase.outcome(done, done, began).with_latencies(&latencies))
}
