//! `am demo`: worker processes hash and count all files of a folder.
//!
//! The leader walks the folder and calls a worker that is free for each file; workers connect to it and listen
//! nowhere. A worker that dies loses nothing: its files go to others.

mod digest;
mod leader;
pub(crate) mod report;
mod team;
mod walk;
pub(crate) mod worker;

pub(crate) use leader::run;
