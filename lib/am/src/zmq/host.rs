//! What this machine is to others: its addresses, and an id that tells whether a peer shares its files.
//!
//! The runtime asks before a link exists: which endpoints to put into its READY ([`advertise`]), and whether a
//! peer's unix socket is worth a try ([`host_id`], [`is_local_address`]). Nothing here proves anything about
//! a peer: an equal id only makes the short way worth trying, and the handshake there decides.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt;
use std::sync::OnceLock;

use crate::endpoint::Endpoint;

/// An id that two processes share only if they run on the same kernel and see the same mounts, so that a path
/// of one names the same file for the other. Containers differ even on one machine, unless they share a mount
/// namespace; so do two boots of one machine.
///
/// It is the kernel's boot id and the inode of the mount namespace. Where `/proc` does not tell them, it is
/// random: then nobody shares it, and peers on the host meet over TCP. Constant for the process's life, at
/// most 64 characters of ASCII.
#[must_use]
pub fn host_id() -> String {
    static HOST_ID: OnceLock<String> = OnceLock::new();
    HOST_ID.get_or_init(|| kernel_host_id().unwrap_or_else(random_host_id)).clone()
}

fn kernel_host_id() -> Option<String> {
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let boot_id: String = boot_id.chars().filter(char::is_ascii_hexdigit).take(BOOT_ID_LEN).collect();
    let namespace = std::fs::metadata("/proc/self/ns/mnt").ok()?.ino();
    (boot_id.len() == BOOT_ID_LEN).then(|| format!("{boot_id}-{namespace:x}"))
}

fn random_host_id() -> String {
    format!("process-{:032x}", rand::random::<u128>())
}

/// The addresses of the interfaces that are up, IPv4 first, without loopback and IPv6 link-local ones (those
/// mean nothing without a zone). If that leaves none: the loopback addresses. Never empty.
#[must_use]
pub fn local_addresses() -> Vec<IpAddr> {
    dialable(&interfaces())
}

/// Whether `address` belongs to this machine: loopback, or an interface's, up or not.
#[must_use]
pub fn is_local_address(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || interfaces().iter().any(|interface| interface.address == address)
}

/// What to tell others when a node listens on `bound`: the endpoint itself, or, for a wildcard, one for each of
/// [`local_addresses`] of its family (`[::]` and `*` take both). Empty if nobody can dial it: port 0, `ipc://*`.
#[must_use]
pub fn advertise(bound: &Endpoint) -> Vec<Endpoint> {
    advertise_on(bound, local_addresses())
}

fn advertise_on(bound: &Endpoint, addresses: Vec<IpAddr>) -> Vec<Endpoint> {
    let Endpoint::Tcp { host, port } = bound else {
        return if bound.is_wildcard() { Vec::new() } else { vec![bound.clone()] };
    };
    if *port == 0 {
        return Vec::new();
    }
    if !bound.is_wildcard() {
        return vec![bound.clone()];
    }
    let v4_only = matches!(host.parse(), Ok(IpAddr::V4(_)));
    let endpoints: Vec<_> = addresses
        .into_iter()
        .filter(|address| address.is_ipv4() || !v4_only)
        .map(|address| Endpoint::from(std::net::SocketAddr::new(address, *port)))
        .collect();
    if endpoints.is_empty() {
        // IPv4 only, on a machine that has nothing but IPv6 addresses: still reachable from here.
        return vec![Endpoint::Tcp { host: Ipv4Addr::LOCALHOST.to_string(), port: *port }];
    }
    endpoints
}

#[derive(Debug, Clone, Copy)]
struct InterfaceAddress {
    address: IpAddr,
    is_up: bool,
}

fn interfaces() -> Vec<InterfaceAddress> {
    let list = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot list the network interfaces, only loopback is known");
        Vec::new()
    });
    list.iter()
        .map(|interface| InterfaceAddress { address: interface.ip(), is_up: interface.is_oper_up() })
        .collect()
}

fn dialable(interfaces: &[InterfaceAddress]) -> Vec<IpAddr> {
    let up = |interface: &&InterfaceAddress| interface.is_up && !interface.address.is_unspecified();
    let mut found: Vec<IpAddr> = interfaces
        .iter()
        .filter(up)
        .map(|interface| interface.address)
        .filter(|address| !address.is_loopback() && !is_link_local_v6(*address))
        .collect();
    if found.is_empty() {
        found = interfaces.iter().filter(up).map(|i| i.address).filter(IpAddr::is_loopback).collect();
    }
    if found.is_empty() {
        found.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    found.sort();
    found.dedup();
    found
}

fn is_link_local_v6(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if Ipv6Addr::is_unicast_link_local(&address))
}

/// Hexadecimal digits of the kernel's boot id, a UUID.
const BOOT_ID_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    fn up(address: &str) -> InterfaceAddress {
        InterfaceAddress { address: address.parse().unwrap(), is_up: true }
    }

    fn texts(bound: &str, addresses: &[&str]) -> Vec<String> {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        advertise_on(&bound.parse().unwrap(), addresses).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_host_id_is_constant_short_and_printable() {
        let id = host_id();
        assert_eq!(id, host_id());
        assert!(id.len() <= 64 && id.bytes().all(|octet| octet.is_ascii_graphic() && octet != b';'), "{id}");
    }

    #[test]
    fn without_proc_no_two_processes_share_an_id() {
        assert_ne!(random_host_id(), random_host_id());
    }

    #[test]
    fn loopback_is_advertised_only_if_there_is_nothing_else() {
        let all = [up("fe80::1"), up("fd00::2"), up("127.0.0.1"), up("10.0.0.5")];
        assert_eq!(dialable(&all), ["10.0.0.5".parse::<IpAddr>().unwrap(), "fd00::2".parse().unwrap()]);
        let down = InterfaceAddress { is_up: false, ..up("10.0.0.5") };
        assert_eq!(dialable(&[down, up("127.0.0.1")]), ["127.0.0.1".parse::<IpAddr>().unwrap()]);
        assert_eq!(dialable(&[]), [IpAddr::V4(Ipv4Addr::LOCALHOST)]);
    }

    #[test]
    fn wildcards_become_endpoints_that_can_be_dialled() {
        let both = ["10.0.0.5", "fd00::2"];
        assert_eq!(texts("tcp://[::]:7", &both), ["tcp://10.0.0.5:7", "tcp://[fd00::2]:7"]);
        assert_eq!(texts("tcp://*:7", &both), ["tcp://10.0.0.5:7", "tcp://[fd00::2]:7"]);
        assert_eq!(texts("tcp://0.0.0.0:7", &both), ["tcp://10.0.0.5:7"]);
        assert_eq!(texts("tcp://0.0.0.0:7", &["fd00::2"]), ["tcp://127.0.0.1:7"]);
        assert_eq!(texts("tcp://example.org:7", &both), ["tcp://example.org:7"]);
        assert_eq!(texts("ipc:///run/x", &both), ["ipc:///run/x"]);
        assert!(texts("tcp://*:0", &both).is_empty() && texts("ipc://*", &both).is_empty());
    }

    #[test]
    fn the_machines_own_addresses_are_local_and_others_are_not() {
        assert!(is_local_address("127.0.0.1".parse().unwrap()));
        assert!(is_local_address("::ffff:127.9.9.9".parse().unwrap()));
        assert!(local_addresses().into_iter().all(is_local_address));
        // TEST-NET-1, assigned to no machine (RFC 5737).
        assert!(!is_local_address("192.0.2.1".parse().unwrap()));
    }
}
