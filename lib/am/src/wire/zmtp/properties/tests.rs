//! Property lists, good and bad, and what READY makes of them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn list(properties: &[(&str, &[u8])]) -> Vec<u8> {
    let mut list = Vec::new();
    for (name, value) in properties {
        push(name, value, &mut list).unwrap();
    }
    list
}

fn read(list: &[u8]) -> Result<Vec<(String, Vec<u8>)>, PropertiesError> {
    Properties::new(list)?
        .map(|property| property.map(|property| (property.name.to_owned(), property.value.to_vec())))
        .collect()
}

fn node() -> AmHello {
    AmHello {
        version: AM_VERSION,
        instance: InstanceId::from_bytes(*b"instance-16-long").unwrap(),
        incarnation: Incarnation::from_bytes([9; 16]),
        endpoints: vec!["tcp://10.0.0.1:5555".to_owned(), "ipc:///run/am/x".to_owned()],
        host: "host-1".to_owned(),
        max_message_len: 64 << 20,
        credit_messages: 8192,
        credit_bytes: 16 << 20,
    }
}

/// A complete READY of a node, with one property replaced, or left out by `None`.
fn ready_with(name: &str, value: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for property in Properties::new(&node().encode(SocketType::Dealer)).unwrap() {
        let property = property.unwrap();
        if property.name != name {
            push(property.name, property.value, &mut out).unwrap();
        }
    }
    if let Some(value) = value {
        push(name, value, &mut out).unwrap();
    }
    out
}

#[test]
fn a_list_has_the_bytes_of_the_specification() {
    let dealer = list(&[("Socket-Type", b"DEALER"), ("Identity", b"")]);
    assert_eq!(dealer, b"\x0BSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0");
    assert_eq!(read(b""), Ok(vec![]));
}

#[test]
fn malformed_lists_are_refused() {
    let many = |count: usize| {
        let names: Vec<String> = (0..count).map(|number| format!("n{number}")).collect();
        let pairs: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
        list(&pairs)
    };
    assert_eq!(read(&many(64)).unwrap().len(), 64);
    let too_many = many(65);
    let too_long = vec![0; PROPERTY_LIST_LEN_MAX + 1];
    for (list, error) in [
        (b"\x01".as_slice(), PropertiesError::Truncated),
        (b"\x01a", PropertiesError::Truncated),
        (b"\x01a\0\0\0", PropertiesError::Truncated),
        (b"\x01a\0\0\0\x02x", PropertiesError::Truncated),
        (b"\x01a\xFF\xFF\xFF\xFFx", PropertiesError::Truncated),
        (b"\x01a\0\0\0\x01xj", PropertiesError::Truncated), // trailing junk
        (b"\0\0\0\0\0", PropertiesError::Name),
        (b"\x01 \0\0\0\0", PropertiesError::Name),
        (b"\x01\xFF\0\0\0\0", PropertiesError::Name),
        (b"\x01a\0\0\0\0\x01A\0\0\0\0", PropertiesError::Duplicate),
        (&too_many, PropertiesError::TooMany),
        (&too_long, PropertiesError::TooLong { len: PROPERTY_LIST_LEN_MAX + 1 }),
    ] {
        assert_eq!(read(list), Err(error), "{list:?}");
    }
}

#[test]
fn a_list_that_went_wrong_ends_there() {
    let mut properties = Properties::new(b"\0\x01a\0\0\0\0").unwrap();
    assert_eq!(properties.next(), Some(Err(PropertiesError::Name)));
    assert_eq!(properties.next(), None);
}

#[test]
fn a_property_that_does_not_fit_leaves_the_list_as_it_was() {
    let mut out = list(&[("a", b"x")]);
    let before = out.clone();
    let refused = |name: &str, len: usize, out: &mut Vec<u8>| push(name, &vec![0; len], out).unwrap_err();
    let room = PROPERTY_LIST_LEN_MAX - before.len() - 6;
    assert_eq!(refused("b", room + 1, &mut out), PropertiesError::TooLong { len: PROPERTY_LIST_LEN_MAX + 1 });
    assert_eq!(refused("", 0, &mut out), PropertiesError::Name);
    assert_eq!(refused("a b", 0, &mut out), PropertiesError::Name);
    assert_eq!(refused(&"n".repeat(256), 0, &mut out), PropertiesError::Name);
    assert_eq!(out, before);
    push("b", &vec![0; room], &mut out).unwrap();
    assert_eq!(read(&out).unwrap().len(), 2);
}

