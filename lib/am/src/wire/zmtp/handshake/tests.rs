//! The handshake against real and hostile peers, and every split of its octets.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::id::{Incarnation, InstanceId};
use crate::wire::zmtp::command;
use crate::wire::zmtp::properties::{PropertiesError, push};

fn node(name: u8) -> AmHello {
    AmHello {
        version: 1,
        instance: InstanceId::from_bytes([name; 16]).unwrap(),
        incarnation: Incarnation::from_bytes([name; 16]),
        endpoints: vec![format!("tcp://10.0.0.{name}:5555")],
        host: "host".to_owned(),
        max_message_len: 64 << 20,
        credit_messages: 64,
        credit_bytes: 1 << 20,
    }
}

fn ready(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in properties {
        push(name, value, &mut list).unwrap();
    }
    let mut out = Vec::new();
    command::encode_ready(&list, &mut out);
    out
}

fn foreign_ready(socket_type: SocketType) -> Vec<u8> {
    ready(&[("Socket-Type", socket_type.as_str().as_bytes())])
}

fn greeting() -> Vec<u8> {
    greeting::encode(&MechanismName::NULL).to_vec()
}

/// A peer's greeting and what it sends behind.
fn stream(behind: &[u8]) -> Vec<u8> {
    [&greeting(), behind].concat()
}

fn feed(role: Role, bytes: &[u8]) -> (Handshake, Result<usize, HandshakeError>) {
    let mut handshake = Handshake::new(role, node(1));
    let result = handshake.handle_input(bytes);
    (handshake, result)
}

fn refusal(role: Role, bytes: &[u8]) -> HandshakeError {
    let (mut handshake, result) = feed(role, bytes);
    let error = result.unwrap_err();
    assert_eq!(handshake.handle_input(b"more"), Err(error.clone()), "an error stays");
    assert_eq!((handshake.status(), handshake.peer()), (Status::NeedInput, None));
    assert_eq!(handshake.take_output()[..64], greeting(), "our greeting can still be written");
    assert!(error.is_permanent(), "{error}");
    error
}

/// Lets two sides talk until neither has anything to say; gives the octets that each sent.
fn converse(one: &mut Handshake, other: &mut Handshake) -> (Vec<u8>, Vec<u8>) {
    let (mut from_one, mut from_other) = (Vec::new(), Vec::new());
    loop {
        let (right, left) = (one.take_output(), other.take_output());
        if right.is_empty() && left.is_empty() {
            return (from_one, from_other);
        }
        assert_eq!(other.handle_input(&right), Ok(right.len()));
        assert_eq!(one.handle_input(&left), Ok(left.len()));
        from_one.extend(right);
        from_other.extend(left);
        for side in [&mut *one, &mut *other] {
            if side.status() == Status::NeedAnswer {
                side.answer();
            }
        }
    }
}

/// The octets that a dialler of ours sends before traffic.
fn dialler_stream() -> Vec<u8> {
    converse(&mut Handshake::new(Role::Dial, node(2)), &mut Handshake::new(Role::Listen, node(1))).0
}

#[test]
fn two_nodes_meet_as_dealer_and_router() {
    let (mut dialler, mut listener) =
        (Handshake::new(Role::Dial, node(1)), Handshake::new(Role::Listen, node(2)));
    converse(&mut dialler, &mut listener);
    assert_eq!((dialler.status(), listener.status()), (Status::Done, Status::Done));
    let (met_listener, met_dialler) = (dialler.into_peer().unwrap(), listener.into_peer().unwrap());
    assert_eq!(met_listener.socket_type, SocketType::Router);
    assert_eq!(met_dialler.socket_type, SocketType::Dealer);
    assert_eq!((met_listener.minor, met_dialler.minor), (1, 1));
    assert_eq!((met_listener.own, met_dialler.own), (Some(node(2)), Some(node(1))));
}

#[test]
fn a_dialler_says_ready_after_the_greeting_and_a_listener_only_when_told() {
    let mut dialler = Handshake::new(Role::Dial, node(1));
    assert_eq!(dialler.take_output(), greeting());
    dialler.handle_input(&greeting()[..63]).unwrap();
    assert!(dialler.take_output().is_empty());
    dialler.handle_input(&greeting()[63..]).unwrap();
    assert_eq!(dialler.take_output()[2..8], *b"\x05READY");

    let (mut listener, result) = feed(Role::Listen, &dialler_stream());
    assert_eq!((result.is_ok(), listener.status()), (true, Status::NeedAnswer));
    assert_eq!(listener.take_output(), greeting());
    assert_eq!(listener.peer().unwrap().own, Some(node(2)), "its owner sees whom it would accept");
    listener.answer();
    assert_eq!(
        (listener.take_output()[2..8].to_vec(), listener.status()),
        (b"\x05READY".to_vec(), Status::Done)
    );
    listener.answer();
    assert!(listener.take_output().is_empty(), "one answer is enough");
}

