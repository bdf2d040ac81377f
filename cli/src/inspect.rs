//! `am handlers`, `am health` and `am shutdown`: what every node answers by its system handlers.

use comfy_table::{Table, presets};
use dynamo_am::{DispatchMode, ResponseType};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::args::InspectArgs;
use crate::exit::{Exit, Failure};
use crate::output::{Layout, lay_out, print, printable};
use crate::remote::Remote;

#[derive(Debug, Deserialize)]
struct HandlerInfo {
    name: String,
    kind: ResponseType,
    contract: Types,
    dispatch: DispatchMode,
}

#[derive(Debug, Deserialize)]
struct Types {
    req: Option<String>,
    resp: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Health {
    status: String,
    version: String,
    uptime_s: u64,
    running: u64,
    peers: u64,
}

/// List the handlers of a node.
///
/// # Errors
///
/// Those of the connection and of the call.
pub(crate) async fn handlers(args: InspectArgs) -> Result<Exit, Failure> {
    let reply = ask_once(&args, "_list_handlers").await?;
    let mut handlers: Vec<HandlerInfo> = read(&reply)?;
    if args.target.json {
        print(one_line(&reply))?;
        return Ok(Exit::Ok);
    }
    // Its own handlers first; those of the runtime begin with `_`.
    handlers.sort_by(|a, b| (a.name.starts_with('_'), &a.name).cmp(&(b.name.starts_with('_'), &b.name)));
    print(table(&handlers))?;
    Ok(Exit::Ok)
}

fn table(handlers: &[HandlerInfo]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["HANDLER", "TAKES", "GIVES", "RUNS"]);
    let type_name = |name: &Option<String>| name.as_deref().map_or_else(|| "bytes".to_owned(), printable);
    for handler in handlers {
        let gives = match handler.kind {
            ResponseType::Message => "-".to_owned(),
            _ => type_name(&handler.contract.resp),
        };
        let takes = type_name(&handler.contract.req);
        table.add_row([printable(&handler.name), takes, gives, handler.dispatch.to_string()]);
    }
    // Each cell is padded by a space, of which the first column needs none.
    table.lines().map(|line| format!("{}\n", line.strip_prefix(' ').unwrap_or(&line).trim_end())).collect()
}

/// Ask a node how it is: 0 if it takes requests, 4 if it is draining.
///
/// # Errors
///
/// Those of the connection and of the call.
pub(crate) async fn health(args: InspectArgs) -> Result<Exit, Failure> {
    let reply = ask_once(&args, "_health_check").await?;
    let health: Health = read(&reply)?;
    let exit = if health.status == "ok" { Exit::Ok } else { Exit::Refused };
    if args.target.json {
        print(one_line(&reply))?;
        return Ok(exit);
    }
    let Health { status, version, uptime_s, running, peers } = health;
    let (status, version) = (printable(&status), printable(&version));
    print(format!(
        "status   {status}\nversion  {version}\nuptime   {uptime_s} s\nrunning  {running}\npeers    {peers}\n"
    ))?;
    Ok(exit)
}

/// Ask a node to end in good order. It has agreed when this returns, and may still be finishing what runs.
///
/// # Errors
///
/// Those of the connection and of the call; refused unless the node lets us.
pub(crate) async fn shutdown(args: InspectArgs) -> Result<Exit, Failure> {
    let remote = Remote::connect(&args.target, args.timeout).await?;
    let instance = remote.peer.instance_id();
    remote.ask("_request_shutdown", &()).await?;
    remote.close().await;
    print(if args.target.json {
        format!("{}\n", serde_json::json!({"accepted": true, "instance": instance.to_string()}))
    } else {
        format!("{instance} is shutting down\n")
    })?;
    Ok(Exit::Ok)
}

async fn ask_once(args: &InspectArgs, handler: &str) -> Result<dynamo_am::Raw, Failure> {
    let remote = Remote::connect(&args.target, args.timeout).await?;
    let reply = remote.ask(handler, &()).await?;
    remote.close().await;
    Ok(reply)
}

fn read<T: DeserializeOwned>(reply: &[u8]) -> Result<T, Failure> {
    serde_json::from_slice(reply)
        .map_err(|error| Failure::new(Exit::Handler, format!("the node's answer makes no sense: {error}")))
}

/// As the node said it, members unknown here included.
fn one_line(reply: &[u8]) -> Vec<u8> {
    let mut line = lay_out(reply, Layout::OneLine).unwrap_or_default();
    line.push(b'\n');
    line
}
