//! A TCP proxy that falls silent: its sockets stay open, and nothing passes any more. To both ends this is what a
//! cut cable is.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::failure::Result;

/// The proxy. Ends, with all its connections, when dropped.
#[derive(Debug)]
pub(super) struct SilentProxy {
    port: u16,
    silent: watch::Sender<bool>,
    _tasks: JoinSet<()>,
}

impl SilentProxy {
    /// Takes a free port, and passes on what comes there to `target_port`.
    pub(super) async fn start(target_port: u16) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (silent, is_silent) = watch::channel(false);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, target_port, is_silent));
        Ok(Self { port, silent, _tasks: tasks })
    }

    pub(super) fn endpoint(&self) -> String {
        format!("tcp://{}:{}", Ipv4Addr::LOCALHOST, self.port)
    }

    pub(super) fn fall_silent(&self) {
        self.silent.send_replace(true);
    }
}

async fn accept(listener: TcpListener, target_port: u16, silent: watch::Receiver<bool>) {
    // Its drop aborts them.
    let mut connections = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, target_port)).await else { continue };
        let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
        connections.spawn(pass(near_in, far_out, silent.clone()));
        connections.spawn(pass(far_in, near_out, silent.clone()));
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut silent: watch::Receiver<bool>) {
    let mut chunk = vec![0; 64 << 10];
    let copy = async {
        while let Ok(read @ 1..) = from.read(&mut chunk).await {
            if to.write_all(&chunk[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = copy => return,
        _ = silent.wait_for(|silent| *silent) => {}
    }
    // The halves must live on: dropping them would send a FIN.
    std::future::pending::<()>().await;
}
