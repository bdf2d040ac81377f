//! For tests of handlers: [`TestNode`], a node without sockets; and nodes whose chance is seeded.

use crate::api::call_error::CallError;
use crate::api::codec::{Decode, Encode};
use crate::api::handler::Handler;
use crate::error::{RegisterError, StartError};
use crate::runtime::chance::Chance;
use crate::runtime::manager::{ActiveMessageManager, ManagerBuilder};

/// Runs single handlers as a node would, without sockets or peers: the caller is the node itself.
///
/// ```
/// use dynamo_am::{Handler, TestNode};
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let double = Handler::unary("double", |_cx, n: i64| async move { Ok(n * 2) });
/// assert_eq!(TestNode::call::<i64>(double, &21).await?, 42);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum TestNode {}

/// Why a handler could not be tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TestNodeError {
    /// The node did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The handler cannot be registered.
    #[error(transparent)]
    Register(#[from] RegisterError),
    /// The call failed as it would at a caller.
    #[error(transparent)]
    Call(#[from] CallError),
}

impl TestNode {
    /// Calls `handler` once, with a context of a node of its own, and gives its value.
    ///
    /// # Errors
    ///
    /// Those of a call, and of registering the handler.
    pub async fn call<R: Decode>(
        handler: Handler,
        payload: &(impl Encode + ?Sized),
    ) -> Result<R, TestNodeError> {
        let node = ActiveMessageManager::builder().no_ipc().start().await?;
        let name = handler.name().to_owned();
        node.register(handler)?;
        Ok(node.client().myself().call(&name, payload).await?)
    }
}

impl ManagerBuilder {
    /// Draws all random numbers (ids, pauses before redials) from this seed, so that a simulation can be repeated.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.chance = Chance(Some(parking_lot::Mutex::new(rand::SeedableRng::seed_from_u64(seed))));
        self
    }
}
