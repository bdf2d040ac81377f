//! No receipt was asked for.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    client.active_message("square").expect_response::<i64>().send(peer).await?.receipt().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
