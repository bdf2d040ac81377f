//! Dials that lead nowhere: refused, into a black hole, and to somebody who never speaks.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use dynamo_am::{ActiveMessageManager, Limits};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

use super::ms;
use crate::failure::{Failure, Result};
use crate::report::{Figures, Limit};
use crate::scenario::{Form, block_on};

/// How long a connection must make no progress to be called stuck.
const STUCK_AFTER: Duration = Duration::from_millis(300);
/// A listener whose queue is not full after so many connections cannot be filled.
const FILL_MAX: usize = 64;

pub(super) fn run(form: Form) -> Result<Figures> {
    block_on(2, async {
        let node = ActiveMessageManager::builder().start().await?;
        let mut figures = Figures::new();
        let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = closed.local_addr()?;
        drop(closed);
        let mut slowest = Duration::ZERO;
        for _ in 0..form.pick(5, 50) {
            slowest = slowest.max(failed_dial(&node, address).await?);
        }
        figures.add("refused, slowest", ms(slowest), "ms", Limit::AtMost(form.pick(200.0, 50.0)));

        let hole = BlackHole::dig().await?;
        let took = failed_dial(&node, hole.address).await?;
        figures.add("black hole", ms(took), "ms", Limit::AtMost(form.pick(3000.0, 2000.0)));
        if form == Form::Full {
            let mute = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
            let took = failed_dial(&node, mute.local_addr()?).await?;
            // What it names here is the limit of the whole connect, and the sweep's 10 ms.
            let limit = Limits::default().connect_timeout + Duration::from_millis(100);
            figures.add("accepted, never a word", ms(took), "ms", Limit::AtMost(ms(limit)));
        }
        Ok(figures)
    })
}

/// How long a dial took that had to fail.
async fn failed_dial(node: &ActiveMessageManager, address: SocketAddr) -> Result<Duration> {
    let began = Instant::now();
    match node.client().connect(format!("tcp://{address}")).await {
        Ok(peer) => Err(Failure::new(format!("a dial that leads nowhere reached {peer:?}"))),
        Err(_) => Ok(began.elapsed()),
    }
}

/// A listener that accepts nobody and whose queue is full: the kernel then ignores who dials it, as a firewall
/// does that drops packets.
struct BlackHole {
    address: SocketAddr,
    _listener: Socket,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    async fn dig() -> Result<Self> {
        let listener = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        listener.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
        listener.listen(0)?;
        let address = listener.local_addr()?.as_socket();
        let address = address.ok_or_else(|| Failure::new("a tcp listener has no address"))?;
        let mut queued = Vec::new();
        for _ in 0..FILL_MAX {
            match tokio::time::timeout(STUCK_AFTER, TcpStream::connect(address)).await {
                Ok(connected) => queued.push(connected?),
                Err(_) => return Ok(Self { address, _listener: listener, _queued: queued }),
            }
        }
        Err(Failure::new(format!(
            "a listener without a queue took {FILL_MAX} connections: no black hole here"
        )))
    }
}
