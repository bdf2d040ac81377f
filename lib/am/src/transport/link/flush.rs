//! From the send buffer to the socket: whoever may write takes all that is queued and writes it whole.

use std::sync::Arc;
use std::task::{Poll, Waker};

use parking_lot::MutexGuard;

use super::Link;
use super::buffer::{Progress, SendBuffer};
use super::state::Shared;

/// Batches that a caller writes in one go before it leaves the rest to the flusher: it has work of its own.
const ROUNDS_MAX: u32 = 4;

enum Job {
    Write,
    Continue(SendBuffer, Progress),
    Stop,
}

impl Link {
    /// Writes what is queued, unless somebody else is at it and will take it along.
    #[inline]
    pub(super) fn flush_now<'a>(&'a self, shared: MutexGuard<'a, Shared>) {
        if !shared.writing && !shared.closed {
            self.write_now(shared, false);
        }
    }

    /// Leaves what is queued to the flusher, which batches it with what else comes in this turn of its runtime.
    #[inline]
    pub(super) fn flush_soon(&self, mut shared: MutexGuard<'_, Shared>) {
        if shared.writing || shared.scheduled {
            return;
        }
        shared.scheduled = true;
        let flusher = shared.flusher.take();
        drop(shared);
        flusher.into_iter().for_each(Waker::wake);
    }

    /// Writes what is queued until all is written, the socket is full, or others should have their turn.
    pub(super) fn write_now<'a>(&'a self, mut shared: MutexGuard<'a, Shared>, with_credit: bool) {
        debug_assert!(!shared.writing, "whoever writes has asked first");
        let own = self.settings.own_peer;
        let mut rounds = 0;
        let Some(writer) = shared.writer.clone() else { return };
        while let Some(batch) = shared.take_batch(own, with_credit && rounds == 0) {
            shared.writing = true;
            shared.in_socket = true;
            drop(shared);
            let (mut progress, mut written) = (Progress::default(), 0);
            let result = batch.write_to(&*writer, &mut progress, &mut written);
            shared = self.shared.lock();
            shared.note_written(written);
            let woken = match result {
                Ok(true) => {
                    shared.writing = false;
                    shared.finish_batch(batch, self.ticks.now());
                    std::mem::take(&mut shared.room)
                }
                Ok(false) => {
                    shared.handed = Some((batch, progress));
                    shared.flusher.take().into_iter().collect()
                }
                Err(error) => {
                    drop(shared);
                    return self.fail_write(&error);
                }
            };
            rounds += 1;
            let stop = shared.writing || !shared.has_work() || shared.closed;
            if !woken.is_empty() {
                drop(shared);
                woken.into_iter().for_each(Waker::wake);
                if stop {
                    return;
                }
                shared = self.shared.lock();
                if shared.writing {
                    return;
                }
            }
            if stop {
                return;
            }
            if rounds >= ROUNDS_MAX {
                return self.flush_soon(shared);
            }
        }
    }

    /// A failed write only ends sending: replies that the peer sent before may still be read, and the reader
    /// finds the end by itself.
    fn fail_write(&self, error: &std::io::Error) {
        tracing::debug!(link = self.number, %error, "a write failed");
        let (senders, room, flusher) = {
            let mut shared = self.shared.lock();
            shared.closed = true;
            shared.writing = false;
            shared.handed = None;
            shared.drop_large(|_| true);
            // A reader that is held finds the end only when it reads.
            let byes = std::mem::take(&mut shared.bye_waiters);
            let readers = shared.held.take().into_iter().chain(byes);
            shared.room.extend(readers.collect::<Vec<_>>());
            (shared.take_senders(), std::mem::take(&mut shared.room), shared.flusher.take())
        };
        senders.chain(room).chain(flusher).for_each(Waker::wake);
    }

    /// The link's flusher: a task of its own that writes what was left to it, and waits for the socket where
    /// nobody else may wait. Ends with the link.
    pub async fn flush_loop(self: Arc<Self>) {
        loop {
            match self.next_job().await {
                Job::Stop => return,
                Job::Write => {
                    // The tasks that are ready now may have more to send: let them, and write it all at once.
                    tokio::task::yield_now().await;
                    let mut shared = self.shared.lock();
                    shared.scheduled = false;
                    self.flush_now(shared);
                }
                Job::Continue(batch, progress) => {
                    if !self.write_handed(batch, progress).await {
                        return;
                    }
                }
            }
        }
    }

    async fn next_job(&self) -> Job {
        std::future::poll_fn(|cx| {
            let mut shared = self.shared.lock();
            if let Some((batch, progress)) = shared.handed.take() {
                return Poll::Ready(Job::Continue(batch, progress));
            }
            if shared.closed {
                return Poll::Ready(Job::Stop);
            }
            if shared.scheduled {
                return Poll::Ready(Job::Write);
            }
            shared.flusher = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Finishes a batch that the socket did not take at once; `false` when sending is over.
    async fn write_handed(&self, batch: SendBuffer, mut progress: Progress) -> bool {
        let Some(writer) = self.shared.lock().writer.clone() else { return false };
        loop {
            let writable = std::future::poll_fn(|cx| writer.poll_writable(cx));
            let waited = tokio::select! {
                biased;
                () = self.ending() => return false,
                waited = writable => waited,
            };
            let mut written = 0;
            {
                let mut shared = self.shared.lock();
                // What has been declared not sent must not leave any more.
                if shared.closed {
                    return false;
                }
                shared.in_socket = true;
            }
            let result = match waited {
                Ok(()) => batch.write_to(&*writer, &mut progress, &mut written),
                Err(error) => Err(error),
            };
            let mut shared = self.shared.lock();
            shared.note_written(written);
            match result {
                Ok(false) => {}
                Ok(true) => {
                    shared.writing = false;
                    shared.finish_batch(batch, self.ticks.now());
                    let woken = std::mem::take(&mut shared.room);
                    self.flush_now(shared);
                    woken.into_iter().for_each(Waker::wake);
                    return true;
                }
                Err(error) => {
                    drop(shared);
                    self.fail_write(&error);
                    return false;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, IoSlice};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, Weak};
    use std::task::Context;

    use super::*;
    use crate::proto::budget::Budget;
    use crate::proto::credit::Totals;
    use crate::transport::StreamWriter;
    use crate::transport::link::{LinkSettings, Ticks};

    /// Asks the link what has not left while it takes it, and may then not take it.
    #[derive(Default)]
    struct Socket {
        link: Mutex<Weak<Link>>,
        unsent: Mutex<Vec<u64>>,
        is_full: AtomicBool,
    }

    impl StreamWriter for Arc<Socket> {
        fn try_write(&self, buffers: &[IoSlice<'_>]) -> io::Result<usize> {
            let link = self.link.lock().unwrap().upgrade().unwrap();
            self.unsent.lock().unwrap().push(link.unsent_len());
            if self.is_full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            Ok(buffers.iter().map(|buffer| buffer.len()).sum())
        }

        fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn shutdown(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn settings() -> LinkSettings {
        let granted = [Totals { messages: 8, bytes: 1 << 20 }; 2];
        LinkSettings {
            own_peer: true,
            dialled: true,
            wants_envelope: false,
            never_answers: false,
            takes_no_messages: false,
            peer_payload_len_max: 1 << 20,
            payload_len_max: 1 << 20,
            granted_by_peer: granted,
            granted_to_peer: granted,
            system_calls_max: 1,
            pending_calls_max: 8,
            send_buffer_len_max: 1 << 16,
            skipped_len_max: 1 << 20,
            pings_per_second_max: 8,
            unknown_commands_per_second_max: 8,
            useless_messages_per_second_max: 8,
            slow_consumer_len: 1 << 16,
            output_len_max: 1 << 16,
            budget: Arc::new(Budget::new(1 << 20)),
        }
    }

    /// The peer may have read it, answered and closed before the write returns.
    #[test]
    fn what_the_socket_is_taking_is_not_said_to_be_unsent() {
        let socket = Arc::new(Socket::default());
        let link = Link::new(1, settings(), Box::new(socket.clone()), Arc::<Ticks>::default());
        *socket.link.lock().unwrap() = Arc::downgrade(&link);
        link.say_bye(false);
        assert_eq!(*socket.unsent.lock().unwrap(), [0]);
        assert_eq!(link.unsent_len(), 0);
        socket.is_full.store(true, Ordering::Relaxed);
        link.ping();
        assert_eq!(*socket.unsent.lock().unwrap(), [0, 0]);
        assert_ne!(link.unsent_len(), 0, "the socket took nothing");
    }
}
