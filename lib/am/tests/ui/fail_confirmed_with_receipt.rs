//! An acknowledgement says more than a receipt, and there is no mode with both.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").confirmed().with_receipt().send(peer).await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
