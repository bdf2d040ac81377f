//! libzmq through the `zmq` crate: DEALER and ROUTER for calls, PUSH and PULL for one-way messages, with a
//! high-water mark of 100 000.
//!
//! A socket belongs to one thread, so its natural form is a loop that sends and receives: `rtt`, `window` and
//! `bulk` run in such a loop. `concurrent` has what a program of many tasks needs: a thread that owns the
//! socket, with a queue before it and a table of callers behind it.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use zmq::{Context, DONTWAIT, Message, PollItem, SNDMORE, Socket, SocketType};

use super::Serving;
use super::correlate::Calls;
use crate::load::{self, BATCH, Flood, Phase};
use crate::meter::{Latencies, Outcome, Recorder};
use crate::spec::{RoleSpec, Workload};

const HIGH_WATER_MARK: i32 = 100_000;
/// Messages that the socket's owner takes in one go before it looks at the other side.
const TURN: usize = 64;

fn socket(context: &Context, kind: SocketType) -> Result<Socket> {
    let socket = context.socket(kind)?;
    socket.set_sndhwm(HIGH_WATER_MARK)?;
    socket.set_rcvhwm(HIGH_WATER_MARK)?;
    socket.set_linger(0)?;
    if let Some(octets) = super::knob("PEERS_ZMQ_BUFFERS") {
        socket.set_sndbuf(octets as i32)?;
        socket.set_rcvbuf(octets as i32)?;
    }
    Ok(socket)
}

pub fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    let context = Context::new();
    let workload = spec.case.workload;
    let kind = if workload == Workload::Oneway { zmq::PULL } else { zmq::ROUTER };
    let socket = socket(&context, kind)?;
    socket.bind("tcp://127.0.0.1:*")?;
    let address = socket.get_last_endpoint()?.map_err(|_| anyhow!("an address that is no text"))?;
    std::thread::spawn(move || {
        let ended = match workload {
            Workload::Oneway => pull(&socket, handled),
            workload => route(&socket, handled, workload != Workload::Bulk),
        };
        eprintln!("the server's loop ended: {ended:?}");
        std::process::exit(1);
    });
    Ok(Serving::new(address, context))
}

fn pull(socket: &Socket, handled: &AtomicU64) -> Result<()> {
    let mut message = Message::new();
    loop {
        socket.recv(&mut message, 0)?;
        std::hint::black_box(&message[..]);
        handled.fetch_add(1, Ordering::Relaxed);
    }
}

/// Sends each message back, the last frame, its payload, only where it is an echo.
fn route(socket: &Socket, handled: &AtomicU64, is_echo: bool) -> Result<()> {
    loop {
        let mut frame = socket.recv_msg(0)?;
        while frame.get_more() {
            socket.send(frame, SNDMORE)?;
            frame = socket.recv_msg(0)?;
        }
        std::hint::black_box(&frame[..]);
        handled.fetch_add(1, Ordering::Relaxed);
        socket.send(if is_echo { frame } else { Message::new() }, 0)?;
    }
}

#[derive(Clone)]
pub struct Client {
    /// For one loop; taken by whoever runs it.
    socket: Arc<Mutex<Option<Socket>>>,
    /// For many tasks.
    owner: Option<Arc<Owner>>,
}

impl Client {
    pub fn connect(spec: &RoleSpec, address: &str) -> Result<Self> {
        let context = Context::new();
        let kind = if spec.case.workload == Workload::Oneway { zmq::PUSH } else { zmq::DEALER };
        let socket = socket(&context, kind)?;
        socket.connect(address)?;
        if spec.case.workload == Workload::Concurrent {
            return Ok(Self { socket: Arc::default(), owner: Some(Owner::start(socket)?) });
        }
        Ok(Self { socket: Arc::new(Mutex::new(Some(socket))), owner: None })
    }

    async fn with_socket<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Socket) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let place = self.socket.clone();
        let running = tokio::task::spawn_blocking(move || {
            let socket = place.lock().unwrap_or_else(PoisonError::into_inner);
            run(socket.as_ref().context("this workload has no loop")?)
        });
        running.await?
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        self.owner.as_ref().context("this workload has no tasks")?.call(payload).await
    }

    async fn acked(&self, _payload: Bytes) -> Result<()> {
        bail!("bulk runs in a loop")
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        self.with_socket(move |socket| {
            while flood.go_on_blocking() {
                for _ in 0..BATCH {
                    socket.send(&payload[..], 0)?;
                }
            }
            Ok(())
        })
        .await
    }

    async fn run(&self, phase: Phase) -> Result<Outcome> {
        match phase.case.workload {
            Workload::Concurrent | Workload::Oneway => load::run(self.clone(), phase).await,
            Workload::Rtt | Workload::Window | Workload::Bulk => {
                self.with_socket(move |socket| in_a_loop(socket, &phase)).await
            }
        }
    }
}

