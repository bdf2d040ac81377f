//! With a receipt and a response there is no acknowledgement.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    let both = client.active_message("square").with_receipt().expect_response::<i64>();
    both.send(peer).await?.ack().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
