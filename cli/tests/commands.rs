//! Every subcommand but the demo and the bench, as processes: what they print, how they end, and what they say
//! about bad input.

mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Running, Server, am, run};

/// A tcp endpoint where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    format!("tcp://{}", listener.local_addr().expect("it is bound"))
}

#[test]
fn every_endpoint_that_serve_announces_can_be_dialled() {
    let directory = tempfile::tempdir().unwrap();
    let ipc = format!("ipc://{}/socket", directory.path().display());
    let server = Server::start(&["--listen", "tcp://127.0.0.1:0", "--listen", &ipc]);
    let endpoints = server.endpoints();
    assert!(endpoints[0].starts_with("tcp://127.0.0.1:") && !endpoints[0].ends_with(":0"));
    assert_eq!(endpoints[1], ipc);
    for endpoint in &endpoints {
        let ended = run(&["call", endpoint, "sum", r#"{"a":2,"b":3}"#]).expect(0);
        assert_eq!(ended.text(), "{\n  \"total\": 5\n}\n");
    }
}

#[test]
fn serve_prints_a_line_for_each_endpoint_when_it_can_be_called() {
    let mut server = Running::start(&["serve"]);
    let line = server.next_line();
    let endpoint = line.strip_prefix("listening ").unwrap();
    run(&["health", endpoint]).expect(0);
    server.signal(Signal::INT);
    let ended = server.finish().expect(0);
    assert!(ended.text().lines().all(|line| line.starts_with("listening ")));
}

#[test]
fn serve_refuses_addresses_beyond_this_machine_unless_told_and_never_prints_a_wildcard() {
    let ended = run(&["serve", "--listen", "tcp://0.0.0.0:0"]).expect(2);
    assert!(ended.stderr.starts_with("am: ") && ended.stderr.contains("--insecure"), "{}", ended.stderr);
    let server = Server::start(&["--listen", "tcp://0.0.0.0:0", "--insecure"]);
    for endpoint in server.endpoints() {
        assert!(!endpoint.contains("0.0.0.0") && !endpoint.ends_with(":0"), "{endpoint}");
        run(&["health", &endpoint, "--insecure"]).expect(0);
    }
}

#[test]
fn serve_says_that_an_address_is_taken() {
    let server = Server::start(&[]);
    let ended = run(&["serve", "--json", "--listen", &server.endpoint()]).expect(2);
    assert!(ended.error()["message"].as_str().unwrap().contains("in use"));
}

#[test]
fn a_signal_lets_serve_finish_what_runs_and_takes_its_socket_files_away() {
    for signal in [Signal::INT, Signal::TERM] {
        let mut server = Server::start(&[]);
        let path = server.endpoints()[1].strip_prefix("ipc://").unwrap().to_owned();
        assert!(fs::exists(&path).unwrap());
        let call = server.start_am("call", &["sleep", r#"{"ms":2500}"#]);
        server.wait_for_running(1);
        server.signal(signal);
        call.finish().expect(0);
        assert_eq!(server.wait().code(), Some(0));
        assert!(!fs::exists(&path).unwrap());
    }
}

#[test]
fn a_second_signal_ends_serve_at_once() {
    let mut server = Server::start(&[]);
    let call = server.start_am("call", &["sleep", r#"{"ms":3600000}"#]);
    server.wait_for_running(1);
    server.signal(Signal::INT);
    // It takes the first signal before it refuses.
    while server.am("call", &["count"]).code == Some(0) {}
    server.signal(Signal::INT);
    assert_eq!(server.wait().code(), Some(130));
    call.finish().expect(3);
}

#[test]
fn shutdown_ends_a_node_that_allows_it_and_no_other() {
    let mut server = Server::start(&[]);
    let ended = server.am("shutdown", &["--json"]).expect(0);
    assert_eq!(ended.json(), [json!({"accepted": true, "instance": server.instance()})]);
    assert_eq!(server.wait().code(), Some(0));
    server_is_gone(&server.endpoint());

    let server = Server::start(&["--allow-shutdown", "nobody"]);
    let ended = server.am("shutdown", &["--json"]).expect(4);
    assert_eq!(ended.error()["reason"], "unauthorized");
    server.am("health", &[]).expect(0);
}

fn server_is_gone(endpoint: &str) {
    for verb in ["health", "handlers", "shutdown", "ping"] {
        run(&[verb, endpoint]).expect(3);
    }
}

#[test]
fn a_json_reply_is_laid_out_but_never_changed() {
    let server = Server::start(&[]);
    let payload = r#"{"z":12345678901234567890123,"a":[1.10,"é\u001b"],"z":null}"#;
    let ended = server.am("call", &["echo", payload]).expect(0);
    let expected = r#"{
  "z": 12345678901234567890123,
  "a": [
    1.10,
    "é\u001b"
  ],
  "z": null
}
"#;
    assert_eq!(ended.text(), expected);
    let ended = server.am("call", &["echo", payload, "--json"]).expect(0);
    assert_eq!(ended.text(), format!("{payload}\n"));
    assert_eq!(server.am("call", &["sleep", r#"{"ms":0}"#, "--json"]).expect(0).text(), "null\n");
}

#[test]
fn raw_bytes_come_back_as_they_went() {
    let server = Server::start(&[]);
    let endpoint = server.endpoint();
    let octets: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let started = Running::start_with_input(&["call", &endpoint, "echo", "-", "--raw"], octets.clone());
    assert!(started.finish().expect(0).stdout == octets);

    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(&file, b"{ \"a\" : 1 }").unwrap();
    let argument = format!("@{}", file.path().display());
    assert_eq!(server.am("call", &["echo", &argument, "--raw"]).expect(0).stdout, b"{ \"a\" : 1 }");
    assert_eq!(server.am("call", &["echo", &argument]).expect(0).stdout, b"{\n  \"a\": 1\n}\n");
    assert_eq!(server.am("call", &["echo", "-5"]).expect(0).stdout, b"-5\n");
    assert!(server.am("call", &["echo"]).expect(0).stdout.is_empty());
    let ended =
        Running::start_with_input(&["call", &endpoint, "echo", "-", "--raw", "--json"], vec![0xFF, 0]);
    assert_eq!(ended.finish().expect(0).json(), [json!({"hex": "ff00"})]);
}

#[test]
fn bad_input_is_found_before_anything_is_sent() {
    let server = Server::start(&[]);
    let endpoint = server.endpoint();
    for payload in ["{a:1}", "1 2", "", "@/no/such/file", "@/"] {
        let ended = server.am("call", &["count", payload, "--notify", "--json"]).expect(2);
        assert_eq!(ended.error()["error"], "usage", "{payload}");
    }
    let ended = Running::start_with_input(&["call", &endpoint, "count", "-", "--notify"], b"\xFF".to_vec());
    assert!(ended.finish().expect(2).stderr.contains("standard input is no JSON"));
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len((64 << 20) + 1).unwrap();
    let argument = format!("@{}", file.path().display());
    let ended = server.am("call", &["count", &argument, "--notify", "--raw"]).expect(2);
    assert!(ended.stderr.contains("longer than a payload may be"), "{}", ended.stderr);
    assert_eq!(server.counted(), 0);
}

#[test]
fn each_delivery_mode_says_what_it_waited_for() {
    let server = Server::start(&[]);
    server.am("call", &["count", "--notify"]).expect(0);
    // Parts of it wait for credit and room: it has left for good when the command ends.
    let large = Running::start_with_input(
        &["call", &server.endpoint(), "count", "-", "--raw", "--notify", "--json"],
        vec![7; 20 << 20],
    );
    assert_eq!(large.finish().expect(0).json()[0]["outcome"], "sent");
    assert_eq!(server.counted(), 2);
    assert_eq!(
        server.am("call", &["count", "--confirm", "--json"]).expect(0).json()[0]["outcome"],
        "confirmed"
    );
    assert_eq!(server.counted(), 2);
    let ended = server.am("call", &["sum", r#"{"a":1,"b":1}"#, "--receipt", "--json"]).expect(0);
    let line = &ended.json()[0];
    assert_eq!(line["outcome"], "accepted");
    assert_eq!(
        line["contract"],
        json!({"handler": "sum", "kind": "unary", "req": "Sum", "resp": "Total", "dispatch": "spawned"})
    );
    // One way, nobody hears of a failure; each other mode does.
    server.am("call", &["nope", "--notify"]).expect(0);
    server.am("call", &["nope", "--confirm"]).expect(4);
    server.am("call", &["nope", "--receipt"]).expect(4);
    server.am("call", &["fail", r#"{"message":"no"}"#, "--confirm"]).expect(1);
}

#[test]
fn exit_codes_tell_the_ways_to_fail_apart() {
    let server = Server::start(&[]);
    let error = |code: i32, arguments: &[&str]| -> Value {
        let ended = server.am("call", &[arguments, &["--json"]].concat()).expect(code);
        let error = ended.error();
        assert_eq!(error["exit"], code, "{error}");
        assert!(ended.stdout.is_empty());
        error
    };
    let failed = error(1, &["fail", r#"{"message":"no such model"}"#]);
    assert!(failed["message"].as_str().unwrap().ends_with("no such model"));
    assert_eq!((&failed["retry_safe"], &failed["transient"]), (&json!(false), &json!(false)));
    error(1, &["panic"]);
    error(1, &["sum", r#"{"a":9223372036854775807,"b":1}"#]);
    assert_eq!(error(4, &["nope"])["reason"], "no handler");
    assert_eq!(error(4, &["sum", r#"{"a":2,"b":"x"}"#])["reason"], "bad argument");
    assert_eq!(error(4, &["sum"])["reason"], "bad argument");
    let late = error(5, &["sleep", r#"{"ms":3600000}"#, "--timeout", "0.2"]);
    assert_eq!((&late["error"], &late["retry_safe"]), (&json!("deadline"), &json!(false)));
    let ended = run(&["call", &nobody(), "echo", "--json"]).expect(3);
    assert_eq!(ended.error()["error"], "no_connection");
    let ended = run(&["call", "tcp://192.0.2.1:1", "echo"]).expect(2);
    assert!(ended.stderr.contains("--insecure"));
}

#[test]
fn errors_for_people_begin_with_the_command_and_say_what_to_do() {
    let server = Server::start(&[]);
    let ended = server.am("call", &["nope"]).expect(4);
    assert!(ended.stderr.starts_with("am: `nope` at "), "{}", ended.stderr);
    assert!(ended.stderr.contains("`am handlers ENDPOINT`"));
    let ended = run(&["call", &nobody(), "echo"]).expect(3);
    assert!(ended.stderr.contains("am serve"), "{}", ended.stderr);
    // A peer's words must not drive the terminal.
    let ended = server.am("call", &["fail", r#"{"message":"\u001b[2J\r\u0007"}"#]).expect(1);
    assert!(!ended.stderr.contains(['\u{1b}', '\r', '\u{7}']), "{:?}", ended.stderr);
}

#[test]
fn a_node_that_says_nothing_is_given_up_in_time() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("tcp://{}", listener.local_addr().unwrap());
    for verb in ["health", "ping"] {
        run(&[verb, &endpoint, "--timeout", "0.3"]).expect(3);
    }
}

#[test]
fn a_call_whose_node_is_killed_ends_at_once_and_says_that_it_may_have_run() {
    let server = Server::start(&[]);
    let call = server.start_am("call", &["sleep", r#"{"ms":3600000}"#, "--timeout", "3600", "--json"]);
    server.wait_for_running(1);
    server.signal(Signal::KILL);
    let ended = call.finish().expect(3);
    assert_eq!(ended.error()["retry_safe"], false);
}

#[test]
fn ctrl_c_breaks_a_call_off_and_its_handler_learns_of_it() {
    let server = Server::start(&[]);
    let call = server.start_am("call", &["sleep", r#"{"ms":3600000}"#, "--timeout", "3600"]);
    server.wait_for_running(1);
    call.signal(Signal::INT);
    call.finish().expect(130);
    server.wait_for_running(0);
}

#[test]
fn ctrl_c_ends_a_command_that_waits_for_standard_input() {
    let (input, mut writer) = std::io::pipe().unwrap();
    let call = Running::of(am(&["call", &nobody(), "echo", "-", "--raw"]).stdin(input).spawn().unwrap());
    // More than a pipe holds: it has begun to read when this returns, and then waits for the end.
    writer.write_all(&[0; 1 << 20]).unwrap();
    call.signal(Signal::INT);
    call.finish().expect(130);
    drop(writer);
}

#[test]
fn handlers_lists_names_types_and_where_they_run() {
    let server = Server::start(&[]);
    let ended = server.am("handlers", &[]).expect(0);
    let names: Vec<&str> = ended.text().lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names[..7], ["HANDLER", "count", "echo", "fail", "panic", "sleep", "sum"]);
    assert!(names.contains(&"_health_check"));
    let ended = server.am("handlers", &["--json"]).expect(0);
    let list = ended.json().remove(0);
    let sum = list.as_array().unwrap().iter().find(|entry| entry["name"] == "sum").unwrap();
    assert_eq!(sum["contract"], json!({"req": "Sum", "resp": "Total"}));
    assert_eq!(sum["dispatch"], "spawned");
}

#[test]
fn health_says_how_a_node_is() {
    let server = Server::start(&[]);
    let health = server.am("health", &["--json"]).expect(0).json().remove(0);
    assert_eq!((&health["status"], &health["draining"]), (&json!("ok"), &json!(false)));
    let ended = server.am("health", &[]).expect(0);
    assert!(ended.text().starts_with("status   ok\n"), "{}", ended.text());
}

#[test]
fn wrong_usage_is_explained_and_is_json_if_that_was_asked_for() {
    run(&[]).expect(2);
    run(&["--help"]).expect(0);
    assert!(run(&["--version"]).expect(0).text().starts_with("am "));
    for arguments in [
        &["nonsense"][..],
        &["call"],
        &["call", "tcp://127.0.0.1:1"],
        &["call", "127.0.0.1:1", "echo"],
        &["call", "tcp://127.0.0.1:0", "echo"],
        &["call", "inproc://x", "echo"],
        &["call", "tcp://127.0.0.1:1", ""],
        &["call", "tcp://127.0.0.1:1", "echo", "--notify", "--confirm"],
        &["call", "tcp://127.0.0.1:1", "echo", "--timeout", "0"],
        &["call", "tcp://127.0.0.1:1", "echo", "--timeout", "1e300"],
        &["ping", "tcp://127.0.0.1:1", "-c", "0"],
        &["ping", "tcp://127.0.0.1:1", "-i", "nan"],
        &["serve", "--listen", "http://x"],
        &["serve", "--allow-shutdown", "everybody"],
        &["completions", "tcsh"],
    ] {
        let ended = run(arguments).expect(2);
        assert!(ended.stderr.starts_with("am: "), "{arguments:?}: {}", ended.stderr);
    }
    let name = "x".repeat(256);
    let ended = run(&["call", "tcp://127.0.0.1:1", &name, "--json"]).expect(2);
    assert_eq!(ended.error()["error"], "usage");
}

#[test]
fn completions_know_the_commands_in_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let ended = run(&["completions", shell]).expect(0);
        for verb in ["serve", "ping", "call", "handlers", "health", "shutdown"] {
            assert!(ended.text().contains(verb), "{shell}: {verb}");
        }
    }
}

#[test]
fn output_that_cannot_be_written_is_never_a_success() {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let child = am(&["completions", "bash"]).stdout(writer).spawn().unwrap();
    let ended = Running::of(child).finish();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(141), ""));
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let child = am(&["completions", "bash"]).stdout(full).spawn().unwrap();
    let ended = Running::of(child).finish();
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("cannot write the output"), "{}", ended.stderr);
}

#[test]
fn ping_tells_each_round_trip_and_sums_up() {
    let server = Server::start(&[]);
    let lines = server.am("ping", &["-c", "5", "-i", "0", "--json"]).expect(0).json();
    assert_eq!(lines.len(), 7);
    assert_eq!(lines[0]["instance"], server.instance());
    for (line, number) in lines[1..6].iter().zip(1..) {
        assert_eq!(line["seq"], number);
        assert!(line["time_us"].as_f64().unwrap() > 0.0);
    }
    let summary = &lines[6];
    assert_eq!((&summary["sent"], &summary["received"], &summary["lost"]), (&json!(5), &json!(5), &json!(0)));
    let time = |key: &str| summary[key].as_f64().unwrap();
    assert!(time("min_us") <= time("p50_us") && time("p50_us") <= time("p99_us"));
    assert!(time("p99_us") <= time("max_us"));
    let text = server.am("ping", &["-c", "1"]).expect(0);
    assert!(text.text().contains("1 sent, 1 answered, 0.0% lost"), "{}", text.text());
}

#[test]
fn ctrl_c_ends_an_endless_ping_with_its_summary() {
    let server = Server::start(&[]);
    let mut ping = server.start_am("ping", &["--json", "-i", "3600"]);
    let (_greeting, reply) = (ping.next_line(), ping.next_line());
    assert!(reply.contains(r#""seq":1"#), "{reply}");
    ping.signal(Signal::INT);
    let lines = ping.finish().expect(130).json();
    assert_eq!((lines.len(), &lines[2]["received"], &lines[2]["lost"]), (3, &json!(1), &json!(0)));
}

#[test]
fn ping_counts_what_a_killed_node_does_not_answer() {
    let server = Server::start(&[]);
    let mut ping = server.start_am("ping", &["--json", "-c", "2", "-i", "2", "--timeout", "0.3"]);
    let (_greeting, _reply) = (ping.next_line(), ping.next_line());
    server.signal(Signal::KILL);
    let ended = ping.finish();
    assert!(matches!(ended.code, Some(3 | 5)), "{ended:?}");
    let lines = ended.json();
    assert!(lines[2]["error"].is_string(), "{}", lines[2]);
    assert_eq!((&lines[3]["sent"], &lines[3]["lost"]), (&json!(2), &json!(1)));
}
