//! zenoh, peer to peer over TCP: as `zenoh` with queries, its form of a call, not consolidated; as
//! `zenoh-pubsub` with a publication each way, as its own latency example (ping and pong) does it.
//!
//! One-way messages are publications that wait rather than being dropped, as its throughput example does.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use bytes::Bytes;
use zenoh::bytes::ZBytes;
use zenoh::pubsub::Publisher;
use zenoh::qos::CongestionControl;
use zenoh::query::{ConsolidationMode, Querier};
use zenoh::{Session, Wait as _};

use super::Serving;
use super::correlate::Calls;
use crate::load::{self, BATCH, Flood};
use crate::spec::{RoleSpec, System, Workload};

/// How often to look whether the other side has been found.
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

async fn session(listen: &str, connect: &str) -> Result<Session> {
    let mut config = zenoh::Config::default();
    let settings = [
        ("mode", "\"peer\"".to_owned()),
        ("listen/endpoints", format!("[{listen}]")),
        ("connect/endpoints", format!("[{connect}]")),
        // It finds its peer by its address alone, and tells nobody else of itself.
        ("scouting/multicast/enabled", "false".to_owned()),
        ("scouting/gossip/enabled", "false".to_owned()),
    ];
    if let Some(octets) = super::knob("PEERS_ZENOH_RX") {
        config.insert_json5("transport/link/rx/buffer_size", &octets.to_string()).map_err(failed)?;
    }
    for (key, value) in settings {
        config.insert_json5(key, &value).map_err(failed)?;
    }
    zenoh::open(config).await.map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("zenoh: {error}")
}

/// Its documentation: without batching for latency, with it for throughput.
fn is_express(spec: &RoleSpec) -> bool {
    super::knob("PEERS_ZENOH_EXPRESS").is_some() || spec.case.workload == Workload::Rtt
}

async fn publisher(session: &Session, key: &'static str, is_express: bool) -> Result<Publisher<'static>> {
    let publisher = session.declare_publisher(key).congestion_control(CongestionControl::Block);
    publisher.express(is_express).await.map_err(failed)
}

pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    // Zenoh does not say which port it was given, so one is found for it.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    let endpoint = format!("\"tcp/{free}\"");
    let session = session(&endpoint, "").await?;

    let is_express = is_express(spec);
    let echo = session.declare_queryable("peers/echo").complete(true).callback(move |query| {
        handled.fetch_add(1, Ordering::Relaxed);
        let payload = query.payload().cloned().unwrap_or_default();
        // A reply that fails is missed by its caller.
        let _ = query.reply(query.key_expr(), payload).express(is_express).wait();
    });
    let echo = echo.await.map_err(failed)?;
    let acked = session.declare_queryable("peers/acked").complete(true).callback(move |query| {
        std::hint::black_box(query.payload());
        handled.fetch_add(1, Ordering::Relaxed);
        let _ = query.reply(query.key_expr(), ZBytes::new()).wait();
    });
    let acked = acked.await.map_err(failed)?;
    let pong = publisher(&session, "peers/pong", is_express).await?;
    let ping = session.declare_subscriber("peers/ping").callback(move |sample| {
        handled.fetch_add(1, Ordering::Relaxed);
        let _ = pong.put(sample.payload().clone()).attachment(sample.attachment().cloned()).wait();
    });
    let ping = ping.await.map_err(failed)?;
    let sink = session.declare_subscriber("peers/sink").callback(move |sample| {
        std::hint::black_box(sample.payload());
        handled.fetch_add(1, Ordering::Relaxed);
    });
    let sink = sink.await.map_err(failed)?;
    Ok(Serving::new(endpoint, (session, echo, acked, ping, sink)))
}

#[derive(Clone)]
pub struct Client(Arc<Parts>);

struct Parts {
    _session: Session,
    echo: Querier<'static>,
    acked: Querier<'static>,
    sink: Publisher<'static>,
    /// For `zenoh-pubsub`: what sends, and who waits.
    ping: Option<(Publisher<'static>, Arc<Calls>)>,
}

impl Client {
    pub async fn connect(spec: &RoleSpec, address: &str) -> Result<Self> {
        let session = session("", address).await?;
        let is_express = is_express(spec);
        let querier = |key: &'static str| {
            let querier = session.declare_querier(key).consolidation(ConsolidationMode::None);
            querier.congestion_control(CongestionControl::Block).express(is_express)
        };
        let echo = querier("peers/echo").await.map_err(failed)?;
        let acked = querier("peers/acked").await.map_err(failed)?;
        let sink = publisher(&session, "peers/sink", false).await?;
        let ping = match spec.system {
            System::ZenohPubsub => Some(ping(&session, is_express).await?),
            _ => None,
        };
        while !echo.matching_status().await.map_err(failed)?.matching()
            || !acked.matching_status().await.map_err(failed)?.matching()
            || !sink.matching_status().await.map_err(failed)?.matching()
        {
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        Ok(Self(Arc::new(Parts { _session: session, echo, acked, sink, ping })))
    }

    async fn query(&self, querier: &Querier<'static>, payload: Bytes) -> Result<usize> {
        let replies = querier.get().payload(payload).await.map_err(failed)?;
        let reply = replies.recv_async().await.map_err(failed)?;
        Ok(reply.result().map_err(|_| anyhow!("an error reply"))?.payload().len())
    }
}

async fn ping(session: &Session, is_express: bool) -> Result<(Publisher<'static>, Arc<Calls>)> {
    let calls = Arc::new(Calls::default());
    let waiting = calls.clone();
    let pong = session.declare_subscriber("peers/pong").callback(move |sample| {
        let id = sample.attachment().map(ZBytes::to_bytes).unwrap_or_default();
        // A reply to no call would be missed by its caller.
        let _ = waiting.end(&id);
    });
    pong.background().await.map_err(failed)?;
    let ping = publisher(session, "peers/ping", is_express).await?;
    while !ping.matching_status().await.map_err(failed)?.matching() {
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Ok((ping, calls))
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        if let Some((ping, calls)) = &self.0.ping {
            let (id, reply) = calls.begin();
            ping.put(payload).attachment(&id.to_le_bytes()).await.map_err(failed)?;
            return reply.await.context("no reply");
        }
        let len = payload.len();
        if self.query(&self.0.echo, payload).await? != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        self.query(&self.0.acked, payload).await.map(|_| ())
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let payload = ZBytes::from(payload);
        while flood.go_on().await {
            for _ in 0..BATCH {
                self.0.sink.put(payload.clone()).await.map_err(failed)?;
            }
        }
        Ok(())
    }
}
