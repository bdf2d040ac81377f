//! Property lists, and what the one in a READY says: [`Hello`].
//!
//! A list is a run of names and values. [`Properties`] walks one and applies every rule of the wire on its
//! way, so that no reader can forget one; [`push`] is its opposite. [`Hello`] gives the properties that we
//! know their meaning and refuses a peer that contradicts itself: between our own nodes nothing is guessed.

use std::str::FromStr;

use super::PRE_TRAFFIC_COMMANDS_LEN_MAX;
use crate::endpoint::ENDPOINT_LEN_MAX;
use crate::id::{Incarnation, InstanceId};

/// The version of what stands inside our messages, as `X-AM-Version` names it.
pub const AM_VERSION: u16 = 1;
/// Most properties in a list: own nodes send 8, libzmq 2 and whatever its application adds.
pub const PROPERTY_COUNT_MAX: usize = 64;
/// Longest property list, in octets: what a handshake's commands may have in all.
pub const PROPERTY_LIST_LEN_MAX: usize = PRE_TRAFFIC_COMMANDS_LEN_MAX;
/// Longest Identity, in octets (RFC 28).
pub const IDENTITY_LEN_MAX: usize = 255;
/// Most endpoints that a node names in its READY.
pub const HELLO_ENDPOINTS_MAX: usize = 64;
/// Longest `X-AM-Endpoints`, in octets: leaves 1 KiB of the list for all else.
pub const HELLO_ENDPOINTS_LEN_MAX: usize = 7 * 1024;
/// Longest `X-AM-Host`, in octets: twice a machine id and a boot id in hexadecimal, and some.
pub const HOST_LEN_MAX: usize = 255;

const SOCKET_TYPE: &str = "Socket-Type";
const IDENTITY: &str = "Identity";
const VERSION: &str = "X-AM-Version";
const INCARNATION: &str = "X-AM-Incarnation";
const ENDPOINTS: &str = "X-AM-Endpoints";
const HOST: &str = "X-AM-Host";
const MAX_MESSAGE: &str = "X-AM-Max-Message";
const CREDIT: &str = "X-AM-Credit";

/// Why octets are no property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PropertiesError {
    /// The list ends inside a property.
    #[error("the property list ends inside a property")]
    Truncated,
    /// A name is empty, over 255 octets, or has other characters than letters, digits and `-_.+`.
    #[error("a property's name is not 1 to 255 letters, digits or `-_.+`")]
    Name,
    /// A name occurs twice; case does not count.
    #[error("a property occurs twice")]
    Duplicate,
    /// More than [`PROPERTY_COUNT_MAX`] properties.
    #[error("the property list has more than 64 properties")]
    TooMany,
    /// More than [`PROPERTY_LIST_LEN_MAX`] octets.
    #[error("the property list would have {len} octets, at most 8192 are allowed")]
    TooLong {
        /// The length in octets.
        len: usize,
    },
}

/// One property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Property<'a> {
    /// The name as it came; to be compared without regard to case.
    pub name: &'a str,
    /// The value.
    pub value: &'a [u8],
}

/// Walks a property list. After an error it ends.
#[derive(Debug, Clone)]
pub struct Properties<'a> {
    rest: &'a [u8],
    seen: [&'a str; PROPERTY_COUNT_MAX],
    count: usize,
}

impl<'a> Properties<'a> {
    /// Starts at the beginning of a list.
    ///
    /// # Errors
    /// [`PropertiesError::TooLong`]; all other rules are applied on the way.
    pub fn new(list: &'a [u8]) -> Result<Self, PropertiesError> {
        let len = list.len();
        if len > PROPERTY_LIST_LEN_MAX {
            return Err(PropertiesError::TooLong { len });
        }
        Ok(Self { rest: list, seen: [""; PROPERTY_COUNT_MAX], count: 0 })
    }

    fn read(&mut self) -> Result<Property<'a>, PropertiesError> {
        let cut_short = PropertiesError::Truncated;
        let (&name_len, rest) = self.rest.split_first().ok_or(cut_short)?;
        let (name, rest) = rest.split_at_checked(usize::from(name_len)).ok_or(cut_short)?;
        let name = checked_name(name)?;
        let (value_len, rest) = rest.split_first_chunk().ok_or(cut_short)?;
        let value_len = usize::try_from(u32::from_be_bytes(*value_len)).map_err(|_| cut_short)?;
        let (value, rest) = rest.split_at_checked(value_len).ok_or(cut_short)?;

        if self.seen.iter().take(self.count).any(|seen| seen.eq_ignore_ascii_case(name)) {
            return Err(PropertiesError::Duplicate);
        }
        *self.seen.get_mut(self.count).ok_or(PropertiesError::TooMany)? = name;
        self.count = self.count.saturating_add(1);
        self.rest = rest;
        Ok(Property { name, value })
    }
}

