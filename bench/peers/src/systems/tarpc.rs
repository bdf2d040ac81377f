//! tarpc: bincode over TCP, as its example does it. It knows no one-way messages: each is a call without a
//! result, with as many outstanding as its server takes by default.

use std::future::Future;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};

use super::Serving;
use crate::load::{self, Flood};

/// One-way messages outstanding; its server refuses no call below 1000.
const ONE_WAY_OUTSTANDING: usize = 512;

#[tarpc::service]
pub trait Bench {
    async fn echo(payload: Bytes) -> Bytes;
    async fn sink(payload: Bytes);
}

#[derive(Clone)]
struct Handlers(&'static AtomicU64);

impl Bench for Handlers {
    async fn echo(self, _cx: context::Context, payload: Bytes) -> Bytes {
        self.0.fetch_add(1, Ordering::Relaxed);
        payload
    }

    async fn sink(self, _cx: context::Context, payload: Bytes) {
        std::hint::black_box(&payload[..]);
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

async fn spawn(handler: impl Future<Output = ()> + Send + 'static) {
    tokio::spawn(handler);
}

pub async fn serve(handled: &'static AtomicU64) -> Result<Serving> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    let accepting = tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            if socket.set_nodelay(true).is_err() {
                continue;
            }
            let frames = tarpc::tokio_util::codec::Framed::new(socket, Default::default());
            let channel = BaseChannel::with_defaults(serde_transport::new(frames, Bincode::default()));
            tokio::spawn(channel.execute(Handlers(handled).serve()).for_each(spawn));
        }
    });
    Ok(Serving::new(address.to_string(), accepting))
}

#[derive(Clone)]
pub struct Client(BenchClient);

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        let socket = tokio::net::TcpStream::connect(address).await?;
        socket.set_nodelay(true)?;
        let frames = tarpc::tokio_util::codec::Framed::new(socket, Default::default());
        let transport = serde_transport::new(frames, Bincode::default());
        Ok(Self(BenchClient::new(client::Config::default(), transport).spawn()))
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let len = payload.len();
        if self.0.echo(context::current(), payload).await?.len() != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        Ok(self.0.sink(context::current(), payload).await?)
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let calls = flood.payloads(payload).map(Ok);
        calls.try_for_each_concurrent(ONE_WAY_OUTSTANDING, |payload| self.acked(payload)).await
    }
}
