//! A message has one mode.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").confirmed().expect_response::<i64>().send(peer).await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
