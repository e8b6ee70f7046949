//! Under which addresses viewers can reach the box.

use std::net::{IpAddr, SocketAddr};

/// Host candidates in an answer at most: a box has one or two interfaces, a developer's machine
/// some bridges more; every further one only costs the viewer checks.
const MAX_ADDRESSES: usize = 8;

/// What an interface carries whose own word cannot be had: an Ethernet frame's payload.
const USUAL_MTU: u32 = 1500;

/// Where this box is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hosts {
    /// Its addresses.
    pub(super) addresses: Vec<SocketAddr>,
    /// The longest packet that all of their interfaces carry, in bytes.
    pub(super) mtu: u32,
}

impl Hosts {
    /// Those of the moment. Asked anew for each answer, since a lease may have changed.
    pub(super) fn now(port: u16) -> Self {
        let interfaces = interfaces();
        let chosen = choose(&interfaces);
        let names = chosen.iter().map(|(name, _)| name.as_str());
        Self {
            mtu: names.map(mtu).min().unwrap_or(USUAL_MTU),
            addresses: chosen
                .iter()
                .map(|(_, ip)| SocketAddr::new(*ip, port))
                .collect(),
        }
    }
}

/// The host candidates of the moment: every IPv4 address of an interface that is up. The loopback
/// address stands in when there is no other, as on a machine without a network.
pub fn host_addresses(port: u16) -> Vec<SocketAddr> {
    Hosts::now(port).addresses
}

/// Names and addresses.
fn interfaces() -> Vec<(String, IpAddr)> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        log::warn!("cannot list the network interfaces: {error}");
        Vec::new()
    });
    let named = |interface: if_addrs::Interface| (interface.name.clone(), interface.ip());
    interfaces.into_iter().map(named).collect()
}

fn mtu(interface: &str) -> u32 {
    std::fs::read_to_string(format!("/sys/class/net/{interface}/mtu"))
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(USUAL_MTU)
}

fn choose(all: &[(String, IpAddr)]) -> Vec<(String, IpAddr)> {
    let mut chosen: Vec<(String, IpAddr)> = all
        .iter()
        .filter(|(_, ip)| ip.is_ipv4() && !ip.is_loopback())
        .take(MAX_ADDRESSES)
        .cloned()
        .collect();
    if chosen.is_empty() {
        chosen.push(("lo".to_owned(), std::net::Ipv4Addr::LOCALHOST.into()));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<(String, IpAddr)> {
        let named = |text: &&str| ("eth0".to_owned(), text.parse().unwrap());
        texts.iter().map(named).collect()
    }

    #[test]
    fn lan_addresses_are_offered_and_loopback_is_not() {
        assert_eq!(
            choose(&ips(&["127.0.0.1", "::1", "192.0.2.7", "fe80::1"])),
            ips(&["192.0.2.7"])
        );
    }

    #[test]
    fn without_a_network_the_loopback_address_is_offered() {
        let loopback = [("lo".to_owned(), "127.0.0.1".parse().unwrap())];
        assert_eq!(choose(&ips(&["127.0.0.1", "::1"])), loopback);
        assert_eq!(choose(&[]), loopback);
    }
}
