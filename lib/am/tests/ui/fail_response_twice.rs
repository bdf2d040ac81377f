//! An answer is taken once.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    let sent = client.active_message("square").expect_response::<i64>().send(peer).await?;
    sent.response().await?;
    sent.response().await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
