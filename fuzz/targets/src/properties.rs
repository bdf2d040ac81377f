//! The property list of a READY, and what is read from it.

use std::collections::HashSet;

use dynamo_am::wire::zmtp::properties::{Hello, Properties, SocketType, push};

/// Octets before the list: the minor version of the peer's greeting.
const MINOR_LEN: usize = 1;

/// Reads the input, but for its first octet, as the property list of a peer with that minor version.
pub fn properties(data: &[u8]) {
    let (minor, list) = data.split_at_checked(MINOR_LEN).unwrap_or((&[0], data));
    let expected = naive(list);
    let read: Result<Vec<_>, _> = Properties::new(list).and_then(|walk| {
        walk.map(|property| property.map(|property| (property.name.to_owned(), property.value.to_vec())))
            .collect()
    });
    assert_eq!(read.as_ref().ok(), expected.as_ref(), "{:?}", read.as_ref().err());
    if let Ok(read) = &read {
        let mut written = Vec::new();
        for (name, value) in read {
            push(name, value, &mut written).expect("what was read can be written");
        }
        assert_eq!(written, list, "a list has one form");
    }
    match Hello::decode(list, minor[0]) {
        Ok(hello) => is_true_to(&hello, &read.expect("a READY that is taken is a property list"), minor[0]),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The rules of `docs/wire.md`, read off one by one.
fn naive(mut list: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let (mut found, mut names) = (Vec::new(), HashSet::new());
    if list.len() > 8192 {
        return None;
    }
    while let Some((&name_len, rest)) = list.split_first() {
        let (name, rest) = rest.split_at_checked(name_len.into())?;
        let (value_len, rest) = rest.split_at_checked(4)?;
        let value_len = value_len.iter().fold(0, |sum, &octet| sum << 8 | u64::from(octet));
        let (value, rest) = rest.split_at_checked(usize::try_from(value_len).ok()?)?;
        let is_name = |&octet: &u8| octet.is_ascii_alphanumeric() || b"-_.+".contains(&octet);
        if name.is_empty() || !name.iter().all(is_name) || !names.insert(name.to_ascii_lowercase()) {
            return None;
        }
        found.push((String::from_utf8(name.to_vec()).ok()?, value.to_vec()));
        list = rest;
    }
    (found.len() <= 64).then_some(found)
}

/// A hello says what stands in the list, no more and nothing else.
fn is_true_to(hello: &Hello, list: &[(String, Vec<u8>)], minor: u8) {
    let value = |name: &str| {
        list.iter().find(|(at, _)| at.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice())
    };
    assert_eq!(hello.minor, minor);
    assert_eq!(value("Socket-Type"), Some(hello.socket_type.as_str().as_bytes()));
    assert_eq!(value("Identity").unwrap_or_default(), hello.identity);
    assert!(hello.identity.len() <= 255);
    assert_eq!(
        value("X-AM-Version").is_some(),
        hello.own.is_some(),
        "the version alone makes a peer our own"
    );
    let Some(own) = &hello.own else { return };
    assert_ne!(own.version, 0);
    assert_eq!(hello.identity, own.instance.as_bytes());
    assert_eq!(value("X-AM-Incarnation"), Some(own.incarnation.as_bytes().as_slice()));
    assert_eq!(value("X-AM-Host"), Some(own.host.as_bytes()));
    assert_eq!(value("X-AM-Endpoints").unwrap_or_default(), own.endpoints.join(";").as_bytes());
    assert!(own.endpoints.len() <= 64);
    assert!((1..=255).contains(&own.host.len()));
    let again = Hello::decode(&own.encode(SocketType::Dealer), minor).expect("our own READY is a good one");
    assert_eq!(again.own.as_ref(), Some(own));
    assert_eq!((again.socket_type, &again.identity), (SocketType::Dealer, &hello.identity));
}
