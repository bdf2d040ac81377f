//! Holds `docs/wire.md`, `tests/vectors/wire.json` and the code together: the same octets with the same
//! meaning, the same numbers with the same names, the same limits. Whoever writes a client in another
//! language works from those two files, so what they say must be what this crate does.

// clippy's allowance for tests does not reach the helpers of an integration test.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;

use dynamo_am::wire::answer::{Answer, PeerClass};
use dynamo_am::wire::codes::{Codec, CreditAccount, DeliveryMode, Kind, NackCode, flags};
use dynamo_am::wire::credit_frame::{CREDIT_LEN, CreditTotals};
use dynamo_am::wire::extras::{EXTRAS_COUNT_MAX, EXTRAS_LEN_MAX, Extras, encode_extras};
use dynamo_am::wire::header::{
    ClaimedSender, DEPTH_MAX, FIXED_LEN, HEADER_LEN_MAX, Header, NAME_LEN_MAX, SENDER_ENDPOINT_LEN_MAX, Trace,
};
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn document() -> String {
    read("../../docs/wire.md")
}

fn vectors() -> Vec<Value> {
    serde_json::from_str(&read("tests/vectors/wire.json")).unwrap()
}

fn of_type(kind: &str) -> Vec<Value> {
    let found: Vec<Value> = vectors().into_iter().filter(|vector| vector["type"] == kind).collect();
    assert!(!found.is_empty(), "no vector of type {kind}");
    found
}

fn text<'v>(value: &'v Value, field: &str) -> &'v str {
    value[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {value}"))
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number `{field}` in {value}"))
}

fn octet(value: &Value, field: &str) -> u8 {
    u8::try_from(number(value, field)).unwrap()
}