impl<'a> Iterator for Properties<'a> {
    type Item = Result<Property<'a>, PropertiesError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let property = self.read();
        if property.is_err() {
            self.rest = &[];
        }
        Some(property)
    }
}

/// Appends a property to a list.
///
/// # Errors
/// If the name is none, or the list would become too long; the list is then as it was. Duplicates and the
/// number of properties are not looked at.
pub fn push(name: &str, value: &[u8], list: &mut Vec<u8>) -> Result<(), PropertiesError> {
    let name = checked_name(name.as_bytes())?;
    let name_len = u8::try_from(name.len()).map_err(|_| PropertiesError::Name)?;
    let len = [1, name.len(), 4, value.len()].iter().fold(list.len(), |sum, part| sum.saturating_add(*part));
    let too_long = PropertiesError::TooLong { len };
    let value_len = u32::try_from(value.len()).map_err(|_| too_long)?;
    if len > PROPERTY_LIST_LEN_MAX {
        return Err(too_long);
    }
    list.push(name_len);
    list.extend_from_slice(name.as_bytes());
    list.extend_from_slice(&value_len.to_be_bytes());
    list.extend_from_slice(value);
    Ok(())
}

fn checked_name(name: &[u8]) -> Result<&str, PropertiesError> {
    let legal = |octet: &u8| octet.is_ascii_alphanumeric() || b"-_.+".contains(octet);
    if name.is_empty() || name.len() > 255 || !name.iter().all(legal) {
        return Err(PropertiesError::Name);
    }
    std::str::from_utf8(name).map_err(|_| PropertiesError::Name)
}

/// The ZeroMQ socket type that a peer presents: it decides who may talk to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SocketType {
    /// Asks one question at a time.
    Req,
    /// Answers one question at a time.
    Rep,
    /// Sends and receives freely; what our diallers present.
    Dealer,
    /// Sends and receives freely with many peers; what our listeners present.
    Router,
    /// Publishes.
    Pub,
    /// Subscribes.
    Sub,
    /// Publishes and sees subscriptions.
    Xpub,
    /// Subscribes by messages.
    Xsub,
    /// Only sends.
    Push,
    /// Only receives.
    Pull,
    /// Talks to exactly one peer.
    Pair,
}

impl SocketType {
    const ALL: [Self; 11] = [
        Self::Req,
        Self::Rep,
        Self::Dealer,
        Self::Router,
        Self::Pub,
        Self::Sub,
        Self::Xpub,
        Self::Xsub,
        Self::Push,
        Self::Pull,
        Self::Pair,
    ];

    /// The value of `Socket-Type`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Req => "REQ",
            Self::Rep => "REP",
            Self::Dealer => "DEALER",
            Self::Router => "ROUTER",
            Self::Pub => "PUB",
            Self::Sub => "SUB",
            Self::Xpub => "XPUB",
            Self::Xsub => "XSUB",
            Self::Push => "PUSH",
            Self::Pull => "PULL",
            Self::Pair => "PAIR",
        }
    }

    /// Reads a value of `Socket-Type`; `None` for the draft types, which we do not speak.
    #[must_use]
    pub fn from_bytes(value: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|known| known.as_str().as_bytes() == value)
    }

    /// Whether ZeroMQ allows the two to talk; the same seen from either side.
    #[must_use]
    pub const fn can_talk_to(self, peer: Self) -> bool {
        use SocketType::{Dealer, Pair, Pub, Pull, Push, Rep, Req, Router, Sub, Xpub, Xsub};
        match self {
            Req => matches!(peer, Rep | Router),
            Rep => matches!(peer, Req | Dealer),
            Dealer => matches!(peer, Rep | Dealer | Router),
            Router => matches!(peer, Req | Dealer | Router),
            Pub | Xpub => matches!(peer, Sub | Xsub),
            Sub | Xsub => matches!(peer, Pub | Xpub),
            Push => matches!(peer, Pull),
            Pull => matches!(peer, Push),
            Pair => matches!(peer, Pair),
        }
    }

    /// Whether libzmq's sockets of this type name themselves in READY; of all others none does.
    const fn has_identity(self) -> bool {
        matches!(self, Self::Req | Self::Dealer | Self::Router)
    }
}

impl std::fmt::Display for SocketType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a peer's greeting and READY say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hello {
    /// The socket type it presents.
    pub socket_type: SocketType,
    /// Its Identity, 0 to 255 octets; of a foreign peer only a label.
    pub identity: Vec<u8>,
    /// The minor version in its greeting: 0 for ZMTP 3.0, whose peers are never sent a PING.
    pub minor: u8,
    /// What only a node of our kind says; `None` for a foreign peer.
    pub own: Option<AmHello>,
}

