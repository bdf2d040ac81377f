//! What fuzzing checks, as plain functions of an input: each panics when a promise is broken.
//!
//! cargo-fuzz calls them with inputs of its own making (`fuzz/run`), and `tests/corpus.rs` with those that were
//! worth keeping, so that every build replays them. A target holds what it calls against a model that is too
//! simple to be wrong, written from `docs/wire.md` and not from the code.

mod credit;
mod decoder;
mod handshake;
mod header;
mod input;
mod link;
mod pending;
mod properties;
mod router;

pub use credit::credit;
pub use decoder::decoder;
pub use handshake::{handshake_dial, handshake_listen};
pub use header::header;
pub use link::link;
pub use pending::pending;
pub use properties::properties;
pub use router::router;

/// A target: takes an input, and panics when a promise is broken.
pub type Target = fn(&[u8]);

/// All targets by name, which is also that of their directories of inputs.
pub const TARGETS: [(&str, Target); 9] = [
    ("decoder", decoder),
    ("handshake_listen", handshake_listen),
    ("handshake_dial", handshake_dial),
    ("properties", properties),
    ("header", header),
    ("router", router),
    ("credit", credit),
    ("pending", pending),
    ("link", link),
];
