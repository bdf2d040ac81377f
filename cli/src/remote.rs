//! One node to call: a node of our own that listens nowhere, its link to the endpoint on the command line, and
//! their end in good order.

use std::time::Duration;

use dynamo_am::{
    ActiveMessageManager, Codec, Endpoint, Limits, LinkEvent, LinkEvents, Peer, Raw, ShutdownError,
};
use futures::FutureExt;
use serde::Serialize;

use crate::args::Target;
use crate::exit::{Exit, Failure};

/// A linked peer and the node of ours that calls it.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(crate) node: ActiveMessageManager,
    pub(crate) peer: Peer,
    events: LinkEvents,
}

/// A node of our own for calling, which waits no longer than `timeout` for a link, or for the last words.
///
/// # Errors
///
/// When it cannot start.
pub(crate) async fn caller(target: &Target, timeout: Duration) -> Result<ActiveMessageManager, Failure> {
    let defaults = Limits::default();
    let limits = Limits {
        connect_timeout: defaults.connect_timeout.min(timeout),
        request_timeout: timeout,
        drain_timeout: timeout,
        ..defaults
    };
    let builder = ActiveMessageManager::builder().limits(limits);
    let builder = if target.insecure { builder.allow_insecure() } else { builder };
    Ok(builder.start().await?)
}

impl Remote {
    /// Connects.
    ///
    /// # Errors
    ///
    /// When nobody answers there within 5 s, or `timeout` if that is shorter.
    pub(crate) async fn connect(target: &Target, timeout: Duration) -> Result<Self, Failure> {
        let node = caller(target, timeout).await?;
        Self::link(node, &target.endpoint).await
    }

    /// Connects a node that runs already.
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub(crate) async fn link(node: ActiveMessageManager, endpoint: &Endpoint) -> Result<Self, Failure> {
        let client = node.client();
        let events = client.link_events();
        let peer = client.connect(endpoint).await?;
        Ok(Self { node, peer, events })
    }

    /// Calls a handler in JSON and gives the reply's octets, which are then JSON too.
    ///
    /// # Errors
    ///
    /// Those of the call.
    pub(crate) async fn ask(&self, handler: &str, payload: &impl Serialize) -> Result<Raw, Failure> {
        let client = self.node.client();
        let message = client.active_message(handler).payload(payload).codec(Codec::Json);
        Ok(message.expect_response::<Raw>().send(&self.peer).await?.response().await?)
    }

    /// Ends the link in good order, whose answers are all here already: nothing that can fail matters any more.
    pub(crate) async fn close(self) {
        let _ = self.node.shutdown().await;
    }

    /// Ends the link in good order and says so only if all that was sent has left this process.
    ///
    /// # Errors
    ///
    /// When the link was lost before that, or the peer did not take everything in time.
    pub(crate) async fn flush(mut self) -> Result<(), Failure> {
        let done = self.node.shutdown().await;
        while let Some(Some(event)) = self.events.next().now_or_never() {
            if let LinkEvent::Down { reason, unsent_len, .. } = event
                && unsent_len > 0
            {
                let message = format!("the link was lost with {unsent_len} octets unsent: {reason}");
                return Err(Failure::new(Exit::NoConnection, message));
            }
        }
        done.map_err(|error| match error {
            ShutdownError::DrainTimeout { .. } => {
                Failure::new(Exit::Deadline, "the node did not take the whole message in time")
                    .hint("give it longer with --timeout")
            }
            error => error.into(),
        })
    }
}
