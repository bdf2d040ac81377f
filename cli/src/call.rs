//! `am call`: one call from the shell.

use std::io::{Read, Write};

use dynamo_am::{ActiveMessageManager, Codec, Peer, Raw};
use serde_json::{Value, json};

use crate::args::CallArgs;
use crate::exit::Failure;

/// A node that listens nowhere, and its link to `endpoint`.
pub(crate) async fn connect(endpoint: &str, insecure: bool) -> Result<(ActiveMessageManager, Peer), Failure> {
    let mut builder = ActiveMessageManager::builder();
    if insecure {
        builder = builder.allow_insecure();
    }
    let node = builder.start().await?;
    let peer = node.client().connect(endpoint).await?;
    Ok((node, peer))
}

/// Ends the node well, so that everything it has sent is read.
pub(crate) async fn leave(node: &ActiveMessageManager) {
    // What was asked for is done; a peer that does not say goodbye changes nothing about it.
    let _ = node.shutdown().await;
}

/// Calls and prints the answer.
pub(crate) async fn run(args: &CallArgs) -> Result<(), Failure> {
    let (payload, codec) = argument(args)?;
    let (node, peer) = connect(&args.endpoint, args.insecure).await?;
    let client = node.client();
    let message = client.active_message(&args.handler).payload(&payload).codec(codec).deadline(args.timeout);
    let printed = if args.notify {
        message.send(&peer).await?;
        None
    } else if args.confirm {
        message.confirmed().send(&peer).await?.ack().await?;
        None
    } else if args.receipt {
        let receipt = message.with_receipt().send(&peer).await?.receipt().await?;
        Some(json!({"handler": receipt.handler(), "contract": receipt.contract()}).to_string().into_bytes())
    } else {
        let Raw(reply) = message.expect_response::<Raw>().send(&peer).await?.response().await?;
        Some(reply.to_vec())
    };
    leave(&node).await;
    match printed {
        Some(reply) => {
            print(&reply, args.json).map_err(|error| Failure::usage(format!("cannot print: {error}")))
        }
        None => Ok(()),
    }
}

fn argument(args: &CallArgs) -> Result<(Raw, Codec), Failure> {
    let bytes = match args.argument.as_deref() {
        None => Vec::new(),
        Some("-") => {
            let mut bytes = Vec::new();
            let read = std::io::stdin().lock().read_to_end(&mut bytes);
            read.map_err(|error| Failure::usage(format!("cannot read standard input: {error}")))?;
            bytes
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => std::fs::read(path)
                .map_err(|error| Failure::usage(format!("cannot read `{path}`: {error}")))?,
            None => text.as_bytes().to_vec(),
        },
    };
    if args.raw {
        return Ok((Raw::from(bytes), Codec::Raw));
    }
    if !bytes.is_empty() {
        serde_json::from_slice::<Value>(&bytes).map_err(|error| {
            Failure::usage(format!("the argument is no JSON ({error}); quote it for the shell, or say --raw"))
        })?;
    }
    Ok((Raw::from(bytes), Codec::Json))
}

fn print(reply: &[u8], as_json: bool) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    let value =
        if reply.is_empty() { Some(Value::Null) } else { serde_json::from_slice::<Value>(reply).ok() };
    match value {
        Some(Value::Null) if reply.is_empty() && !as_json => {}
        Some(value) if as_json => writeln!(out, "{value}")?,
        Some(value) => writeln!(out, "{value:#}")?,
        None if as_json => writeln!(out, "{}", Value::String(String::from_utf8_lossy(reply).into_owned()))?,
        None => out.write_all(reply)?,
    }
    out.flush()
}
