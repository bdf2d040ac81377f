//! A receipt is no acknowledgement.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").with_receipt().send(peer).await?.ack().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