/// What nodes of our kind tell each other in READY.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AmHello {
    /// `X-AM-Version`, not 0. In the hello that a handshake gives, already the lower of the two sides'.
    pub version: u16,
    /// The Identity.
    pub instance: InstanceId,
    /// `X-AM-Incarnation`.
    pub incarnation: Incarnation,
    /// `X-AM-Endpoints`: where the node listens, as it wrote them; unproved and unparsed. At most 64 of 1 to
    /// 255 octets each and 7 KiB in all. Of our own list, those that would break this are not sent.
    pub endpoints: Vec<String>,
    /// `X-AM-Host`: 1 to 255 octets of text without control characters. Equal at two processes only if they
    /// run on the same host.
    pub host: String,
    /// `X-AM-Max-Message`: the longest payload it takes, in octets.
    pub max_message_len: u64,
    /// The first half of `X-AM-Credit`: messages that may be unfinished on the link at its start.
    pub credit_messages: u64,
    /// The second half of `X-AM-Credit`: octets that may be unfinished on the link at its start.
    pub credit_bytes: u64,
}

/// Why a READY is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HelloError {
    /// It is no property list.
    #[error("the peer's READY is malformed: {0}")]
    Properties(#[from] PropertiesError),
    /// A property that has to be there is not.
    #[error("the peer's READY lacks {name}")]
    Missing {
        /// The property.
        name: &'static str,
    },
    /// A property has a value that it cannot have.
    #[error("the peer's READY has a bad {name}: it must be {rule}")]
    Invalid {
        /// The property.
        name: &'static str,
        /// What the value must be.
        rule: &'static str,
    },
}

impl Hello {
    /// Reads the property list of a READY. `minor` is from the peer's greeting.
    ///
    /// A list with `X-AM-Version` is one of ours and has to be complete; one without is foreign, whatever
    /// else it says.
    ///
    /// # Errors
    /// If the list breaks a rule of the wire, or a property that we know is missing or bad.
    pub fn decode(list: &[u8], minor: u8) -> Result<Self, HelloError> {
        let fields = Fields::collect(list)?;
        let socket_type = SocketType::from_bytes(required(SOCKET_TYPE, fields.socket_type)?)
            .ok_or(invalid(SOCKET_TYPE, "a socket type of ZMTP 3.1"))?;
        let identity = fields.identity.unwrap_or_default();
        if identity.len() > IDENTITY_LEN_MAX {
            return Err(invalid(IDENTITY, "at most 255 octets"));
        }
        let own = match fields.version {
            Some(version) => Some(AmHello::decode(version, &fields)?),
            None => None,
        };
        Ok(Self { socket_type, identity: identity.to_vec(), minor, own })
    }
}

impl AmHello {
    fn decode(version: &[u8], fields: &Fields<'_>) -> Result<Self, HelloError> {
        let version = number(version)
            .filter(|&version| version != 0)
            .ok_or(invalid(VERSION, "a decimal number from 1 to 65535"))?;
        let instance = required(IDENTITY, fields.identity)?
            .try_into()
            .ok()
            .and_then(InstanceId::from_bytes)
            .ok_or(invalid(IDENTITY, "an instance id: 16 octets, the first not 0"))?;
        let incarnation = required(INCARNATION, fields.incarnation)?
            .try_into()
            .map_err(|_| invalid(INCARNATION, "16 octets"))?;
        let host = text(required(HOST, fields.host)?)
            .filter(|host| is_host(host))
            .ok_or(invalid(HOST, "1 to 255 octets of text"))?;
        let max_message_len = number(required(MAX_MESSAGE, fields.max_message)?)
            .ok_or(invalid(MAX_MESSAGE, "a decimal number below 2^64"))?;
        let (credit_messages, credit_bytes) = credit(required(CREDIT, fields.credit)?)
            .ok_or(invalid(CREDIT, "two decimal numbers below 2^64 with a comma between them"))?;
        let endpoints = endpoints(fields.endpoints.unwrap_or_default())
            .ok_or(invalid(ENDPOINTS, "at most 64 endpoints of 1 to 255 octets of text, 7 KiB in all"))?;
        let host = host.to_owned();
        let incarnation = Incarnation::from_bytes(incarnation);
        Ok(Self {
            version,
            instance,
            incarnation,
            endpoints,
            host,
            max_message_len,
            credit_messages,
            credit_bytes,
        })
    }

