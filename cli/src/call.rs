//! `am call`: one message to one handler, in any delivery mode.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use dynamo_am::{Codec, ContractInfo, Limits, MessageId, Raw, ReceiptAck, ResponseType};
use serde_json::json;

use crate::args::{CallArgs, Wait};
use crate::exit::{Exit, Failure};
use crate::output::{Layout, check_json, human, lay_out, micros, print, printable};
use crate::remote::Remote;

/// Sends the message and prints what came of it.
///
/// # Errors
///
/// Bad input, before anything is sent; then those of the connection and of the call.
pub(crate) async fn run(args: CallArgs) -> Result<Exit, Failure> {
    let payload = payload(args.payload, args.raw).await?;
    let codec = if args.raw { Codec::Raw } else { Codec::Json };
    let started = Instant::now();
    let remote = Remote::connect(&args.target, args.timeout).await?;
    // One limit for all of it: what connecting took is gone.
    let left = args.timeout.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
    let client = remote.node.client();
    let message = client.active_message(&args.handler).payload(&payload).codec(codec).deadline(left);
    let answer = Answer { raw: args.raw, as_json: args.target.json, started: Instant::now() };
    let output = match args.wait {
        Wait { notify: true, .. } => {
            let id = message.send(&remote.peer).await?.id();
            remote.flush().await?;
            return finish(answer.notified(id));
        }
        Wait { confirm: true, .. } => {
            let status = message.confirmed().send(&remote.peer).await?;
            let id = status.id();
            status.ack().await?;
            answer.confirmed(id)
        }
        Wait { receipt: true, .. } => {
            let status = message.with_receipt().send(&remote.peer).await?;
            let id = status.id();
            answer.accepted(id, &status.receipt().await?)
        }
        Wait { .. } => {
            let status = message.expect_response::<Raw>().send(&remote.peer).await?;
            answer.response(&status.response().await?)
        }
    };
    remote.close().await;
    finish(output)
}

fn finish(output: Vec<u8>) -> Result<Exit, Failure> {
    print(output)?;
    Ok(Exit::Ok)
}

/// The payload's octets: given, read from a file or from standard input, and JSON unless it is to be raw.
async fn payload(argument: Option<String>, raw: bool) -> Result<Raw, Failure> {
    let Some(argument) = argument else { return Ok(Raw::default()) };
    let (octets, origin) = if argument == "-" {
        // A thread of its own: the read cannot be interrupted, the command can.
        let read = tokio::task::spawn_blocking(|| read_all(io::stdin().lock())).await;
        let read = read.unwrap_or_else(|error| Err(io::Error::other(error)));
        (read, "standard input".to_owned())
    } else if let Some(path) = argument.strip_prefix('@') {
        let (path, origin) = (path.to_owned(), format!("`{path}`"));
        let open = move || std::fs::File::open(path).and_then(read_all);
        let read = tokio::task::spawn_blocking(open).await;
        (read.unwrap_or_else(|error| Err(io::Error::other(error))), origin)
    } else {
        (Ok(argument.into_bytes()), "the payload".to_owned())
    };
    let octets = octets.map_err(|error| Failure::usage(format!("cannot read {origin}: {error}")))?;
    if !raw && let Err(error) = check_json(&octets) {
        return Err(Failure::usage(format!("{origin} is no JSON: {error}"))
            .hint("quote strings twice, as in '\"text\"', or send the bytes as they are with --raw"));
    }
    Ok(Raw::from(octets))
}

/// Everything, up to the longest payload that a node takes by default; one octet more is enough to know.
fn read_all(input: impl Read) -> io::Result<Vec<u8>> {
    let limit = Limits::default().payload_len_max;
    let mut octets = Vec::new();
    let len = input.take(limit + 1).read_to_end(&mut octets)?;
    if u64::try_from(len).is_ok_and(|len| len <= limit) {
        return Ok(octets);
    }
    Err(io::Error::other(format!("it is longer than a payload may be, {limit} octets")))
}

