//! The greeting: the first 64 octets in each direction.
//!
//! Ours is written whole as soon as the connection stands, for a peer may send its own in steps and wait for
//! ours between them. The peer's is judged as early as its octets allow, so that an HTTP client or an old
//! ZeroMQ is told at once instead of being waited for. Padding, the as-server octet and the filler are not
//! looked at: libzmq puts other things there than the specification says.

use super::mechanism::MechanismName;

/// Octets in a greeting.
pub const GREETING_LEN: usize = 64;

const SIGNATURE_FIRST: u8 = 0xFF;
const SIGNATURE_LAST: u8 = 0x7F;
const SIGNATURE_LAST_AT: usize = 9;
const MAJOR: u8 = 3;
const MAJOR_AT: usize = 10;
const MINOR: u8 = 1;

/// What a peer's greeting says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Greeting {
    /// 0 for a peer that speaks ZMTP 3.0, 1 or more for 3.1; at least 1 when its major version is above 3,
    /// since such a peer has to speak 3.1 with us.
    pub minor: u8,
    /// The security mechanism; it has to equal ours in all 20 octets.
    pub mechanism: MechanismName,
}

/// Why the first octets of a peer are no greeting that we can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GreetingError {
    /// The first octet is not FF: another protocol, or ZMTP 1.0.
    #[error(
        "the peer does not speak ZMTP 3 (its first octet is {first:#04x}); check what listens at the address"
    )]
    NotZmtp {
        /// The octet.
        first: u8,
    },
    /// The signature is that of a ZMTP 1.0 frame.
    #[error("the peer speaks ZMTP 1.0; it needs ZeroMQ 4.0 or later")]
    Unversioned,
    /// The peer speaks an older version; talking that would be a way around authentication.
    #[error("the peer speaks ZMTP {major}, the oldest that we accept is 3; it needs ZeroMQ 4.0 or later")]
    OldVersion {
        /// Octet 10 of the greeting.
        major: u8,
    },
}

/// Our greeting for a mechanism. The as-server octet is 0, as libzmq always sends it.
#[must_use]
pub fn encode(mechanism: &MechanismName) -> [u8; GREETING_LEN] {
    const HEAD: [u8; 12] = [SIGNATURE_FIRST, 0, 0, 0, 0, 0, 0, 0, 0, SIGNATURE_LAST, MAJOR, MINOR];
    let mut greeting = [0; GREETING_LEN];
    let content = HEAD.iter().chain(mechanism.as_bytes());
    for (slot, octet) in greeting.iter_mut().zip(content) {
        *slot = *octet;
    }
    greeting
}

/// Reads a greeting from the first octets of a connection; `None` while more of them are needed.
///
/// # Errors
/// As soon as `bytes` shows that no acceptable greeting can follow.
pub fn decode(bytes: &[u8]) -> Result<Option<Greeting>, GreetingError> {
    if let Some(&first) = bytes.first()
        && first != SIGNATURE_FIRST
    {
        return Err(GreetingError::NotZmtp { first });
    }
    if let Some(last) = bytes.get(SIGNATURE_LAST_AT)
        && last & 1 == 0
    {
        return Err(GreetingError::Unversioned);
    }
    let Some(&major) = bytes.get(MAJOR_AT) else { return Ok(None) };
    if major < MAJOR {
        return Err(GreetingError::OldVersion { major });
    }
    let Some(greeting) = bytes.first_chunk::<GREETING_LEN>() else { return Ok(None) };
    let [_, _, _, _, _, _, _, _, _, _, _, minor, rest @ ..] = greeting;
    let Some(mechanism) = rest.first_chunk() else { return Ok(None) };
    let minor = if major > MAJOR { (*minor).max(MINOR) } else { *minor };
    Ok(Some(Greeting { minor, mechanism: MechanismName::from_bytes(*mechanism) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> [u8; GREETING_LEN] {
        encode(&MechanismName::NULL)
    }

    #[test]
    fn our_greeting_has_the_bytes_of_the_specification() {
        let mut golden = vec![0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0x7F, 3, 1, b'N', b'U', b'L', b'L'];
        golden.resize(64, 0);
        assert_eq!(ours().as_slice(), golden);
    }

    #[test]
    fn a_greeting_is_read_only_once_it_is_whole() {
        let greeting = ours();
        for len in 0..GREETING_LEN {
            assert_eq!(decode(&greeting[..len]), Ok(None), "{len} octets");
        }
        let read = decode(&greeting).unwrap().unwrap();
        assert_eq!((read.minor, read.mechanism), (1, MechanismName::NULL));
    }

    #[test]
    fn padding_as_server_and_filler_are_not_looked_at() {
        let mut greeting = ours();
        greeting[1..9].copy_from_slice(&1_u64.to_be_bytes()); // libzmq: length of the identity + 1
        greeting[9] = 0x01; // only bit 0 counts
        greeting[32..].fill(0xAA);
        assert!(decode(&greeting).unwrap().is_some());
    }

    #[test]
    fn older_peers_and_other_protocols_are_told_at_the_first_octet_that_shows_it() {
        let of = |bytes: &[u8]| decode(bytes).unwrap_err();
        assert_eq!(of(b"G"), GreetingError::NotZmtp { first: b'G' });
        assert_eq!(of(b"GET / HTTP/1.1\r\n"), GreetingError::NotZmtp { first: b'G' });
        assert_eq!(of(&[1, 0]), GreetingError::NotZmtp { first: 1 }); // ZMTP 1.0: an empty identity frame
        let long_v1 = [0xFF, 0, 0, 0, 0, 0, 0, 1, 0, 0x00];
        assert_eq!(of(&long_v1), GreetingError::Unversioned);
        assert_eq!(decode(&long_v1[..9]), Ok(None));
        for major in 0..3 {
            let old = [0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0x7F, major];
            assert_eq!(of(&old), GreetingError::OldVersion { major });
        }
    }

    #[test]
    fn a_later_major_version_talks_3_1_with_us() {
        let mut greeting = ours();
        (greeting[10], greeting[11]) = (4, 0);
        assert_eq!(decode(&greeting).unwrap().unwrap().minor, 1);
        (greeting[10], greeting[11]) = (3, 0);
        assert_eq!(decode(&greeting).unwrap().unwrap().minor, 0);
    }
}
