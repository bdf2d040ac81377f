//! One module for each system. Each has a server that counts what its handlers did, and a
//! [`Client`](crate::load::Client), written as that system's own documentation and examples advise.

use std::any::Any;
use std::sync::atomic::AtomicU64;

use anyhow::{Result, bail};

use crate::load::Phase;
use crate::meter::Outcome;
use crate::spec::{Listening, RoleSpec, System};

mod correlate;
mod ours;

#[cfg(feature = "nats")]
mod nats;
#[cfg(feature = "tarpc")]
mod tarpc;
#[cfg(feature = "tonic")]
pub mod tonic;
#[cfg(feature = "velo")]
mod velo;
#[cfg(feature = "zenoh")]
mod zenoh;
#[cfg(feature = "zeromq")]
mod zeromq;
#[cfg(feature = "zmq")]
mod zmq;

/// Where the broker of the `nats` line is installed.
pub fn nats_server() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    // Debian puts it where only the superuser's PATH looks.
    places.push("/usr/sbin".into());
    places.into_iter().map(|place| place.join("nats-server")).find(|file| file.is_file())
}

/// A setting of another system that its documentation leaves open, given as a number by the environment (inherited by
/// both processes), to see whether another choice would suit it better. The README lists them.
fn knob(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// A server that can be reached; dropping it ends it.
pub struct Serving {
    pub listening: Listening,
    _kept: Box<dyn Any + Send>,
}

impl Serving {
    /// A server of this process alone, and whatever must live as long as it does.
    fn new(address: impl Into<String>, kept: impl Any + Send) -> Self {
        let listening = Listening { address: address.into(), servers: vec![std::process::id() as i32] };
        Self { listening, _kept: Box::new(kept) }
    }
}

/// Starts the server of any system.
pub async fn serve(spec: &RoleSpec, handled: &'static AtomicU64) -> Result<Serving> {
    match spec.system {
        System::DynamoAm | System::DynamoAmSpawned | System::DynamoAmIpc => ours::serve(spec, handled).await,
        #[cfg(feature = "velo")]
        System::Velo | System::VeloOrdered | System::VeloUds | System::VeloUdsOrdered => {
            velo::serve(spec, handled).await
        }
        #[cfg(feature = "tarpc")]
        System::Tarpc => tarpc::serve(handled).await,
        #[cfg(feature = "tonic")]
        System::Tonic => tonic::serve(handled).await,
        #[cfg(feature = "zenoh")]
        System::Zenoh | System::ZenohPubsub => zenoh::serve(spec, handled).await,
        #[cfg(feature = "zmq")]
        System::Zmq => zmq::serve(spec, handled),
        #[cfg(feature = "zeromq")]
        System::Zeromq => zeromq::serve(spec, handled).await,
        #[cfg(feature = "nats")]
        System::Nats => nats::serve(spec, handled).await,
        #[allow(unreachable_patterns, reason = "all features may be on")]
        other => bail!("{} was left out of this build", other.name()),
    }
}

/// Connects a client of any system, and runs its phases one after the other; the outcome is the last one's.
///
/// `between` is told when the last phase begins.
pub async fn measure(
    spec: &RoleSpec,
    address: &str,
    phases: [Phase; 2],
    between: impl FnOnce() + Send,
) -> Result<Outcome> {
    match spec.system {
        System::DynamoAm | System::DynamoAmSpawned | System::DynamoAmIpc => {
            run(ours::Client::connect(address).await?, phases, between).await
        }
        #[cfg(feature = "velo")]
        System::Velo | System::VeloOrdered | System::VeloUds | System::VeloUdsOrdered => {
            run(velo::Client::connect(spec, address).await?, phases, between).await
        }
        #[cfg(feature = "tarpc")]
        System::Tarpc => run(tarpc::Client::connect(address).await?, phases, between).await,
        #[cfg(feature = "tonic")]
        System::Tonic => run(tonic::Client::connect(address).await?, phases, between).await,
        #[cfg(feature = "zenoh")]
        System::Zenoh | System::ZenohPubsub => {
            run(zenoh::Client::connect(spec, address).await?, phases, between).await
        }
        #[cfg(feature = "zmq")]
        System::Zmq => run(zmq::Client::connect(spec, address)?, phases, between).await,
        #[cfg(feature = "zeromq")]
        System::Zeromq => run(zeromq::Client::connect(spec, address).await?, phases, between).await,
        #[cfg(feature = "nats")]
        System::Nats => run(nats::Client::connect(address).await?, phases, between).await,
        #[allow(unreachable_patterns, reason = "all features may be on")]
        other => bail!("{} was left out of this build", other.name()),
    }
}

async fn run<C: crate::load::Client>(
    client: C,
    [warm_up, measured]: [Phase; 2],
    between: impl FnOnce() + Send,
) -> Result<Outcome> {
    client.run(warm_up).await?;
    between();
    client.run(measured).await
}
