//! The halves of a simulated stream, as a link holds them.

use std::io::{self, IoSlice};
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use super::conn::{Conn, EndIndex, Found};
use super::{Net, NetEvent};
use crate::transport::{ByteStream, PeerAddress, StreamReader, StreamWriter};

/// What both halves of one end need.
#[derive(Clone)]
struct Handle {
    net: Arc<Net>,
    conn: Arc<Mutex<Conn>>,
    number: u64,
    end: EndIndex,
}

impl Handle {
    /// Runs `work` under the connection's lock, and wakes behind it.
    fn with<T>(&self, work: impl FnOnce(&mut Conn, Instant) -> T) -> T {
        let now = Instant::now();
        let mut conn = self.conn.lock();
        let result = work(&mut conn, now);
        let woken = conn.take_woken();
        drop(conn);
        woken.into_iter().for_each(std::task::Waker::wake);
        result
    }

    fn close_half(&self, is_reader: bool) {
        let is_over = self.with(|conn, now| {
            if is_reader {
                conn.drop_reader(self.end, now);
            } else {
                conn.drop_writer(self.end, now);
            }
            !conn.is_alive()
        });
        if !is_reader {
            self.net.tell(&NetEvent::Closed { conn: self.number, by: self.end });
        }
        if is_over {
            self.net.forget(self.number);
        }
    }
}

/// Wakes its task at a time.
#[derive(Default)]
struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// `true` when the time has come already.
    fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> bool {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at)));
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx).is_ready()
    }
}

struct Reader {
    handle: Handle,
    alarm: Alarm,
}

impl StreamReader for Reader {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut Vec<u8>,
        len_max: usize,
    ) -> Poll<io::Result<usize>> {
        let end = self.handle.end;
        loop {
            let found = self.handle.with(|conn, now| {
                let found = conn.read(end, buffer, len_max, now);
                if matches!(found, Ok(Found::Later(_))) {
                    conn.keep_reader(end, cx);
                    if conn.wakes_idly() {
                        cx.waker().wake_by_ref();
                    }
                }
                found
            });
            match found {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Found::Now(len)) => return Poll::Ready(Ok(len)),
                Ok(Found::Later(None)) => return Poll::Pending,
                Ok(Found::Later(Some(at))) => {
                    if !self.alarm.poll(at, cx) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn try_read(&mut self, buffer: &mut Vec<u8>, len_max: usize) -> io::Result<usize> {
        let end = self.handle.end;
        match self.handle.with(|conn, now| conn.read(end, buffer, len_max, now))? {
            Found::Now(len) => Ok(len),
            Found::Later(_) => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.handle.close_half(true);
    }
}

struct Writer {
    handle: Handle,
    alarm: Mutex<Alarm>,
}

impl StreamWriter for Writer {
    fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
        let end = self.handle.end;
        let (written, now) = self.handle.with(|conn, now| (conn.write(end, buffers, now), now));
        if let Ok(len) = written
            && !self.handle.net.count(len, now)
        {
            self.handle.with(|conn, _| conn.reset());
        }
        written
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let end = self.handle.end;
        loop {
            let found = self.handle.with(|conn, now| conn.poll_writable(end, cx, now));
            match found {
                Err(error) => return Poll::Ready(Err(error)),
                Ok(Found::Now(())) => return Poll::Ready(Ok(())),
                Ok(Found::Later(None)) => return Poll::Pending,
                Ok(Found::Later(Some(at))) => {
                    if !self.alarm.lock().poll(at, cx) {
                        return Poll::Pending;
                    }
                }
            }
        }
    }

    fn shutdown(&self) -> io::Result<()> {
        let end = self.handle.end;
        self.handle.with(|conn, now| conn.shutdown(end, now));
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.handle.close_half(false);
    }
}

/// One end of a connection as a byte stream.
pub(super) fn stream(
    net: &Arc<Net>,
    conn: &Arc<Mutex<Conn>>,
    number: u64,
    end: EndIndex,
    peer: IpAddr,
) -> ByteStream {
    let handle = Handle { net: net.clone(), conn: conn.clone(), number, end };
    ByteStream {
        reader: Box::new(Reader { handle: handle.clone(), alarm: Alarm::default() }),
        writer: Box::new(Writer { handle, alarm: Mutex::default() }),
        peer: PeerAddress::Tcp((peer, 0).into()),
    }
}
