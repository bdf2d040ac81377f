//! The handshake from either side: however the peer's octets are cut, it comes to the same end, takes nothing that
//! lies behind READY, and two nodes of our kind always come to terms.

use arbitrary::{Arbitrary, Unstructured};
use dynamo_am::wire::zmtp::command::{self, Command};
use dynamo_am::wire::zmtp::greeting::{self, GREETING_LEN};
use dynamo_am::wire::zmtp::handshake::{Handshake, HandshakeError, Role, Status};
use dynamo_am::wire::zmtp::mechanism::MechanismName;
use dynamo_am::wire::zmtp::properties::{AM_VERSION, AmHello, Hello, SocketType};
use dynamo_am::{Incarnation, InstanceId};

use crate::input::Cut;

/// Options in an input's first octet: a good greeting stands in front; the rest is READY's property list.
const GREETED: u8 = 1;
const READY: u8 = 2;
/// A dialler takes its peer for foreign; both ends are ours, and the rest says what they are.
const FOREIGN: u8 = 4;
const BOTH: u8 = 8;
/// Most octets of a command before traffic.
const COMMAND_LEN: usize = 8 * 1024;

/// How a handshake came out.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    consumed: usize,
    output: Vec<u8>,
    status: Status,
    peer: Option<Hello>,
    error: Option<HandshakeError>,
}

/// The input comes to a listener.
pub fn handshake_listen(data: &[u8]) {
    let (&options, rest) = data.split_first().unwrap_or((&0, &[]));
    check(Role::Listen, options, Cut::new(rest));
}

/// The input comes to a dialler, of our own peers or of foreign ones; or it says what two ends are that meet.
pub fn handshake_dial(data: &[u8]) {
    let (&options, rest) = data.split_first().unwrap_or((&0, &[]));
    if options & BOTH != 0 {
        return both(rest);
    }
    let role = if options & FOREIGN == 0 { Role::Dial } else { Role::DialForeign };
    check(role, options, Cut::new(rest));
}

fn check(role: Role, options: u8, cut: Cut<'_>) {
    let stream = with_beginning(options, cut.stream);
    let whole = run(role, [stream.as_slice()]);
    let scale = stream.len().div_ceil(1024).max(1);
    assert_eq!(run(role, cut.with_stream(&stream, scale).pieces()), whole, "in pieces");
    if stream.len() <= 512 {
        assert_eq!(run(role, stream.chunks(1)), whole, "octet by octet");
    }
    let expected = naive(role, &stream);
    let found = whole.peer.as_ref().map(|peer| (whole.consumed, peer.clone()));
    assert_eq!(found, expected, "{:?}", whole.error);
    assert_eq!(whole.status == Status::Done, expected.is_some());
    says_what_it_should(role, &whole);
}

/// Puts what the options ask for in front of the octets of the input.
fn with_beginning(options: u8, rest: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    if options & (GREETED | READY) != 0 {
        stream.extend_from_slice(&greeting::encode(&MechanismName::NULL));
    }
    if options & READY != 0 {
        command::encode_ready(rest, &mut stream);
        stream.extend_from_slice(b"traffic");
    } else {
        stream.extend_from_slice(rest);
    }
    stream
}

/// Moves octets as the owner of a handshake does.
fn run<'a>(role: Role, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let mut handshake = Handshake::new(role, hello(b"0123456789abcdef"));
    let mut outcome =
        Outcome { consumed: 0, output: Vec::new(), status: Status::NeedInput, peer: None, error: None };
    let mut input = Vec::new();
    'pieces: for piece in pieces {
        input.extend_from_slice(piece);
        loop {
            outcome.output.extend(handshake.take_output());
            match handshake.status() {
                Status::Done => break 'pieces,
                Status::NeedAnswer => {
                    assert!(handshake.peer().is_some(), "whom to answer is known");
                    handshake.answer();
                    continue;
                }
                Status::NeedInput if input.is_empty() => break,
                Status::NeedInput => {}
            }
            match handshake.handle_input(&input) {
                Ok(used) => {
                    assert!(used > 0 && used <= input.len(), "all octets before traffic are taken");
                    outcome.consumed += used;
                    input.drain(..used);
                }
                Err(error) => {
                    assert_eq!(handshake.handle_input(b"more"), Err(error.clone()), "an error stays");
                    assert_eq!(handshake.unfinished(), error);
                    // How far it read before its error is not said.
                    outcome.consumed = 0;
                    outcome.error = Some(error);
                    break 'pieces;
                }
            }
        }
    }
    outcome.output.extend(handshake.take_output());
    outcome.status = handshake.status();
    if outcome.status == Status::Done {
        assert_eq!(handshake.handle_input(b"traffic"), Ok(0), "traffic is left alone");
    } else {
        assert!(!handshake.unfinished().to_string().is_empty());
    }
    outcome.peer = handshake.into_peer();
    outcome
}

