//! A confirmed message has an acknowledgement, and no value.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").payload(&3).confirmed().send(peer).await?.response().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
