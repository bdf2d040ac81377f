//! The requests of one link that are running here: so that a Cancel finds its request, and a lost link cancels all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::context::Request;

/// Requests by message id. Ids are a peer's choice, hence the standard library's keyed hasher.
#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    requests: HashMap<u64, Arc<Request>>,
    is_over: bool,
}

impl Running {
    /// Adds a request. One whose id is in use already stays unknown to Cancel: only its sender suffers.
    pub(crate) fn insert(&self, request: &Arc<Request>) {
        let mut table = self.0.lock();
        if table.is_over {
            drop(table);
            request.cancel();
            return;
        }
        table.requests.entry(request.number).or_insert_with(|| request.clone());
    }

    pub(crate) fn remove(&self, request: &Arc<Request>) {
        let mut table = self.0.lock();
        if table.requests.get(&request.number).is_some_and(|known| Arc::ptr_eq(known, request)) {
            table.requests.remove(&request.number);
        }
    }

    pub(crate) fn cancel(&self, number: u64) -> bool {
        let request = self.0.lock().requests.get(&number).cloned();
        request.is_some_and(|request| {
            request.cancel();
            true
        })
    }

    /// The link is lost: nobody waits for any of them.
    pub(crate) fn cancel_all(&self) {
        let requests = {
            let mut table = self.0.lock();
            table.is_over = true;
            std::mem::take(&mut table.requests)
        };
        // In the order of their ids, so that runs of a simulation are alike.
        let mut requests: Vec<_> = requests.into_values().collect();
        requests.sort_unstable_by_key(|request| request.number);
        requests.into_iter().for_each(|request| request.cancel());
    }
}
