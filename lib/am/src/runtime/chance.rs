//! Where a node's random numbers come from: [`Chance`]. They name instances and starts, and spread redials.

use parking_lot::Mutex;
use rand::RngCore;
use rand::rngs::StdRng;

use crate::id::{Incarnation, InstanceId};

/// The thread's own generator, or a seeded one where a run must be repeatable.
#[derive(Debug, Default)]
pub(crate) struct Chance(pub(crate) Option<Mutex<StdRng>>);

impl Chance {
    fn fill(&self, bytes: &mut [u8]) {
        match &self.0 {
            Some(seeded) => seeded.lock().fill_bytes(bytes),
            None => rand::rng().fill_bytes(bytes),
        }
    }

    /// Any number.
    pub(crate) fn number(&self) -> u32 {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        u32::from_ne_bytes(bytes)
    }

    /// An instance id; the first octet is never 0.
    pub(crate) fn instance(&self) -> InstanceId {
        loop {
            let mut bytes = [0; 16];
            self.fill(&mut bytes);
            // As RFC 9562 says for random UUIDs.
            bytes[6] = (bytes[6] & 0x0F) | 0x40;
            bytes[8] = (bytes[8] & 0x3F) | 0x80;
            if let Some(id) = InstanceId::from_bytes(bytes) {
                return id;
            }
        }
    }

    pub(crate) fn incarnation(&self) -> Incarnation {
        let mut bytes = [0; 16];
        self.fill(&mut bytes);
        Incarnation::from_bytes(bytes)
    }
}