/// Keeps as many outstanding as the case says; replies come in the order of their calls.
fn in_a_loop(socket: &Socket, phase: &Phase) -> Result<Outcome> {
    let latencies = Latencies::new()?;
    let mut recorder = Recorder::new(&latencies);
    let reply_len = if phase.case.workload == Workload::Bulk { 0 } else { phase.payload.len() };
    let (mut done, began) = (0, Instant::now());
    let mut calls = VecDeque::with_capacity(phase.case.outstanding);
    for _ in 0..phase.case.outstanding {
        calls.push_back(Instant::now());
        socket.send(&phase.payload[..], 0)?;
    }
    let mut reply = Message::new();
    while let Some(sent) = calls.pop_front() {
        socket.recv(&mut reply, 0)?;
        if reply.len() != reply_len {
            bail!("a reply of another length");
        }
        let now = Instant::now();
        recorder.record(now - sent);
        done += 1;
        if now - began < phase.duration {
            calls.push_back(now);
            socket.send(&phase.payload[..], 0)?;
        }
    }
    drop(recorder);
    Ok(phase.outcome(done, done, began).with_latencies(&latencies))
}

/// The thread that owns the socket, as its callers see it.
struct Owner {
    queue: Mutex<Vec<(u32, Bytes)>>,
    calls: Calls,
    /// Whether the thread waits, and must be woken through the stream.
    is_asleep: AtomicBool,
    waker: UnixStream,
}

impl Owner {
    fn start(socket: Socket) -> Result<Arc<Self>> {
        let (waker, woken) = UnixStream::pair()?;
        waker.set_nonblocking(true)?;
        woken.set_nonblocking(true)?;
        let (queue, calls, is_asleep) = Default::default();
        let owner = Arc::new(Self { queue, calls, is_asleep, waker });
        let shared = owner.clone();
        std::thread::spawn(move || {
            let ended = shared.serve(&socket, woken);
            eprintln!("the socket's thread ended: {ended:?}");
            std::process::exit(1);
        });
        Ok(owner)
    }

    async fn call(&self, payload: Bytes) -> Result<()> {
        let (id, reply) = self.calls.begin();
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push((id, payload));
        if self.is_asleep.swap(false, Ordering::SeqCst) {
            (&self.waker).write_all(&[1])?;
        }
        reply.await.context("no reply")
    }

    fn serve(&self, socket: &Socket, mut woken: UnixStream) -> Result<()> {
        let mut batch = Vec::new();
        loop {
            std::mem::swap(&mut batch, &mut *self.queue.lock().unwrap_or_else(PoisonError::into_inner));
            let mut is_idle = batch.is_empty();
            for (id, payload) in batch.drain(..) {
                socket.send(&id.to_le_bytes()[..], SNDMORE)?;
                socket.send(&payload[..], 0)?;
            }
            for _ in 0..TURN {
                match socket.recv_msg(DONTWAIT) {
                    Ok(id) => {
                        socket.recv_msg(0)?;
                        self.calls.end(&id)?;
                        is_idle = false;
                    }
                    Err(zmq::Error::EAGAIN) => break,
                    Err(error) => return Err(error.into()),
                }
            }
            if is_idle {
                self.sleep(socket, &mut woken)?;
            }
        }
    }

    fn sleep(&self, socket: &Socket, woken: &mut UnixStream) -> Result<()> {
        self.is_asleep.store(true, Ordering::SeqCst);
        // A caller that came just before found it awake.
        if self.queue.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            let events = zmq::POLLIN;
            zmq::poll(&mut [socket.as_poll_item(events), PollItem::from_fd(woken.as_raw_fd(), events)], -1)?;
        }
        self.is_asleep.store(false, Ordering::SeqCst);
        // Nothing to read when it was the socket that ended the sleep.
        let _ = woken.read(&mut [0; 64]);
        Ok(())
    }
}