#[test]
fn only_pairs_that_zeromq_allows_can_talk() {
    let mut allowed = Vec::new();
    for one in SocketType::ALL {
        assert_eq!(SocketType::from_bytes(one.as_str().as_bytes()), Some(one));
        for other in SocketType::ALL {
            assert_eq!(one.can_talk_to(other), other.can_talk_to(one), "{one} {other}");
            if one.can_talk_to(other) && one.as_str() <= other.as_str() {
                allowed.push(format!("{one}-{other}"));
            }
        }
    }
    allowed.sort();
    let legal = "DEALER-DEALER DEALER-REP DEALER-ROUTER PAIR-PAIR PUB-SUB PUB-XSUB PULL-PUSH REP-REQ REQ-ROUTER \
                 ROUTER-ROUTER SUB-XPUB XPUB-XSUB";
    assert_eq!(allowed.join(" "), legal);
    assert_eq!(SocketType::from_bytes(b"dealer"), None);
    assert_eq!(SocketType::from_bytes(b"CLIENT"), None);
}

#[test]
fn a_foreign_ready_is_read_with_names_in_any_case() {
    let ready = list(&[("SOCKET-TYPE", b"REQ"), ("identity", b"me"), ("X-Other", b"\0\xFF")]);
    let hello = Hello::decode(&ready, 0).unwrap();
    let expected = Hello { socket_type: SocketType::Req, identity: b"me".to_vec(), minor: 0, own: None };
    assert_eq!(hello, expected);
    // Without a version nothing else makes a peer one of ours, and nothing else is judged.
    let ready = list(&[("Socket-Type", b"PUSH"), ("X-AM-Credit", b"nonsense")]);
    assert_eq!(Hello::decode(&ready, 1).unwrap().own, None);
}

#[test]
fn bad_readys_are_refused() {
    let missing = |name| HelloError::Missing { name };
    for (list, error) in [
        (list(&[]), missing("Socket-Type")),
        (list(&[("Identity", b"x")]), missing("Socket-Type")),
        (list(&[("Socket-Type", b"")]), invalid(SOCKET_TYPE, "a socket type of ZMTP 3.1")),
        (list(&[("Socket-Type", b"SERVER")]), invalid(SOCKET_TYPE, "a socket type of ZMTP 3.1")),
        (list(&[("Socket-Type", b"REQ"), ("Identity", &[1; 256])]), invalid(IDENTITY, "at most 255 octets")),
        (b"junk".to_vec(), HelloError::Properties(PropertiesError::Truncated)),
    ] {
        assert_eq!(Hello::decode(&list, 1), Err(error));
    }
    let longest = list(&[("Socket-Type", b"REQ"), ("Identity", &[1; 255])]);
    assert_eq!(Hello::decode(&longest, 1).unwrap().identity.len(), 255);
}

#[test]
fn a_node_that_says_its_version_has_to_say_all_the_rest() {
    for name in [IDENTITY, INCARNATION, HOST, MAX_MESSAGE, CREDIT] {
        assert_eq!(Hello::decode(&ready_with(name, None), 1), Err(HelloError::Missing { name }));
    }
    let silent = Hello::decode(&ready_with(ENDPOINTS, None), 1).unwrap().own.unwrap();
    assert_eq!(silent.endpoints, Vec::<String>::new());
    assert_eq!(Hello::decode(&ready_with(VERSION, None), 1).unwrap().own, None);
}

