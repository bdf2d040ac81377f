//! A raw payload is lent to an inline handler, and cannot be kept.

use std::sync::Mutex;

use dynamo_am::{Handler, PayloadRef};

static KEPT: Mutex<Option<PayloadRef<'static>>> = Mutex::new(None);

fn main() {
    let _ = Handler::inline_raw("keep", |_cx, payload| {
        *KEPT.lock().unwrap() = Some(payload);
        Ok(())
    });
}
