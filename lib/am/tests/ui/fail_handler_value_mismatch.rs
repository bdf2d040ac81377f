//! A message handler has no value to give.

use dynamo_am::Handler;

fn main() {
    let _ = Handler::message("square", |_cx, n: i64| async move { Ok(n * n) });
}
