//! The requests of one link that are running here: so that a Cancel finds its request, and a lost link cancels all.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::api::context::Request;
use crate::proto::budget::Grant;

/// Requests by message id. Ids are a peer's choice, hence the standard library's keyed hasher.
///
/// Every message that is held here keeps this alive, and with it the grant that pays for it.
#[derive(Debug)]
pub(crate) struct Running {
    table: Mutex<Table>,
    grant: Arc<Grant>,
}

#[derive(Debug, Default)]
struct Table {
    requests: HashMap<u64, Arc<Request>>,
    is_over: bool,
}

impl Running {
    pub(crate) fn new(grant: Arc<Grant>) -> Self {
        Self { table: Mutex::default(), grant }
    }

    /// What the peer may have unfinished here.
    pub(crate) fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Adds a request. One whose id is in use already stays unknown to Cancel: only its sender suffers.
    pub(crate) fn insert(&self, request: &Arc<Request>) {
        let mut table = self.table.lock();
        if table.is_over {
            drop(table);
            request.cancel();
            return;
        }
        table.requests.entry(request.facts.number).or_insert_with(|| request.clone());
    }

    pub(crate) fn remove(&self, request: &Arc<Request>) {
        let mut table = self.table.lock();
        if table.requests.get(&request.facts.number).is_some_and(|known| Arc::ptr_eq(known, request)) {
            table.requests.remove(&request.facts.number);
        }
    }

    pub(crate) fn cancel(&self, number: u64) -> bool {
        let request = self.table.lock().requests.get(&number).cloned();
        request.is_some_and(|request| {
            request.cancel();
            true
        })
    }

    /// The link is lost: nobody waits for any of them.
    pub(crate) fn cancel_all(&self) {
        let requests = {
            let mut table = self.table.lock();
            table.is_over = true;
            std::mem::take(&mut table.requests)
        };
        // In the order of their ids, so that runs of a simulation are alike.
        let mut requests: Vec<_> = requests.into_values().collect();
        requests.sort_unstable_by_key(|request| request.facts.number);
        requests.into_iter().for_each(|request| request.cancel());
    }
}