#[test]
fn an_answer_before_its_time_says_nothing() {
    let mut listener = Handshake::new(Role::Listen, node(1));
    drop(listener.take_output());
    listener.answer();
    assert_eq!((listener.take_output(), listener.status()), (Vec::new(), Status::NeedInput));
}

#[test]
fn both_sides_use_the_lower_version() {
    for (ours, theirs) in [(1, 7), (7, 1), (3, 3)] {
        let mut dialler = Handshake::new(Role::Dial, AmHello { version: ours, ..node(1) });
        let mut listener = Handshake::new(Role::Listen, AmHello { version: theirs, ..node(2) });
        converse(&mut dialler, &mut listener);
        for side in [dialler, listener] {
            assert_eq!(side.into_peer().unwrap().own.unwrap().version, ours.min(theirs));
        }
    }
}

#[test]
fn octets_behind_ready_stay_with_the_caller() {
    for (role, ready) in [
        (Role::Listen, foreign_ready(SocketType::Push)),
        (Role::DialForeign, foreign_ready(SocketType::Router)),
        (Role::Listen, dialler_stream()[64..].to_vec()),
    ] {
        let whole = stream(&ready);
        let (mut handshake, result) = feed(role, &[&whole, b"\0\x05hello".as_slice()].concat());
        assert_eq!((result, handshake.status()), (Ok(whole.len()), Status::NeedAnswer));
        assert_eq!(handshake.handle_input(b"\0\x05hello"), Ok(0));
        handshake.answer();
        assert_eq!((handshake.handle_input(b"\0\x05hello"), handshake.status()), (Ok(0), Status::Done));
    }
}

#[test]
fn the_ready_of_a_libzmq_dealer_is_accepted_with_its_greeting_in_steps() {
    let mut theirs = greeting();
    theirs[8] = 1; // libzmq puts a length in the padding
    let dealer = b"\x04\x29\x05READY\x0BSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0";
    let mut listener = Handshake::new(Role::Listen, node(1));
    assert_eq!(
        listener.take_output().len(),
        64,
        "all of ours goes first: they wait for it between the steps"
    );
    for part in [&theirs[..10], &theirs[10..11], &theirs[11..], dealer] {
        assert_eq!(listener.status(), Status::NeedInput);
        assert_eq!(listener.handle_input(part), Ok(part.len()));
    }
    let peer = Hello { socket_type: SocketType::Dealer, identity: Vec::new(), minor: 1, own: None };
    assert_eq!(listener.peer(), Some(&peer));
    listener.answer();
    let answer =
        [b"\x04\x39\x05READY\x0BSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\x10", [1; 16].as_slice()];
    assert_eq!(listener.take_output(), answer.concat());
}

#[test]
fn a_zmtp_3_0_peer_is_known_by_its_minor_version() {
    let mut bytes = stream(&foreign_ready(SocketType::Req));
    bytes[11] = 0;
    assert_eq!(feed(Role::Listen, &bytes).0.peer().unwrap().minor, 0);
}

#[test]
fn each_foreign_peer_is_presented_the_type_that_fits_it_or_refused() {
    use SocketType::{Dealer, Pair, Pub, Pull, Push, Rep, Req, Router, Sub, Xpub, Xsub};
    let types = [Req, Rep, Dealer, Router, Pub, Sub, Xpub, Xsub, Push, Pull, Pair];
    let fits = |role, theirs| match (role, theirs) {
        (Role::Listen, Dealer | Router | Req) | (Role::DialForeign, Dealer | Req) => Some(Router),
        (Role::DialForeign, Router | Rep) => Some(Dealer),
        (_, Push) => Some(Pull),
        (Role::DialForeign, Pull) => Some(Push),
        _ => None,
    };
    for role in [Role::Listen, Role::DialForeign] {
        for theirs in types {
            let bytes = stream(&foreign_ready(theirs));
            let Some(ours) = fits(role, theirs) else {
                let error = refusal(role, &bytes);
                assert!(matches!(error, HandshakeError::SocketType { theirs: named, .. } if named == theirs));
                continue;
            };
            assert!(ours.can_talk_to(theirs));
            let (mut handshake, _) = feed(role, &bytes);
            drop(handshake.take_output());
            handshake.answer();
            let answer = handshake.take_output();
            let said = Hello::decode(&answer[8..], 1).unwrap();
            assert_eq!((said.socket_type, said.own), (ours, None), "{role:?} {theirs}");
            let identity = if matches!(ours, Dealer | Router) { vec![1; 16] } else { Vec::new() };
            assert_eq!(said.identity, identity);
        }
    }
}

