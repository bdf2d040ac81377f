//! Nobody acknowledges a fire-and-forget message.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").payload(&3).send(peer).await?.ack().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
