//! A receipt alone has no value.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").with_receipt().send(peer).await?.response().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