fn unhex(hex: &str) -> Vec<u8> {
    assert!(hex.len().is_multiple_of(2), "{hex}");
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

fn octets<const N: usize>(value: &Value, field: &str) -> [u8; N] {
    unhex(text(value, field)).try_into().unwrap()
}

fn id(value: &Value) -> u64 {
    u64::from_str_radix(text(value, "id"), 16).unwrap()
}

/// The extras that a vector's fields name, encoded.
fn extras(fields: &Value) -> Option<Vec<u8>> {
    let entries = fields.get("extras")?.as_array().unwrap();
    let entry = |pair: &Value| (pair[0].as_str().unwrap().to_owned(), pair[1].as_str().unwrap().to_owned());
    let entries: Vec<(String, String)> = entries.iter().map(entry).collect();
    let mut out = Vec::new();
    encode_extras(entries.iter().map(|(key, value)| (key.as_str(), value.as_str())), &mut out).unwrap();
    let decoded: Vec<_> =
        Extras::decode(&out).unwrap().iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    assert_eq!(decoded, entries);
    Some(out)
}

/// The header that a vector's fields describe.
fn header<'f>(fields: &'f Value, extras: Option<&'f [u8]>) -> Header<'f> {
    let kind = Kind::ALL.iter().find(|kind| kind.to_string() == text(fields, "kind")).unwrap();
    Header {
        aux: octet(fields, "octet2"),
        codec: Codec::from_u8(octet(fields, "codec")).unwrap(),
        depth: octet(fields, "depth"),
        handler: text(fields, "handler").as_bytes(),
        deadline_ms: fields.get("deadline_ms").map(|_| u32::try_from(number(fields, "deadline_ms")).unwrap()),
        trace: fields.get("trace").map(|trace| Trace {
            trace_id: octets(trace, "trace_id"),
            span_id: octets(trace, "span_id"),
            flags: octet(trace, "flags"),
        }),
        sender: fields.get("sender").map(|sender| ClaimedSender {
            instance: octets(sender, "instance"),
            endpoint: text(sender, "endpoint").as_bytes(),
        }),
        extras,
        total_len: fields.get("total_len").map(|_| number(fields, "total_len")),
        ..Header::reply(*kind, id(fields))
    }
}

#[test]
fn every_header_vector_is_what_its_fields_encode_to_and_decode_from() {
    for vector in of_type("header") {
        let extras = extras(&vector["fields"]);
        let expected = header(&vector["fields"], extras.as_deref());
        let bytes = unhex(text(&vector, "hex"));
        let mut encoded = Vec::new();
        expected.encode(&mut encoded);
        assert_eq!(encoded, bytes, "{}", vector["name"]);
        assert_eq!(Header::decode(&bytes), Ok(expected), "{}", vector["name"]);
    }
}

#[test]
fn every_kind_mode_and_optional_field_has_a_vector() {
    let vectors = of_type("header");
    let has = |test: &dyn Fn(&Value) -> bool| vectors.iter().any(|vector| test(&vector["fields"]));
    for kind in Kind::ALL {
        assert!(has(&|fields| text(fields, "kind") == kind.to_string()), "{kind}");
    }
    for mode in DeliveryMode::ALL {
        assert!(has(&|f| f["kind"] == "Message" && octet(f, "octet2") == mode.as_u8()), "{mode}");
    }
    for field in ["deadline_ms", "trace", "sender", "extras", "total_len"] {
        assert!(has(&|fields| fields.get(field).is_some()), "{field}");
    }
}

#[test]
fn accepted_vectors_are_read_as_their_fields_say() {
    for vector in of_type("accepted") {
        let bytes = unhex(text(&vector, "hex"));
        assert_eq!(Header::decode(&bytes), Ok(header(&vector["fields"], None)), "{}", vector["name"]);
    }
}

#[test]
fn refused_vectors_are_answered_as_they_say() {
    let peers = [
        ("own", PeerClass::Own),
        ("foreign", PeerClass::Foreign),
        ("req", PeerClass::ForeignReq),
        ("push", PeerClass::ForeignPush),
    ];
    for vector in of_type("refused") {
        let error = Header::decode(&unhex(text(&vector, "hex"))).unwrap_err();
        for (name, peer) in peers {
            let expected = match &vector["answers"][name] {
                Value::Null => Answer::Nothing,
                nack => Answer::Nack { id: id(nack), code: NackCode::from_u8(octet(nack, "code")) },
            };
            assert_eq!(error.answer(peer), expected, "{} from {name}", vector["name"]);
        }
    }
}

#[test]
fn credit_vectors_are_what_their_totals_encode_to_and_decode_from() {
    for vector in of_type("credit") {
        let total = |field| text(&vector["totals"], field).parse().unwrap();
        let totals = CreditTotals {
            messages_finished: total("messages_finished"),
            bytes_finished: total("bytes_finished"),
            messages_granted: total("messages_granted"),
            bytes_granted: total("bytes_granted"),
        };
        let bytes = unhex(text(&vector, "hex"));
        assert_eq!(totals.encode().as_slice(), bytes);
        assert_eq!(CreditTotals::decode(&bytes), Ok(totals));
    }
}

/// A ZMTP frame in its short form, which all vectors fit.
fn short_frame(flags: u8, body: &[u8]) -> Vec<u8> {
    let len = u8::try_from(body.len()).unwrap();
    [&[flags, len], body].concat()
}

#[test]
fn stream_vectors_are_their_frames_and_carry_valid_headers() {
    for vector in of_type("stream") {
        let frames: Vec<Vec<u8>> =
            vector["frames"].as_array().unwrap().iter().map(|frame| unhex(frame.as_str().unwrap())).collect();
        let last = frames.len() - 1;
        let stream: Vec<u8> = frames
            .iter()
            .enumerate()
            .flat_map(|(at, frame)| short_frame(u8::from(at < last), frame))
            .collect();
        assert_eq!(stream, unhex(text(&vector, "hex")), "{}", vector["name"]);
        let header = frames.iter().find(|frame| !frame.is_empty()).unwrap();
        assert!(Header::decode(header).is_ok(), "{}", vector["name"]);
    }
    for vector in of_type("greeting") {
        let expected = [&[0xff][..], &[0; 8], &[0x7f, 3, 1], b"NULL", &[0; 16 + 32]].concat();
        assert_eq!(expected, unhex(text(&vector, "hex")));
    }
    for vector in of_type("command") {
        assert_eq!(short_frame(4, &unhex(text(&vector, "body"))), unhex(text(&vector, "hex")));
    }
}

/// The rows of all tables under the heading that ends with `title`, cells without backticks.
fn table(document: &str, title: &str) -> Vec<Vec<String>> {
    let lines = document.lines().skip_while(|line| !(line.starts_with('#') && line.ends_with(title))).skip(1);
    let rows: Vec<Vec<String>> = lines
        .take_while(|line| !line.starts_with('#'))
        .filter(|line| line.starts_with('|') && !line.starts_with("| ---"))
        .map(|line| line.trim_matches('|').split(" |").map(|cell| cell.trim().to_owned()).collect())
        .collect();
    assert!(rows.len() > 1, "no table under `{title}`");
    rows
}

/// First and second cell of the rows that begin with a number.
fn numbered(title: &str) -> Vec<(u8, String)> {
    let document = document();
    let rows = table(&document, title);
    rows.iter().filter_map(|row| Some((row[0].parse().ok()?, row[1].clone()))).collect()
}

fn named<T: Copy + ToString>(all: &[T], number: impl Fn(T) -> u8) -> Vec<(u8, String)> {
    all.iter().map(|one| (number(*one), one.to_string())).collect()
}

#[test]
fn the_document_has_the_same_vectors_as_the_file() {
    let document = document();
    let (_, golden) = document.split_once("## 7. Golden vectors").unwrap();
    let rows = golden.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| ---"));
    let mut in_document = BTreeMap::new();
    for row in rows.filter(|row| !row.starts_with("| name |")) {
        let cells: Vec<&str> = row.trim_matches('|').split(" |").map(str::trim).collect();
        let ([name, meaning, answers @ .., hex], true) = (cells.as_slice(), cells.len() >= 3) else {
            panic!("{row}");
        };
        let hex = hex.trim_matches('`').to_owned();
        let row = ((*meaning).to_owned(), answers.join(" | "), hex);
        assert!(in_document.insert((*name).to_owned(), row).is_none(), "{name} stands there twice");
    }
    let mut in_file = BTreeMap::new();
    for vector in vectors() {
        let answers: Vec<String> = match vector.get("answers") {
            Some(answers) => {
                ["own", "foreign", "req", "push"].map(|peer| answer_cell(&answers[peer])).to_vec()
            }
            None => Vec::new(),
        };
        let row = (text(&vector, "meaning").to_owned(), answers.join(" | "), text(&vector, "hex").to_owned());
        assert!(in_file.insert(text(&vector, "name").to_owned(), row).is_none(), "{vector} is there twice");
    }
    assert_eq!(in_document, in_file);
}

fn answer_cell(answer: &Value) -> String {
    match answer {
        Value::Null => "–".to_owned(),
        nack if id(nack) == 0x0102_0304_0506_0708 => format!("Nack {}", nack["code"]),
        nack => format!("Nack {}, id {}", nack["code"], id(nack)),
    }
}

#[test]
fn the_documents_numbers_are_the_codes_numbers() {
    assert_eq!(numbered("3.1 Kinds"), named(Kind::ALL, Kind::as_u8));
    assert_eq!(numbered("3.2 Delivery modes"), named(DeliveryMode::ALL, DeliveryMode::as_u8));
    assert_eq!(numbered("3.4 Codecs"), named(Codec::ALL, Codec::as_u8));
    assert_eq!(numbered("3.5 Error codes"), named(NackCode::ALL, NackCode::as_u8));
    let accounts = named(CreditAccount::ALL, CreditAccount::as_u8);
    assert_eq!(numbered("4. Credit (own nodes only)")[..accounts.len()], accounts);
    let bits = [
        (flags::DEADLINE, "deadline"),
        (flags::TRACE, "trace context"),
        (flags::SENDER, "sender"),
        (flags::EXTRAS, "extras"),
        (flags::CHUNKED, "chunked"),
        (32, "ignored"),
        (64, "ignored"),
        (flags::MUST_UNDERSTAND, "must-understand"),
    ];
    assert_eq!(numbered("3.3 Flags"), bits.map(|(bit, name)| (bit, name.to_owned())));
}

#[test]
fn the_document_says_for_each_error_code_whether_the_handler_ran() {
    for row in &table(&document(), "3.5 Error codes")[1..] {
        let code = NackCode::from_u8(row[0].parse().unwrap());
        assert_eq!(code.never_ran(), row[2] == "never ran", "{code}");
    }
}

#[test]
fn the_documents_limits_are_the_codes_limits() {
    let limits = [
        ("octets of the fixed part", FIXED_LEN),
        ("octets of a header, with what is ignored", HEADER_LEN_MAX),
        ("octets of a handler name", NAME_LEN_MAX),
        ("octets of the claimed sender's endpoint", SENDER_ENDPOINT_LEN_MAX),
        ("octets of extras", EXTRAS_LEN_MAX),
        ("entries of extras", EXTRAS_COUNT_MAX),
        ("depth", usize::from(DEPTH_MAX)),
        ("octets of a Credit's payload", CREDIT_LEN),
    ];
    let expected: Vec<Vec<String>> =
        limits.iter().map(|(name, limit)| vec![(*name).to_owned(), limit.to_string()]).collect();
    assert_eq!(table(&document(), "3.6 Limits")[1..], expected);
}
