//! Finds the caller that a reply belongs to, for systems that carry messages but know no calls.
//!
//! As a good engineer would write it: a slab of one-shot channels, whose index travels with the message.
#![cfg(any(feature = "zmq", feature = "zeromq", feature = "zenoh"))]

use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use tokio::sync::oneshot;

/// The calls that wait for a reply.
#[derive(Default)]
pub struct Calls(Mutex<Slab>);

#[derive(Default)]
struct Slab {
    waiting: Vec<Option<oneshot::Sender<()>>>,
    free: Vec<u32>,
}

impl Calls {
    /// A place for a call: what must travel with its message, and what is told of its reply.
    pub fn begin(&self) -> (u32, oneshot::Receiver<()>) {
        let (told, reply) = oneshot::channel();
        let mut slab = self.lock();
        if let Some(id) = slab.free.pop() {
            slab.waiting[id as usize] = Some(told);
            return (id, reply);
        }
        slab.waiting.push(Some(told));
        (slab.waiting.len() as u32 - 1, reply)
    }

    /// Wakes the caller of a reply.
    pub fn end(&self, id: &[u8]) -> Result<()> {
        let id = u32::from_le_bytes(id.try_into().context("a call's number of a wrong length")?);
        let mut slab = self.lock();
        let told = slab.waiting.get_mut(id as usize).and_then(Option::take);
        let told = told.context("a reply to no call")?;
        slab.free.push(id);
        drop(slab);
        // A caller that has gone away needs no reply.
        let _ = told.send(());
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Slab> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_wakes_its_own_caller_once() {
        let calls = Calls::default();
        let (first, mut first_reply) = calls.begin();
        let (second, mut second_reply) = calls.begin();
        calls.end(&second.to_le_bytes()).unwrap();
        assert!(second_reply.try_recv().is_ok() && first_reply.try_recv().is_err());
        assert!(calls.end(&second.to_le_bytes()).is_err());
        calls.end(&first.to_le_bytes()).unwrap();
        assert!(first_reply.try_recv().is_ok());
    }
}
