//! Tests of the extras' encoding: its forms, its limits, and that nothing malformed is let in.

#![allow(clippy::indexing_slicing)]

use proptest::prelude::*;

use super::*;

fn encoded(entries: &[(&str, &str)]) -> Result<Vec<u8>, ExtrasError> {
    let mut out = Vec::new();
    encode_extras(entries.iter().copied(), &mut out).map(|()| out)
}

fn decoded(bytes: &[u8]) -> Result<Vec<(&str, &str)>, ExtrasError> {
    Extras::decode(bytes).map(|extras| extras.iter().collect())
}

#[test]
fn the_shortest_form_is_written() {
    assert_eq!(encoded(&[]).unwrap(), [0x80]);
    assert_eq!(encoded(&[("a", "")]).unwrap(), [0x81, 0xa1, b'a', 0xa0]);
    for (len, head) in
        [(31, vec![0xbf]), (32, vec![0xd9, 32]), (255, vec![0xd9, 255]), (256, vec![0xda, 1, 0])]
    {
        let value = "v".repeat(len);
        let expected = [&[0x81, 0xa1, b'k'], head.as_slice(), value.as_bytes()].concat();
        assert_eq!(encoded(&[("k", &value)]).unwrap(), expected);
    }
    let names: Vec<String> = (0..16).map(|n| n.to_string()).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert_eq!(encoded(&entries[..15]).unwrap()[..1], [0x8f]);
    assert_eq!(encoded(&entries).unwrap()[..3], [0xde, 0, 16]);
}

#[test]
fn longer_forms_of_the_same_map_are_read_too() {
    let bytes = [0xde, 0, 1, 0xda, 0, 1, b'k', 0xd9, 1, b'v'];
    assert_eq!(decoded(&bytes).unwrap(), [("k", "v")]);
}

#[test]
fn malformed_maps_are_refused_with_their_reason() {
    for (bytes, reason) in [
        (&[][..], ExtrasError::Truncated),
        (&[0x90], ExtrasError::NotAMap),
        (&[0xdf, 0, 0, 0, 0], ExtrasError::NotAMap),
        (&[0xde, 0], ExtrasError::Truncated),
        (&[0x81], ExtrasError::Truncated),
        (&[0x81, 0xa1], ExtrasError::Truncated),
        (&[0x81, 0xa1, b'k'], ExtrasError::Truncated),
        (&[0x81, 0xa1, b'k', 0xd9], ExtrasError::Truncated),
        (&[0x81, 0xa1, b'k', 0xda, 0], ExtrasError::Truncated),
        (&[0x81, 0x01, 0xa0], ExtrasError::NotAString),
        (&[0x81, 0xa0, 0xc0], ExtrasError::NotAString),
        (&[0x81, 0xa0, 0xdb, 0, 0, 0, 0], ExtrasError::NotAString),
        (&[0x81, 0xa1, 0xff, 0xa0], ExtrasError::NotUtf8),
        (&[0x80, 0], ExtrasError::Trailing { len: 1 }),
        (&[0xde, 0, 65], ExtrasError::TooMany { count: 65 }),
        (&[0x82, 0xa1, b'k', 0xa0, 0xd9, 1, b'k', 0xa0], ExtrasError::DuplicateKey),
    ] {
        assert_eq!(decoded(bytes), Err(reason), "{bytes:02x?}");
    }
}

#[test]
fn limits_hold_when_writing_and_leave_the_buffer_as_it_was() {
    let names: Vec<String> = (0..65).map(|n| n.to_string()).collect();
    let entries: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    assert!(encoded(&entries[..64]).is_ok());

    let long = "v".repeat(EXTRAS_LEN_MAX);
    // Map, key and the value's own head take 6 octets.
    assert!(encoded(&[("k", &long[6..])]).is_ok());
    for (entries, reason) in [
        (entries.as_slice(), ExtrasError::TooMany { count: 65 }),
        (&[("k", &long[5..])], ExtrasError::TooLong { len: EXTRAS_LEN_MAX + 1 }),
        (&[("k", &"v".repeat(70_000))], ExtrasError::TooLong { len: 70_000 }),
        (&[("k", "1"), ("l", ""), ("k", "2")], ExtrasError::DuplicateKey),
    ] {
        let mut out = b"before".to_vec();
        assert_eq!(encode_extras(entries.iter().copied(), &mut out), Err(reason));
        assert_eq!(out, b"before");
    }
}

#[test]
fn too_long_a_map_is_refused_before_it_is_read() {
    let bytes = vec![0; EXTRAS_LEN_MAX + 1];
    assert_eq!(decoded(&bytes), Err(ExtrasError::TooLong { len: EXTRAS_LEN_MAX + 1 }));
}

#[test]
fn a_value_is_found_by_its_key() {
    let bytes = encoded(&[("am.kind", "unary"), ("tenant", "blue")]).unwrap();
    let extras = Extras::decode(&bytes).unwrap();
    assert_eq!(
        (extras.get("tenant"), extras.get("am.kind"), extras.get("x")),
        (Some("blue"), Some("unary"), None)
    );
    assert_eq!((extras.len(), extras.iter().len(), extras.is_empty()), (2, 2, false));
    assert!(Extras::default().is_empty());
}

proptest! {
    #[test]
    fn decoding_gives_back_what_was_encoded(map in prop::collection::btree_map(".{0,40}", ".{0,80}", 0..20)) {
        let entries: Vec<_> = map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let bytes = encoded(&entries).unwrap();
        prop_assert_eq!(decoded(&bytes).unwrap(), entries);
        for end in 0..bytes.len() {
            prop_assert!(Extras::decode(&bytes[..end]).is_err());
        }
    }

    #[test]
    fn arbitrary_octets_never_panic_and_an_accepted_map_is_whole(
        bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(extras) = Extras::decode(&bytes) {
            prop_assert_eq!(extras.iter().count(), extras.len());
        }
    }

    #[test]
    fn a_changed_octet_never_panics(
        map in prop::collection::btree_map(".{0,9}", ".{0,9}", 0..9),
        at: prop::sample::Index,
        octet: u8,
    ) {
        let entries: Vec<_> = map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let mut bytes = encoded(&entries).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = octet;
        if let Ok(extras) = Extras::decode(&bytes) {
            prop_assert_eq!(extras.iter().count(), extras.len());
        }
    }
}
