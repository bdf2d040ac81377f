//! Connections that were accepted and have not shaken hands: [`Handshakes`], counted, and few.
//!
//! Whoever can reach a port can open connections and fall silent, so they draw on a pool of their own, in which the
//! oldest makes place for the newest: peers that do shake hands do so in a round trip, and get through.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::limits::Limits;
use crate::transport::PeerAddress;

/// The handshakes that are under way at one node.
#[derive(Debug)]
pub(crate) struct Handshakes {
    count_max: usize,
    per_address_max: usize,
    state: Mutex<State>,
    /// Streams on which READY was said and that are no links yet, dialled ones too.
    becoming: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    under_way: BTreeMap<u64, (Option<IpAddr>, CancellationToken)>,
    by_address: HashMap<IpAddr, usize>,
}

impl State {
    fn remove(&mut self, number: u64) {
        let Some((address, _)) = self.under_way.remove(&number) else { return };
        let Some(address) = address else { return };
        if let Some(count) = self.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&address);
            }
        }
    }
}

impl Handshakes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            count_max: limits.pending_handshakes_max.max(1),
            per_address_max: limits.pending_handshakes_per_address_max,
            state: Mutex::default(),
            becoming: AtomicUsize::new(0),
        }
    }

    /// READY is about to be said on a stream.
    pub(crate) fn become_link(self: &Arc<Self>) -> Becoming {
        self.becoming.fetch_add(1, Ordering::AcqRel);
        Becoming(Arc::clone(self))
    }

    /// Whether a stream on which READY was said has yet to become a link.
    pub(crate) fn are_becoming(&self) -> bool {
        self.becoming.load(Ordering::Acquire) > 0
    }

    /// Lets a connection begin its handshake; `None` when its address has too many under way. Addresses of this
    /// machine are not counted: all its users share them.
    pub(crate) fn begin(self: &Arc<Self>, peer: &PeerAddress) -> Option<Begun> {
        let address = match peer {
            PeerAddress::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some(address.ip()),
            _ => None,
        };
        let mut state = self.state.lock();
        if let Some(address) = address {
            let count = state.by_address.entry(address).or_default();
            if *count >= self.per_address_max {
                return None;
            }
            *count += 1;
        }
        let oldest = state.under_way.first_key_value().map(|(number, _)| *number);
        let evicted = oldest.filter(|_| state.under_way.len() >= self.count_max);
        let token = evicted.and_then(|number| state.under_way.get(&number).map(|(_, token)| token.clone()));
        if let Some(number) = evicted {
            state.remove(number);
        }
        let number = state.next;
        state.next += 1;
        let own = CancellationToken::new();
        state.under_way.insert(number, (address, own.clone()));
        drop(state);
        let has_evicted = token.is_some();
        if let Some(token) = token {
            token.cancel();
        }
        Some(Begun { of: Arc::clone(self), number, evicted: own, has_evicted })
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.state.lock().under_way.len()
    }
}

/// A handshake that is under way, until it is dropped.
#[derive(Debug)]
pub(crate) struct Begun {
    of: Arc<Handshakes>,
    number: u64,
    /// Fires when a later connection has taken its place.
    pub(crate) evicted: CancellationToken,
    /// It has taken the place of an earlier one.
    pub(crate) has_evicted: bool,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.of.state.lock().remove(self.number);
    }
}

/// A stream on which READY was said: its peer may take it for a link and send on it, so a node that goes waits for it
/// to become one, and to be left in good order.
#[derive(Debug)]
pub(crate) struct Becoming(Arc<Handshakes>);

impl Drop for Becoming {
    fn drop(&mut self) {
        self.0.becoming.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(address: &str) -> PeerAddress {
        PeerAddress::Tcp(address.parse().unwrap())
    }

    fn handshakes(count_max: usize, per_address_max: usize) -> Arc<Handshakes> {
        let limits = Limits {
            pending_handshakes_max: count_max,
            pending_handshakes_per_address_max: per_address_max,
            ..Limits::default()
        };
        Arc::new(Handshakes::new(&limits))
    }

    #[test]
    fn the_oldest_makes_place_for_the_newest() {
        let handshakes = handshakes(2, 64);
        let begun: Vec<_> = (0..3).map(|_| handshakes.begin(&PeerAddress::Inproc).unwrap()).collect();
        let evicted: Vec<_> = begun.iter().map(|begun| begun.evicted.is_cancelled()).collect();
        assert_eq!(evicted, [true, false, false]);
        assert!(begun[2].has_evicted && !begun[1].has_evicted);
        assert_eq!(handshakes.len(), 2);
        drop(begun);
        assert_eq!(handshakes.len(), 0);
    }

    #[test]
    fn an_address_has_its_own_limit_but_for_this_machine() {
        let handshakes = handshakes(100, 2);
        let one: Vec<_> = (0..2).map(|_| handshakes.begin(&tcp("10.0.0.1:5")).unwrap()).collect();
        assert!(handshakes.begin(&tcp("10.0.0.1:6")).is_none());
        let _other = handshakes.begin(&tcp("10.0.0.2:5")).unwrap();
        let _own: Vec<_> = (0..5).map(|_| handshakes.begin(&tcp("127.0.0.1:5")).unwrap()).collect();
        drop(one);
        assert!(handshakes.begin(&tcp("10.0.0.1:6")).is_some());
        assert!(handshakes.state.lock().by_address.len() == 1);
    }
}
