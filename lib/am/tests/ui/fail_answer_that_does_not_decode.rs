//! An answer is a serde value or raw octets.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    struct Opaque;
    client.active_message("square").expect_response::<Opaque>().send(peer).await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