/// A greeting and a READY, and nothing between: where they end, and what they say.
fn naive(role: Role, stream: &[u8]) -> Option<(usize, Hello)> {
    let (greeting, rest) = stream.split_at_checked(GREETING_LEN)?;
    let speaks = greeting[0] == 0xFF && greeting[9] & 1 == 1 && greeting[10] >= 3;
    if !speaks || greeting[12..32] != *b"NULL\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0" {
        return None;
    }
    let (size, body) = match rest.split_first()? {
        (4, rest) => rest.split_at_checked(1)?,
        (6, rest) => rest.split_at_checked(8)?,
        _ => return None,
    };
    let len = size.iter().fold(0, |sum, &octet| sum << 8 | u64::from(octet));
    let len = usize::try_from(len).ok().filter(|&len| len <= COMMAND_LEN)?;
    let (body, behind) = body.split_at_checked(len)?;
    let list = body.strip_prefix(b"\x05READY")?;
    let minor = if greeting[10] > 3 { greeting[11].max(1) } else { greeting[11] };
    let mut hello = Hello::decode(list, minor).ok()?;
    use SocketType::{Dealer, Pull, Push, Rep, Req, Router};
    let fits = match role {
        Role::Listen if hello.own.is_some() => matches!(hello.socket_type, Dealer),
        Role::Listen => matches!(hello.socket_type, Dealer | Router | Req | Push),
        Role::Dial => hello.own.is_some() && matches!(hello.socket_type, Router),
        Role::DialForeign => {
            hello.own = None;
            matches!(hello.socket_type, Router | Rep | Dealer | Req | Push | Pull)
        }
    };
    if let Some(own) = &mut hello.own {
        own.version = own.version.min(AM_VERSION);
    }
    fits.then_some((stream.len() - behind.len(), hello))
}

/// Our greeting at once; our READY when the role says so, and what stands in it suits the peer.
fn says_what_it_should(role: Role, outcome: &Outcome) {
    let (greeting, ready) = outcome.output.split_at(GREETING_LEN);
    assert_eq!(greeting, greeting::encode(&MechanismName::NULL));
    if ready.is_empty() {
        assert!(outcome.status != Status::Done, "who is done has said READY");
        return;
    }
    assert!(role == Role::Dial || outcome.status == Status::Done, "READY leaves before the peer is known");
    let body = if ready[0] == command::FLAGS_COMMAND { &ready[2..] } else { &ready[9..] };
    let Ok(Command::Ready { properties }) = command::parse(body) else {
        panic!("we say READY, nothing else")
    };
    let ours = Hello::decode(properties, 1).expect("our READY is a good one");
    let Some(peer) = &outcome.peer else { return };
    assert!(ours.socket_type.can_talk_to(peer.socket_type));
    assert_eq!(ours.own.is_some(), peer.own.is_some(), "a foreign peer hears nothing of our own");
}

/// What an end says of itself, as an input makes it up.
#[derive(Debug, Arbitrary)]
struct MadeUp {
    instance: [u8; 16],
    version: u16,
    incarnation: [u8; 16],
    endpoints: Vec<String>,
    host: String,
    numbers: [u64; 3],
    cut: u8,
}

impl MadeUp {
    /// What a node can be: its host is 1 to 255 octets of text.
    fn hello(&self) -> AmHello {
        let mut instance = self.instance;
        instance[0] = instance[0].max(1);
        let host: String = self.host.chars().filter(|c| !c.is_control()).take(60).collect();
        let [max_message_len, credit_messages, credit_bytes] = self.numbers;
        AmHello {
            version: self.version.max(1),
            incarnation: Incarnation::from_bytes(self.incarnation),
            endpoints: self.endpoints.clone(),
            host: if host.is_empty() { "host".to_owned() } else { host },
            max_message_len,
            credit_messages,
            credit_bytes,
            ..hello(&instance)
        }
    }
}

/// Two nodes of our kind meet: each learns what the other says, and neither is left waiting.
fn both(data: &[u8]) {
    let mut input = Unstructured::new(data);
    let Ok((dialler, listener)) = input.arbitrary::<(MadeUp, MadeUp)>() else { return };
    let hellos = [dialler.hello(), listener.hello()];
    let mut ends = [(Role::Dial, &hellos[0]), (Role::Listen, &hellos[1])]
        .map(|(role, hello)| Handshake::new(role, hello.clone()));
    let mut ways: [Vec<u8>; 2] = Default::default();
    let cuts = [dialler.cut, listener.cut].map(|cut| usize::from(cut).max(16));
    while ends.iter().any(|end| end.status() != Status::Done) {
        let mut moved = false;
        for (at, end) in ends.iter_mut().enumerate() {
            end.answer();
            let output = end.take_output();
            let incoming = &mut ways[at];
            let used = end.handle_input(&incoming[..incoming.len().min(cuts[at])]).expect("both are ours");
            incoming.drain(..used);
            moved |= used > 0 || !output.is_empty();
            ways[1 - at].extend(output);
        }
        assert!(
            moved || ends.iter().any(|end| end.status() == Status::NeedAnswer),
            "both wait for each other"
        );
    }
    let version = hellos[0].version.min(hellos[1].version);
    for (at, end) in ends.into_iter().enumerate() {
        let own = end.into_peer().and_then(|peer| peer.own).expect("both are ours");
        let said = &hellos[1 - at];
        let sendable = |endpoint: &&String| {
            (1..=255).contains(&endpoint.len()) && !endpoint.contains(|c: char| c == ';' || c.is_control())
        };
        let endpoints: Vec<_> = said.endpoints.iter().filter(sendable).take(64).cloned().collect();
        assert!(endpoints.starts_with(&own.endpoints), "endpoints that may be sent, in order");
        let fit = own.endpoints.len() == endpoints.len() || own.endpoints.join(";").len() + 256 > 7 * 1024;
        assert!(fit, "an endpoint was left out that had room");
        assert_eq!(own, AmHello { version, endpoints: own.endpoints.clone(), ..said.clone() });
    }
}

fn hello(instance: &[u8; 16]) -> AmHello {
    AmHello {
        version: AM_VERSION,
        instance: InstanceId::from_bytes(*instance).expect("its first octet is not 0"),
        incarnation: Incarnation::from_bytes(*b"fedcba9876543210"),
        endpoints: vec!["tcp://127.0.0.1:7".to_owned()],
        host: "host".to_owned(),
        max_message_len: 64 << 20,
        credit_messages: 8192,
        credit_bytes: 16 << 20,
    }
}