    /// The property list of our READY for a peer of our kind.
    #[must_use]
    pub fn encode(&self, socket_type: SocketType) -> Vec<u8> {
        let mut list = self.encode_foreign(socket_type);
        put(VERSION, self.version.to_string().as_bytes(), &mut list);
        put(INCARNATION, self.incarnation.as_bytes(), &mut list);
        let endpoints = joined(&self.endpoints);
        if !endpoints.is_empty() {
            put(ENDPOINTS, endpoints.as_bytes(), &mut list);
        }
        let host = self.host.get(..self.host.floor_char_boundary(HOST_LEN_MAX)).unwrap_or_default();
        put(HOST, host.as_bytes(), &mut list);
        put(MAX_MESSAGE, self.max_message_len.to_string().as_bytes(), &mut list);
        put(CREDIT, format!("{},{}", self.credit_messages, self.credit_bytes).as_bytes(), &mut list);
        list
    }

    /// The property list of our READY for a foreign peer.
    #[must_use]
    pub fn encode_foreign(&self, socket_type: SocketType) -> Vec<u8> {
        let mut list = Vec::with_capacity(512);
        put(SOCKET_TYPE, socket_type.as_str().as_bytes(), &mut list);
        if socket_type.has_identity() {
            put(IDENTITY, self.instance.as_bytes(), &mut list);
        }
        list
    }
}

/// The values that we know, as they came.
#[derive(Default)]
struct Fields<'a> {
    socket_type: Option<&'a [u8]>,
    identity: Option<&'a [u8]>,
    version: Option<&'a [u8]>,
    incarnation: Option<&'a [u8]>,
    endpoints: Option<&'a [u8]>,
    host: Option<&'a [u8]>,
    max_message: Option<&'a [u8]>,
    credit: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    fn collect(list: &'a [u8]) -> Result<Self, PropertiesError> {
        let mut fields = Self::default();
        for property in Properties::new(list)? {
            let Property { name, value } = property?;
            let known = [
                (SOCKET_TYPE, &mut fields.socket_type),
                (IDENTITY, &mut fields.identity),
                (VERSION, &mut fields.version),
                (INCARNATION, &mut fields.incarnation),
                (ENDPOINTS, &mut fields.endpoints),
                (HOST, &mut fields.host),
                (MAX_MESSAGE, &mut fields.max_message),
                (CREDIT, &mut fields.credit),
            ];
            if let Some((_, slot)) = known.into_iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
                *slot = Some(value);
            }
        }
        Ok(fields)
    }
}

fn required<'a>(name: &'static str, value: Option<&'a [u8]>) -> Result<&'a [u8], HelloError> {
    value.ok_or(HelloError::Missing { name })
}

const fn invalid(name: &'static str, rule: &'static str) -> HelloError {
    HelloError::Invalid { name, rule }
}

/// ASCII decimal: digits only, unlike `FromStr`, which takes a sign.
fn number<T: FromStr>(value: &[u8]) -> Option<T> {
    let digits = value.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(value).ok().filter(|_| digits)?.parse().ok()
}

fn credit(value: &[u8]) -> Option<(u64, u64)> {
    let (messages, bytes) = std::str::from_utf8(value).ok()?.split_once(',')?;
    Some((number(messages.as_bytes())?, number(bytes.as_bytes())?))
}

/// Text that can be shown: it ends up in logs and events.
fn text(value: &[u8]) -> Option<&str> {
    std::str::from_utf8(value).ok().filter(|text| !text.contains(char::is_control))
}

fn is_host(host: &str) -> bool {
    (1..=HOST_LEN_MAX).contains(&host.len())
}

fn is_endpoint(endpoint: &str) -> bool {
    (1..=ENDPOINT_LEN_MAX).contains(&endpoint.len())
        && !endpoint.contains(|character: char| character == ';' || character.is_control())
}

fn endpoints(value: &[u8]) -> Option<Vec<String>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let list = text(value).filter(|list| list.len() <= HELLO_ENDPOINTS_LEN_MAX)?;
    let legal = list.split(';').count() <= HELLO_ENDPOINTS_MAX && list.split(';').all(is_endpoint);
    legal.then(|| list.split(';').map(str::to_owned).collect())
}

/// The endpoints that may be sent, in order: a peer would refuse the whole READY for one that may not.
fn joined(endpoints: &[String]) -> String {
    let mut list = String::new();
    for endpoint in endpoints.iter().filter(|endpoint| is_endpoint(endpoint)).take(HELLO_ENDPOINTS_MAX) {
        if list.len().saturating_add(endpoint.len()) >= HELLO_ENDPOINTS_LEN_MAX {
            break;
        }
        if !list.is_empty() {
            list.push(';');
        }
        list.push_str(endpoint);
    }
    list
}

/// Puts one of our own properties into a list: constant names, values bounded by the constants above.
fn put(name: &str, value: &[u8], list: &mut Vec<u8>) {
    push(name, value, list).expect("our own properties have legal names and fit into 8 KiB together");
}

#[cfg(test)]
mod tests;
