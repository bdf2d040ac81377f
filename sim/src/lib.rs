//! The real runtime over a network in memory that misbehaves by a seed: nodes run mixed traffic, both sides of each
//! message write down what they see, and an oracle joins the logs.
//!
//! A run is a function of its seed: [`run::seed`] gives the same log each time.

pub mod calls;
pub mod debug;
pub mod foreign;
pub mod handlers;
pub mod log;
pub mod message;
pub mod oracle;
pub mod run;
pub mod scenario;
pub mod traffic;
pub mod trouble;
pub mod world;

/// Lets simulated time pass, in which everything else goes on.
pub async fn pass(time: std::time::Duration) {
    tokio::time::sleep(time).await;
}
