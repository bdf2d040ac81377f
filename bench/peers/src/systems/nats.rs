//! async-nats with a nats-server between the two processes, whose CPU time and memory count too.

use std::net::Ipv4Addr;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use async_nats::{ConnectOptions, Subscriber};
use bytes::Bytes;
use futures::StreamExt as _;

use super::Serving;
use crate::load::{self, BATCH, Flood};
use crate::spec::RoleSpec;

/// One-way messages on their way. NATS has no flow control: beyond 64 MiB the broker drops the connection of
/// a slow receiver, and beyond its capacity a subscription drops messages.
const IN_FLIGHT_MAX: u64 = 1 << 18;
/// Messages that a subscription holds; the default is 65536.
const SUBSCRIPTION_CAPACITY: usize = 1 << 20;
/// How long the broker may take to listen.
const START_LIMIT: Duration = Duration::from_secs(10);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// Killed when dropped, and by the kernel when this process ends.
struct Broker(Child);

impl Drop for Broker {
    fn drop(&mut self) {
        // Both fail only for a process that has already been waited for.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start_broker(directory: &Path) -> Result<Broker> {
    let mut command = Command::new(super::nats_server().context("nats-server is not installed")?);
    // It writes the port that it was given into a file.
    command.args(["-a", &Ipv4Addr::LOCALHOST.to_string(), "-p", "-1", "--ports_file_dir"]).arg(directory);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    // SAFETY: between fork and exec only one system call is made, which is safe there.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
    Ok(Broker(command.spawn().context("starting nats-server")?))
}

async fn address_of(broker: &Broker, directory: &Path) -> Result<String> {
    let file = directory.join(format!("nats-server_{}.ports", broker.0.id()));
    let reading = async {
        loop {
            let text = std::fs::read_to_string(&file).unwrap_or_default();
            let ports: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
            if let Some(address) = ports["nats"][0].as_str() {
                return address.to_owned();
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    };
    tokio::time::timeout(START_LIMIT, reading).await.context("nats-server did not say where it listens")
}

pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    let broker = start_broker(&spec.directory)?;
    let address = address_of(&broker, &spec.directory).await?;
    let client = ConnectOptions::new().subscription_capacity(SUBSCRIPTION_CAPACITY).connect(&address).await?;
    for (subject, is_echo) in [("echo", true), ("sink", false)] {
        let messages = client.subscribe(subject).await?;
        tokio::spawn(answer(client.clone(), messages, is_echo, handled));
    }
    client.flush().await?;
    let broker_pid = broker.0.id() as i32;
    let mut serving = Serving::new(address, (client, broker));
    serving.listening.servers.push(broker_pid);
    Ok(serving)
}

async fn answer(
    client: async_nats::Client,
    mut messages: Subscriber,
    is_echo: bool,
    handled: &'static AtomicU64,
) {
    while let Some(message) = messages.next().await {
        std::hint::black_box(&message.payload[..]);
        handled.fetch_add(1, Ordering::Relaxed);
        if let Some(reply) = message.reply {
            let payload = if is_echo { message.payload } else { Bytes::new() };
            // It fails when the connection has ended, and then so do the messages.
            let _ = client.publish(reply, payload).await;
        }
    }
}

#[derive(Clone)]
pub struct Client(async_nats::Client);

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        Ok(Self(async_nats::connect(address).await?))
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let len = payload.len();
        if self.0.request("echo", payload).await?.payload.len() != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        self.0.request("sink", payload).await?;
        Ok(())
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let flood = flood.in_flight_max(IN_FLIGHT_MAX);
        while flood.go_on().await {
            for _ in 0..BATCH {
                self.0.publish("sink", payload.clone()).await?;
            }
        }
        Ok(self.0.flush().await?)
    }
}