#[test]
fn a_node_that_contradicts_the_format_is_refused() {
    let crowd = vec!["a"; 65].join(";");
    let long = "x".repeat(256);
    let heavy = vec!["x".repeat(255); 29].join(";");
    for (name, value) in [
        (VERSION, b"0".as_slice()),
        (VERSION, b""),
        (VERSION, b"+1"),
        (VERSION, b"1.0"),
        (VERSION, b"65536"),
        (VERSION, b"\xD9\xA1"), // a digit, but not an ASCII one
        (IDENTITY, b"short"),
        (IDENTITY, b"\0nstance-16-long"),
        (IDENTITY, b"instance-17-long."),
        (INCARNATION, b"short"),
        (HOST, b""),
        (HOST, b"a\nb"),
        (HOST, b"\xFF"),
        (HOST, long.as_bytes()),
        (MAX_MESSAGE, b"-1"),
        (MAX_MESSAGE, b"18446744073709551616"),
        (CREDIT, b"1"),
        (CREDIT, b"1,"),
        (CREDIT, b"1,2,3"),
        (CREDIT, b"1, 2"),
        (ENDPOINTS, b";"),
        (ENDPOINTS, b"a;;b"),
        (ENDPOINTS, b"a;\x1B[2J"),
        (ENDPOINTS, b"\xFF"),
        (ENDPOINTS, crowd.as_bytes()),
        (ENDPOINTS, long.as_bytes()),
        (ENDPOINTS, heavy.as_bytes()),
    ] {
        match Hello::decode(&ready_with(name, Some(value)), 1) {
            Err(HelloError::Invalid { name: bad, .. }) => assert_eq!(bad, name),
            other => panic!("{name} {value:?}: {other:?}"),
        }
    }
}

#[test]
fn a_list_of_ours_that_a_peer_would_refuse_is_not_sent_whole() {
    let mut local = node();
    local.endpoints = vec![String::new(), "a;b".to_owned(), "x".repeat(256), "tcp://h:1".to_owned()];
    local.host = "ü".repeat(200);
    let sent = Hello::decode(&local.encode(SocketType::Router), 1).unwrap().own.unwrap();
    assert_eq!(sent.endpoints, ["tcp://h:1"]);
    assert_eq!(sent.host, "ü".repeat(127));
    for (len, sent_count) in [(1, 64), (255, 28)] {
        local.endpoints = vec!["x".repeat(len); 100];
        let sent = Hello::decode(&local.encode(SocketType::Router), 1).unwrap().own.unwrap();
        assert_eq!(sent.endpoints.len(), sent_count);
    }
}

#[test]
fn only_the_types_that_libzmq_gives_an_identity_carry_ours() {
    for socket_type in SocketType::ALL {
        let hello = Hello::decode(&node().encode_foreign(socket_type), 1).unwrap();
        let expects = matches!(socket_type, SocketType::Req | SocketType::Dealer | SocketType::Router);
        assert_eq!(!hello.identity.is_empty(), expects, "{socket_type}");
        assert_eq!((hello.socket_type, hello.own), (socket_type, None));
    }
}

prop_compose! {
    fn any_node()(
        version in 1..=u16::MAX,
        (first, mut instance) in (1..=u8::MAX, any::<[u8; 16]>()),
        incarnation: [u8; 16],
        endpoints in vec("[a-z0-9:/\\[\\] é]{1,60}", 0..=64),
        host in "[^\\pC]{1,60}",
        (max_message_len, credit_messages, credit_bytes) in any::<(u64, u64, u64)>(),
    ) -> AmHello {
        instance[0] = first;
        let instance = InstanceId::from_bytes(instance).unwrap();
        let incarnation = Incarnation::from_bytes(incarnation);
        AmHello { version, instance, incarnation, endpoints, host, max_message_len, credit_messages, credit_bytes }
    }
}

proptest! {
    #[test]
    fn properties_survive_a_round_trip(values in vec(vec(any::<u8>(), 0..90), 0..=PROPERTY_COUNT_MAX)) {
        let named: Vec<_> = values.into_iter().enumerate().map(|(n, value)| (format!("N-{n}"), value)).collect();
        let mut out = Vec::new();
        for (name, value) in &named {
            push(name, value, &mut out).unwrap();
        }
        prop_assert_eq!(read(&out), Ok(named));
    }

    #[test]
    fn what_a_node_says_survives_a_round_trip(node in any_node(), minor: u8) {
        let hello = Hello::decode(&node.encode(SocketType::Dealer), minor).unwrap();
        prop_assert_eq!(hello.identity.as_slice(), node.instance.as_bytes());
        prop_assert_eq!(hello.minor, minor);
        prop_assert_eq!(hello.own, Some(node));
    }

    #[test]
    fn arbitrary_lists_never_panic(list in vec(any::<u8>(), 0..200)) {
        let _ = Hello::decode(&list, 1);
    }

    #[test]
    fn damaged_lists_never_panic(node in any_node(), at: prop::sample::Index, octet: u8) {
        let mut list = node.encode(SocketType::Dealer);
        *at.get_mut(&mut list) = octet;
        let _ = Hello::decode(&list, 1);
    }
}
