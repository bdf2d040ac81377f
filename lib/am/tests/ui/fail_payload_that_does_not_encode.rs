//! A payload is a serde value or raw octets.

use dynamo_am::{CallError, Client, Peer};

async fn wrong(client: &Client, peer: &Peer) -> Result<(), CallError> {
    struct Opaque;
    peer.notify("square", &Opaque).await?;
    Ok(())
}

fn main() {
    let _ = wrong;
}
