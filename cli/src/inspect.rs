//! `am handlers`, `am health`, `am shutdown`: the handlers that every node has.

use dynamo_am::{Codec, Raw};
use serde_json::Value;

use crate::args::NodeArgs;
use crate::call::{connect, leave};
use crate::exit::Failure;

/// Lists the handlers.
pub(crate) async fn handlers(args: &NodeArgs) -> Result<(), Failure> {
    let list = ask(args, "_list_handlers").await?;
    if args.json {
        println!("{list}");
        return Ok(());
    }
    let text = |value: &Value| value.as_str().unwrap_or("-").to_owned();
    let mut table = comfy_table::Table::new();
    table
        .load_style(comfy_table::presets::NOTHING)
        .set_header(["handler", "kind", "dispatch", "takes", "gives"]);
    for handler in list.as_array().into_iter().flatten() {
        let contract = &handler["contract"];
        table.add_row([
            text(&handler["name"]),
            text(&handler["kind"]),
            text(&handler["dispatch"]),
            text(&contract["req"]),
            text(&contract["resp"]),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Says how the node is.
pub(crate) async fn health(args: &NodeArgs) -> Result<(), Failure> {
    let health = ask(args, "_health_check").await?;
    if args.json {
        println!("{health}");
        return Ok(());
    }
    for (name, value) in health.as_object().into_iter().flatten() {
        println!("{name}: {}", value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    }
    Ok(())
}

/// Asks the node to shut down.
pub(crate) async fn shutdown(args: &NodeArgs) -> Result<(), Failure> {
    let answer = ask(args, "_request_shutdown").await?;
    if args.json {
        println!("{answer}");
    } else {
        println!("{} shuts down", args.endpoint);
    }
    Ok(())
}

async fn ask(args: &NodeArgs, handler: &str) -> Result<Value, Failure> {
    let (node, peer) = connect(&args.endpoint, args.insecure).await?;
    let client = node.client();
    let message = client.active_message(handler).codec(Codec::Json).deadline(args.timeout);
    let Raw(reply) = message.expect_response::<Raw>().send(&peer).await?.response().await?;
    leave(&node).await;
    serde_json::from_slice(&reply)
        .map_err(|error| Failure::handler(format!("the answer is no JSON: {error}")))
}
