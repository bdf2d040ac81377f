//! Addresses: [`Endpoint`], parsed once at the edge so that nothing behind it handles raw text.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Where a node listens or can be dialled.
///
/// ```
/// use dynamo_am::Endpoint;
/// let endpoint: Endpoint = "tcp://127.0.0.1:5555".parse()?;
/// assert_eq!(endpoint.to_string(), "tcp://127.0.0.1:5555");
/// assert!("http://example".parse::<Endpoint>().is_err());
/// # Ok::<(), dynamo_am::EndpointError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `tcp://HOST:PORT`. The host is a name, an address, or `*` (all interfaces, for listening); port 0
    /// asks the kernel for a free one when listening.
    Tcp {
        /// Host name, IPv4 or IPv6 address (without brackets), or `*`.
        host: String,
        /// TCP port.
        port: u16,
    },
    /// `ipc:///PATH`: a unix stream socket.
    Ipc {
        /// Path of the socket, at most 107 octets.
        path: PathBuf,
    },
    /// `ipc://*`: a fresh private path in the runtime directory; for listening only.
    IpcPrivate,
    /// `inproc://NAME`: another node in this process.
    Inproc {
        /// The name, 1 to 255 octets.
        name: String,
    },
}

/// Longest path of a unix socket: `sun_path` has 108 octets, the last one a NUL (unix(7)).
pub const IPC_PATH_LEN_MAX: usize = 107;
/// Longest text of an endpoint: what fits the length field of a claimed sender.
pub const ENDPOINT_LEN_MAX: usize = 255;

impl Endpoint {
    /// Whether only processes of this machine can reach it: a loopback address, `ipc` or `inproc`.
    ///
    /// A host *name* other than `localhost` does not count: what it resolves to can change.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => {
                host.eq_ignore_ascii_case("localhost")
                    || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
            }
            Self::Ipc { .. } | Self::IpcPrivate | Self::Inproc { .. } => true,
        }
    }

    /// Whether it stands for many addresses or none yet (`*`, `0.0.0.0`, `[::]`, port 0, `ipc://*`), so
    /// that nobody can dial it.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        match self {
            Self::Tcp { host, port } => {
                *port == 0
                    || host == "*"
                    || host.parse::<IpAddr>().is_ok_and(|address| address.is_unspecified())
            }
            Self::IpcPrivate => true,
            Self::Ipc { .. } | Self::Inproc { .. } => false,
        }
    }

    /// The unix socket's path, if it is one.
    #[must_use]
    pub fn ipc_path(&self) -> Option<&Path> {
        match self {
            Self::Ipc { path } => Some(path),
            _ => None,
        }
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Ipc { path } => write!(f, "ipc://{}", path.display()),
            Self::IpcPrivate => f.write_str("ipc://*"),
            Self::Inproc { name } => write!(f, "inproc://{name}"),
        }
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is no endpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is no endpoint: {reason}; write tcp://HOST:PORT, ipc:///PATH, ipc://* or inproc://NAME")]
pub struct EndpointError {
    text: String,
    reason: &'static str,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).map_err(|reason| EndpointError { text: text.chars().take(128).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Endpoint, &'static str> {
    if text.len() > ENDPOINT_LEN_MAX {
        return Err("it is longer than 255 octets");
    }
    if text.chars().any(|c| c.is_control() || c == ';') {
        return Err("control characters and `;` are not allowed");
    }
    let (scheme, rest) = text.split_once("://").ok_or("it has no scheme")?;
    match scheme {
        "tcp" => parse_tcp(rest),
        "ipc" if rest == "*" => Ok(Endpoint::IpcPrivate),
        "ipc" if rest.starts_with('@') => Err("abstract sockets have no permissions and are not supported"),
        "ipc" if !rest.starts_with('/') => Err("the path of a unix socket must be absolute"),
        "ipc" if rest.len() > IPC_PATH_LEN_MAX => Err("the path of a unix socket is at most 107 octets"),
        "ipc" => Ok(Endpoint::Ipc { path: PathBuf::from(rest) }),
        "inproc" if rest.is_empty() => Err("the name is empty"),
        "inproc" => Ok(Endpoint::Inproc { name: rest.to_owned() }),
        _ => Err("the scheme is unknown"),
    }
}

fn parse_tcp(rest: &str) -> Result<Endpoint, &'static str> {
    let (host, port) = rest.rsplit_once(':').ok_or("the port is missing")?;
    let port = port.parse().map_err(|_| "the port is not a number from 0 to 65535")?;
    let host = match host.strip_prefix('[') {
        Some(inner) => {
            let inner = inner.strip_suffix(']').ok_or("the closing bracket is missing")?;
            inner.parse::<std::net::Ipv6Addr>().map_err(|_| "the brackets hold no IPv6 address")?;
            inner
        }
        None if host.contains(':') => return Err("an IPv6 address needs brackets"),
        None => host,
    };
    if host.is_empty() {
        return Err("the host is missing");
    }
    if host.contains(['/', '@', ' ']) {
        return Err("the host has characters that no host name has");
    }
    Ok(Endpoint::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_survives_a_round_trip() {
        for text in
            ["tcp://127.0.0.1:1", "tcp://[::1]:65535", "tcp://*:0", "ipc:///run/a b", "ipc://*", "inproc://x"]
        {
            assert_eq!(text.parse::<Endpoint>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn malformed_text_is_refused_with_its_reason() {
        for (text, reason) in [
            ("127.0.0.1:1", "no scheme"),
            ("http://a:1", "scheme is unknown"),
            ("tcp://a", "port is missing"),
            ("tcp://a:65536", "port is not a number"),
            ("tcp://:1", "host is missing"),
            ("tcp://::1:1", "needs brackets"),
            ("tcp://[zz]:1", "no IPv6"),
            ("ipc://relative", "absolute"),
            ("ipc://@abstract", "abstract"),
            ("inproc://", "empty"),
            ("ipc:///a;b", "not allowed"),
        ] {
            let error = text.parse::<Endpoint>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        let long = format!("ipc:///{}", "x".repeat(IPC_PATH_LEN_MAX));
        assert!(long.parse::<Endpoint>().is_err());
    }

    #[test]
    fn loopback_and_wildcards_are_told_apart() {
        let of = |text: &str| text.parse::<Endpoint>().unwrap();
        assert!(of("tcp://127.8.9.1:1").is_loopback() && of("tcp://[::1]:1").is_loopback());
        assert!(of("tcp://[::ffff:127.0.0.1]:1").is_loopback());
        assert!(!of("tcp://*:1").is_loopback() && !of("tcp://example.org:1").is_loopback());
        assert!(of("tcp://0.0.0.0:1").is_wildcard() && of("tcp://[::]:1").is_wildcard());
        assert!(of("tcp://127.0.0.1:0").is_wildcard() && !of("tcp://127.0.0.1:1").is_wildcard());
    }
}
