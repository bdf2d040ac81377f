//! Active messages for distributed control planes.

#![warn(clippy::print_stdout, clippy::print_stderr)]
#![cfg_attr(not(test), deny(clippy::unwrap_used))]

#[cfg(feature = "runtime")]
mod api;
pub mod endpoint;
pub mod error;
pub mod id;
pub mod limits;
pub mod proto;
#[cfg(feature = "runtime")]
mod runtime;
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
    status::{
        Confirmed, FireAndForget, MessageStatus, Mode, WithReceipt, WithReceiptAndResponse, WithResponse,
    },
};
pub use endpoint::{Endpoint, EndpointError};
pub use error::{BindError, ConnectAttempt, ConnectError, RegisterError, StartError};
pub use id::{Incarnation, InstanceId, InstanceIdError};
pub use limits::Limits;
#[cfg(feature = "runtime")]
pub use runtime::{
    manager::{ActiveMessageManager, ManagerBuilder},
    node::{ShutdownPolicy, ShutdownRequest},
    registry::{HandlerEvent, HandlerEvents},
    shutdown::ShutdownError,
};
pub use wire::codes::{Codec, DeliveryMode};
pub use wire::header::Trace;
