//! A batched handler returns nothing, or one result for each message.

use dynamo_am::Handler;

fn main() {
    let _ = Handler::batched("sum", |batch: Vec<i64>| async move { Ok(batch.len()) });
}