/// How an outcome is put into words.
struct Answer {
    raw: bool,
    as_json: bool,
    started: Instant,
}

impl Answer {
    fn notified(&self, id: MessageId) -> Vec<u8> {
        self.line("sent", id, "sent")
    }

    fn confirmed(&self, id: MessageId) -> Vec<u8> {
        self.line("confirmed", id, "confirmed")
    }

    fn line(&self, outcome: &str, id: MessageId, words: &str) -> Vec<u8> {
        let elapsed = self.started.elapsed();
        if self.as_json {
            return json_line(self.head(outcome, id), "");
        }
        format!("{words} after {}\n", human(elapsed)).into_bytes()
    }

    fn accepted(&self, id: MessageId, receipt: &ReceiptAck) -> Vec<u8> {
        let contract = receipt.contract();
        if self.as_json {
            let contract = json!({
                "handler": receipt.handler(),
                "kind": contract.kind,
                "req": contract.req,
                "resp": contract.resp,
                "dispatch": contract.dispatch,
            });
            return json_line(self.head("accepted", id), &format!(r#","contract":{contract}"#));
        }
        let words = contract_words(contract);
        format!("accepted for `{}`, which {words}\n", printable(receipt.handler())).into_bytes()
    }

    fn response(&self, reply: &Raw) -> Vec<u8> {
        if self.as_json {
            return json_reply(reply);
        }
        if !self.raw
            && let Some(mut json) = lay_out(reply, Layout::Pretty)
        {
            json.push(b'\n');
            return json;
        }
        reply.to_vec()
    }

    /// The members that every outcome has, without the closing brace.
    fn head(&self, outcome: &str, id: MessageId) -> String {
        let elapsed = micros(self.started.elapsed());
        format!(r#"{{"outcome":"{outcome}","id":"{id}","elapsed_us":{elapsed}"#)
    }
}

fn json_line(mut head: String, members: &str) -> Vec<u8> {
    head.push_str(members);
    head.push_str("}\n");
    head.into_bytes()
}

/// A reply as one line of JSON: as it is, or as a string, or in hexadecimal digits if it is no text either.
fn json_reply(reply: &[u8]) -> Vec<u8> {
    let mut line = match lay_out(reply, Layout::OneLine) {
        Some(json) => json,
        None if reply.is_empty() => b"null".to_vec(),
        None => match std::str::from_utf8(reply) {
            Ok(text) => json!(text).to_string().into_bytes(),
            Err(_) => {
                let digits: String = reply.iter().map(|octet| format!("{octet:02x}")).collect();
                json!({"hex": digits}).to_string().into_bytes()
            }
        },
    };
    line.push(b'\n');
    line
}

fn contract_words(contract: &ContractInfo) -> String {
    let name = |name: &Option<String>| name.as_deref().map_or_else(|| "bytes".to_owned(), printable);
    let takes = name(&contract.req);
    let gives = match contract.kind {
        ResponseType::Message => "nothing".to_owned(),
        _ => name(&contract.resp),
    };
    format!("takes {takes}, gives {gives} and runs {}", contract.dispatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_is_a_line_of_json_whatever_its_bytes() {
        assert_eq!(json_reply(b""), b"null\n");
        assert_eq!(json_reply(b"{ \"n\":\n 1e400 }"), b"{\"n\":1e400}\n");
        assert_eq!(json_reply(b"plain \"text\""), b"\"plain \\\"text\\\"\"\n");
        assert_eq!(json_reply(&[0xFF, 0x00]), b"{\"hex\":\"ff00\"}\n");
    }

    #[test]
    fn input_longer_than_any_payload_is_not_read_on() {
        let error = read_all(io::repeat(b'x')).unwrap_err();
        assert!(error.to_string().contains("longer than a payload may be"), "{error}");
    }
}
