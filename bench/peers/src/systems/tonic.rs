//! tonic: gRPC over HTTP/2, unary calls, and for one-way messages a client stream, the form that gRPC has for
//! many messages without a reply each.

use std::net::Ipv4Addr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status, Streaming};

use super::Serving;
use crate::load::{self, Flood};

/// Flow-control windows of HTTP/2: gRPC's guides advise to raise them from 64 KiB for big messages.
const WINDOW: u32 = 16 << 20;

/// `message Payload { bytes data = 1; }`
#[derive(Clone, PartialEq, prost::Message)]
pub struct Payload {
    #[prost(bytes = "bytes", tag = "1")]
    pub data: Bytes,
}

/// `message Empty {}`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub struct Empty {}

#[allow(unreachable_pub, reason = "generated")]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/peers.Bench.rs"));
}
use generated::bench_client::BenchClient;
use generated::bench_server::{Bench, BenchServer};

struct Handlers(&'static AtomicU64);

#[tonic::async_trait]
impl Bench for Handlers {
    async fn echo(&self, request: Request<Payload>) -> Result<Response<Payload>, Status> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(request.into_inner()))
    }

    async fn sink(&self, request: Request<Payload>) -> Result<Response<Empty>, Status> {
        std::hint::black_box(&request.get_ref().data[..]);
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(Response::new(Empty {}))
    }

    async fn tick(&self, request: Request<Streaming<Payload>>) -> Result<Response<Empty>, Status> {
        let mut messages = request.into_inner();
        while let Some(message) = messages.message().await? {
            std::hint::black_box(&message.data[..]);
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Response::new(Empty {}))
    }
}

pub async fn serve(handled: &'static AtomicU64) -> Result<Serving> {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = format!("http://{}", listener.local_addr()?);
    let accepted = TcpListenerStream::new(listener).map(|socket| {
        let socket = socket?;
        socket.set_nodelay(true).map(|()| socket)
    });
    let service = BenchServer::new(Handlers(handled)).max_decoding_message_size(WINDOW as usize);
    let builder = Server::builder().initial_stream_window_size(WINDOW);
    let mut server = builder
        .initial_connection_window_size(WINDOW)
        .max_frame_size(super::knob("PEERS_TONIC_FRAME").map(|octets| octets as u32))
        .http2_adaptive_window(super::knob("PEERS_TONIC_ADAPTIVE").map(|set| set > 0));
    Ok(Serving::new(address, tokio::spawn(server.add_service(service).serve_with_incoming(accepted))))
}

#[derive(Clone)]
pub struct Client(BenchClient<Channel>);

impl Client {
    pub async fn connect(address: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(address.to_owned())?
            .tcp_nodelay(true)
            .initial_stream_window_size(WINDOW)
            .initial_connection_window_size(WINDOW);
        Ok(Self(BenchClient::new(endpoint.connect().await?)))
    }
}

/// A type of its own, since the compiler loses the lifetime of a bare boxed stream in a future that must be
/// `Send`.
struct Messages(BoxStream<'static, Payload>);

impl Stream for Messages {
    type Item = Payload;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Payload>> {
        self.0.poll_next_unpin(cx)
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let len = payload.len();
        // Its documentation advises to clone the client for each use: that is cheap.
        let reply = self.0.clone().echo(Payload { data: payload }).await?.into_inner();
        if reply.data.len() != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        self.0.clone().sink(Payload { data: payload }).await?;
        Ok(())
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        let messages = Messages(flood.payloads(payload).map(|data| Payload { data }).boxed());
        self.0.clone().tick(messages).await?;
        Ok(())
    }
}
