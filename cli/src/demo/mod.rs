//! `am demo`: worker processes hash and count all files of a folder.
//!
//! The leader forms a cohort of them, walks the folder, and gives each file to a worker that is free, a large one in
//! parts to several; workers connect to it and listen nowhere. A worker that dies loses nothing: its files go to
//! others.

mod digest;
mod leader;
mod parts;
mod progress;
pub(crate) mod report;
mod source;
mod team;
mod verify;
mod walk;
pub(crate) mod worker;

pub(crate) use leader::run;
