//! Active messages for distributed control planes.
//!
//! An *active message* names a handler and carries its argument: when it arrives, the handler runs. A process
//! starts a node ([`ActiveMessageManager`]), registers handlers ([`Handler`]), connects to peers ([`Client`]) and
//! calls theirs ([`Peer`]).
//!
//! ```
//! use dynamo_am::{ActiveMessageManager, Handler};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = ActiveMessageManager::builder().listen("tcp://127.0.0.1:0").start().await?;
//! server.register(Handler::unary("shout", |_cx, text: String| async move { Ok(text.to_uppercase()) }))?;
//!
//! let node = ActiveMessageManager::builder().start().await?;
//! let peer = node.client().connect(&server.endpoints()[0]).await?;
//! assert_eq!(peer.call::<String>("shout", "hello").await?, "HELLO");
//!
//! node.shutdown().await?;
//! server.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # What a sender waits for
//!
//! | builder | what is awaited then | it means |
//! | --- | --- | --- |
//! | `.send(&peer)` | nothing | the message is in the bounded send buffer |
//! | `.with_receipt()` | `.receipt()` | the handler was found, and the message accepted for it |
//! | `.confirmed()` | `.ack()` | the handler has finished without error |
//! | `.expect_response::<R>()` | `.response()` | the handler's value |
//!
//! # What goes wrong, and what it means
//!
//! Nothing is ever resent: each message is handled at most once. [`CallError`] tells whether the handler can have
//! run ([`is_retry_safe`](CallError::is_retry_safe)) and whether trying again can help
//! ([`is_transient`](CallError::is_transient)); [`Retry`] tries again where both say so. Every call has a deadline
//! (30 s unless it says otherwise), which travels with it and which nested calls inherit.
//!
//! # What dropping a future does on the wire
//!
//! Before a message has entered the send buffer, nothing was sent and nobody is told. Afterwards, dropping the
//! call's future or its status frees its place at once and sends a Cancel: the handler's context then says so
//! ([`ActiveMessageContext::cancelled`]), and a handler that ends all the same is answered to nobody. The link goes
//! on, whatever the transport.
//!
//! # Memory
//!
//! A peer may have a bounded number of unfinished messages and octets with a node ([`Limits`]); `send` waits for
//! that credit, `try_send` says [`TrySendError::Full`].

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

#[cfg(feature = "runtime")]
mod api;
#[cfg(feature = "runtime")]
mod clock;
pub mod endpoint;
pub mod error;
pub mod id;
#[cfg(feature = "test-util")]
mod inspect;
pub mod limits;
pub mod proto;
#[cfg(feature = "runtime")]
mod runtime;
#[cfg(feature = "test-util")]
mod test_node;
#[cfg(feature = "runtime")]
pub mod transport;
pub mod wire;
#[cfg(feature = "runtime")]
pub mod zmq;

#[cfg(feature = "runtime")]
pub use api::{
    builder::{MessageBuilder, NoPayload},
    call_error::{CallError, CallInfo, HandlerError, Refusal, TrySendError},
    client::{Client, IntoEndpoint, Peer},
    codec::{CodecError, Decode, Encode, PayloadRef, Raw},
    context::{ActiveMessageContext, InlineContext, Sender},
    control::{ContractInfo, DispatchMode, MessageId, ReceiptAck, ResponseType},
    handler::{BatchAnswer, BatchOutcome, Handler, LayerReply, Next, Reply, Service},
    link_event::{LinkEvent, LinkEvents},
    port::Probe,
    retry::Retry,
    status::{
        Confirmed, FireAndForget, MessageStatus, Mode, WithReceipt, WithReceiptAndResponse, WithResponse,
    },
};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{BindError, ConnectAttempt, ConnectError, RegisterError, StartError};
pub use id::{Incarnation, InstanceId, InstanceIdError};
#[cfg(feature = "test-util")]
pub use inspect::{LinkTables, NodeTables};
pub use limits::Limits;
#[cfg(feature = "runtime")]
pub use runtime::cohort;
#[cfg(feature = "runtime")]
pub use runtime::{
    manager::{ActiveMessageManager, ManagerBuilder},
    node::{ShutdownPolicy, ShutdownRequest},
    registry::{HandlerEvent, HandlerEvents},
    shutdown::ShutdownError,
};
#[cfg(feature = "test-util")]
pub use test_node::{TestNode, TestNodeError};
pub use wire::codes::{Codec, DeliveryMode};
pub use wire::header::Trace;