#[test]
fn a_node_of_ours_must_present_the_type_of_its_role() {
    let as_type = |socket_type| {
        let mut out = greeting();
        command::encode_ready(&node(2).encode(socket_type), &mut out);
        out
    };
    for (role, theirs) in [(Role::Listen, SocketType::Router), (Role::Dial, SocketType::Dealer)] {
        let error = refusal(role, &as_type(theirs));
        assert!(
            matches!(error, HandshakeError::SocketType { theirs: named, .. } if named == theirs),
            "{error}"
        );
    }
}

#[test]
fn a_node_that_dials_a_foreign_socket_is_told_how_to() {
    let error = refusal(Role::Dial, &stream(&foreign_ready(SocketType::Rep)));
    assert_eq!(error, HandshakeError::Foreign { socket_type: SocketType::Rep });
    assert!(error.to_string().contains("connect_foreign"));
}

#[test]
fn what_was_dialled_as_foreign_stays_foreign_whatever_it_says() {
    let (mut handshake, result) = feed(Role::DialForeign, &dialler_stream());
    assert!(result.is_ok());
    assert_eq!(handshake.peer().unwrap().own, None);
    drop(handshake.take_output());
    handshake.answer();
    assert!(!handshake.take_output().windows(4).any(|window| window == b"X-AM"));
}

#[test]
fn what_is_no_zmtp_3_is_refused_at_its_first_wrong_octet() {
    let greeting_error = |bytes: &[u8]| match refusal(Role::Listen, bytes) {
        HandshakeError::Greeting(error) => error,
        other => panic!("{other}"),
    };
    assert_eq!(greeting_error(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"), GreetingError::NotZmtp { first: b'G' });
    assert_eq!(greeting_error(b"\x16\x03\x01"), GreetingError::NotZmtp { first: 0x16 }); // a TLS hello
    assert_eq!(greeting_error(b"\x01\x00"), GreetingError::NotZmtp { first: 1 });
    assert_eq!(greeting_error(b"\xFF\0\0\0\0\0\0\0\x01\0"), GreetingError::Unversioned);
    assert_eq!(greeting_error(b"\xFF\0\0\0\0\0\0\0\x01\x7F\x01"), GreetingError::OldVersion { major: 1 });
}

#[test]
fn another_mechanism_is_refused_by_all_its_octets() {
    for name in [b"PLAIN".as_slice(), b"CURVE", b"null", b"NULL\0x"] {
        let mut bytes = greeting();
        bytes[12..32].fill(0);
        bytes[12..12 + name.len()].copy_from_slice(name);
        let error = refusal(Role::Dial, &bytes);
        assert!(matches!(error, HandshakeError::Mechanism { .. }), "{error}");
    }
}

#[test]
fn only_commands_may_precede_traffic_and_their_flags_are_judged_alone() {
    for flags in (0..=u8::MAX).filter(|flags| ![0x04, 0x06].contains(flags)) {
        assert_eq!(refusal(Role::Listen, &stream(&[flags])), HandshakeError::Flags { flags });
    }
}

#[test]
fn a_large_size_is_refused_before_any_octet_of_the_body() {
    for size in [8193, 1 << 40, u64::MAX] {
        let bytes = stream(&[[0x06].as_slice(), &size.to_be_bytes()].concat());
        assert_eq!(refusal(Role::Listen, &bytes), HandshakeError::TooLarge { size, limit: 8192 });
        assert!(feed(Role::Listen, &bytes[..bytes.len() - 1]).1.is_ok());
    }
}

#[test]
fn a_long_head_may_have_a_small_size_and_the_largest_ready_is_taken() {
    let short = foreign_ready(SocketType::Req);
    let long = [&[0x06, 0, 0, 0, 0, 0, 0, 0], &short[1..]].concat();
    assert_eq!(feed(Role::Listen, &stream(&long)).1, Ok(64 + long.len()));

    let value_len = 8192 - b"\x05READY\x0BSocket-Type\0\0\0\x03REQ\x03X-A\0\0\0\0".len();
    let largest = ready(&[("Socket-Type", b"REQ"), ("X-A", &vec![0; value_len])]);
    assert_eq!(largest.len(), 9 + 8192);
    assert_eq!(feed(Role::Listen, &stream(&largest)).1, Ok(64 + 9 + 8192));
}

#[test]
fn a_command_out_of_place_is_refused() {
    let unexpected = |name: &str| HandshakeError::UnexpectedCommand { name: name.to_owned() };
    for (command, error) in [
        (b"\x04\x07\x04PING\0\0".as_slice(), unexpected("PING")),
        (b"\x04\x05\x04PONG", unexpected("PONG")),
        (b"\x04\x0A\x09SUBSCRIBE", unexpected("SUBSCRIBE")),
        (b"\x04\x06\x05HELLO", unexpected("HELLO")),
        (b"\x04\x00", HandshakeError::Command(CommandError::Name)),
        (b"\x04\x03\xFFab", HandshakeError::Command(CommandError::Name)),
        (b"\x04\x06\x05READY", HandshakeError::Hello(HelloError::Missing { name: "Socket-Type" })),
        (b"\x04\x07\x05READYx", HandshakeError::Hello(HelloError::Properties(PropertiesError::Truncated))),
    ] {
        for role in [Role::Listen, Role::Dial, Role::DialForeign] {
            assert_eq!(refusal(role, &stream(command)), error);
        }
    }
}

#[test]
fn the_reason_of_an_error_is_kept_in_printable_form() {
    let error = refusal(Role::Dial, &stream(b"\x04\x0C\x05ERROR\x054\x1B00\xFF"));
    assert_eq!(error, HandshakeError::Refused { reason: "4?00?".to_owned() });
}

#[test]
fn an_end_before_its_time_says_what_was_owed_and_is_worth_another_try() {
    for (role, bytes, words) in [
        (Role::Dial, Vec::new(), "owes its greeting"),
        (Role::Dial, greeting(), "owes its READY; it may be overloaded"),
        (Role::DialForeign, greeting(), "owes its READY; if it is a node, use `connect`"),
    ] {
        let error = feed(role, &bytes).0.unfinished();
        assert!(error.to_string().contains(words), "{error}");
        assert!(!error.is_permanent());
    }
    let (handshake, error) = feed(Role::Dial, b"x");
    assert_eq!(Err(handshake.unfinished()), error);
}

/// What a run ended with: octets consumed, status and peer, or the error; and all that was to be written.
type Outcome = (Result<(usize, Status, Option<Hello>), HandshakeError>, Vec<u8>);

/// Feeds `bytes` in parts of the given lengths (over and over), offering again what was not consumed.
fn run(role: Role, bytes: &[u8], parts: &[usize]) -> Outcome {
    let mut handshake = Handshake::new(role, node(1));
    let (mut consumed, mut offered) = (0, 0);
    for part in parts.iter().cycle() {
        if offered == bytes.len() {
            break;
        }
        offered = (offered + part).min(bytes.len());
        match handshake.handle_input(&bytes[consumed..offered]) {
            Ok(count) => consumed += count,
            Err(error) => return (Err(error), handshake.take_output()),
        }
        assert!(handshake.partial.capacity() <= 9 + PRE_TRAFFIC_COMMANDS_LEN_MAX);
        if handshake.status() == Status::NeedAnswer {
            handshake.answer();
        }
    }
    let (status, output) = (handshake.status(), handshake.take_output());
    (Ok((consumed, status, handshake.into_peer())), output)
}

fn any_role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Listen), Just(Role::Dial), Just(Role::DialForeign)]
}

