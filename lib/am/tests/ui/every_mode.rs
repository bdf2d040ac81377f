//! What each mode offers, so that the programs that must fail do so for their own reason only.

use dynamo_am::{CallError, Client, Peer};

async fn offers(client: &Client, peer: &Peer) -> Result<(), CallError> {
    let message = || client.active_message("square").payload(&3);
    let _id = message().send(peer).await?.id();
    message().confirmed().send(peer).await?.ack().await?;
    let _nine: i64 = message().expect_response::<i64>().send(peer).await?.response().await?;
    let _receipt = message().with_receipt().send(peer).await?.receipt().await?;
    let both = message().with_receipt().expect_response::<i64>().send(peer).await?;
    let (_receipt, answer) = both.receipt().await?;
    let _nine: i64 = answer.response().await?;
    let _nine: i64 = message().expect_response::<i64>().with_receipt().send(peer).await?.response().await?;
    Ok(())
}

fn main() {
    let _ = offers;
}
