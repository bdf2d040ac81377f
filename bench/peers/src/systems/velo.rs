//! velo: over TCP and over a unix socket, with a task for each message (its default) and with `.ordered()`
//! handlers, which its documentation offers for messages that need no task of their own.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use velo::transports::tcp::TcpTransportBuilder;
use velo::transports::uds::UdsTransportBuilder;
use velo::{Handler, InstanceId, PeerInfo, Transport, Velo};

use super::Serving;
use crate::load::{self, BATCH, Flood};
use crate::spec::{RoleSpec, System};

async fn node(spec: &RoleSpec, socket: &str) -> Result<Velo> {
    let transport: Arc<dyn Transport> = match spec.system {
        System::VeloUds | System::VeloUdsOrdered => {
            Arc::new(UdsTransportBuilder::new().socket_path(spec.directory.join(socket)).build()?)
        }
        _ => {
            let mut tcp = TcpTransportBuilder::new().bind_addr((Ipv4Addr::LOCALHOST, 0).into());
            if let Some(messages) = super::knob("PEERS_VELO_CHANNEL") {
                tcp = tcp.channel_capacity(messages);
            }
            if super::knob("PEERS_VELO_AUTO_BUFFERS").is_some() {
                tcp = tcp.socket_buffers(None);
            }
            Arc::new(tcp.build()?)
        }
    };
    // Its listener for streams, which nothing here uses, would listen on all interfaces.
    let builder = Velo::builder().stream_bind_addr(IpAddr::V4(Ipv4Addr::LOCALHOST));
    builder.add_transport(transport).build().await
}

pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    let node = node(spec, "server").await?;
    let echo = Handler::unary_handler("echo", move |cx| {
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(Some(cx.payload))
    });
    let sink = Handler::am_handler("sink", move |cx| {
        std::hint::black_box(&cx.payload[..]);
        handled.fetch_add(1, Ordering::Relaxed);
        Ok(())
    });
    let is_ordered = matches!(spec.system, System::VeloOrdered | System::VeloUdsOrdered);
    let (echo, sink) =
        if is_ordered { (echo.ordered(), sink.ordered()) } else { (echo.spawn(), sink.spawn()) };
    node.register_handler(echo.build())?;
    node.register_handler(sink.build())?;
    Ok(Serving::new(serde_json::to_string(&node.peer_info())?, node))
}

#[derive(Clone)]
pub struct Client {
    node: Velo,
    server: InstanceId,
}

impl Client {
    pub async fn connect(spec: &RoleSpec, address: &str) -> Result<Self> {
        let node = node(spec, "client").await?;
        let info: PeerInfo = serde_json::from_str(address)?;
        let server = info.instance_id();
        node.register_peer(info)?;
        // The handshake, which also tells the server of this node.
        node.wait_for_handler(server, "echo").await.context("waiting for the server's handlers")?;
        Ok(Self { node, server })
    }
}

impl load::Client for Client {
    async fn echo(&self, payload: Bytes) -> Result<()> {
        let len = payload.len();
        let reply = self.node.unary("echo")?.raw_payload(payload).instance(self.server).send().await?;
        if reply.len() != len {
            bail!("a reply of another length");
        }
        Ok(())
    }

    async fn acked(&self, payload: Bytes) -> Result<()> {
        self.node.am_sync("sink")?.raw_payload(payload).instance(self.server).send().await
    }

    async fn flood(&self, payload: Bytes, flood: Flood) -> Result<()> {
        while flood.go_on().await {
            for _ in 0..BATCH {
                self.node.am_send("sink")?.raw_payload(payload.clone()).instance(self.server).send().await?;
            }
        }
        Ok(())
    }
}