proptest! {
    #[test]
    fn any_split_gives_the_same_outcome(
        role in any_role(),
        own: bool,
        traffic in vec(any::<u8>(), 0..40),
        damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        parts in vec(1..80_usize, 1..12),
    ) {
        let mut bytes = if own { dialler_stream() } else { stream(&foreign_ready(SocketType::Router)) };
        bytes.extend(traffic);
        if let Some((at, octet)) = damage {
            *at.get_mut(&mut bytes) = octet;
        }
        let whole = run(role, &bytes, &[bytes.len()]);
        prop_assert_eq!(&run(role, &bytes, &parts), &whole);
        prop_assert_eq!(&run(role, &bytes, &[1]), &whole);
    }

    #[test]
    fn arbitrary_octets_never_panic_nor_fill_memory(
        role in any_role(),
        behind_greeting: bool,
        noise in vec(any::<u8>(), 0..300),
    ) {
        let bytes = if behind_greeting { stream(&noise) } else { noise };
        let _ = run(role, &bytes, &[7]);
    }

    #[test]
    fn an_endless_command_never_fills_memory(size in 0..=u64::MAX, parts in vec(1..3000_usize, 1..9)) {
        let mut bytes = stream(&[[0x06].as_slice(), &size.to_be_bytes()].concat());
        bytes.resize(bytes.len() + 9000, 0x05);
        let outcome = run(Role::Listen, &bytes, &parts).0;
        prop_assert!(outcome.is_err());
    }

    #[test]
    fn a_command_of_allowed_size_takes_space_as_it_arrives(size in 0..=8192_u64, arrived in 0..200_usize) {
        let mut handshake = Handshake::new(Role::Listen, node(1));
        let bytes = stream(&[[0x06].as_slice(), &size.to_be_bytes(), &vec![0x41; arrived]].concat());
        for octet in bytes {
            if handshake.handle_input(&[octet]).is_err() {
                break;
            }
        }
        prop_assert!(handshake.partial.capacity() <= 2 * (9 + 200));
    }
}
