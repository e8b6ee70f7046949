//! Under which addresses viewers can reach the box.

use std::net::{IpAddr, SocketAddr};

/// Host candidates in an answer at most: a box has one or two interfaces, a developer's machine
/// some bridges more; every further one only costs the viewer checks.
const MAX_ADDRESSES: usize = 8;

/// The host candidates of the moment: every IPv4 address of an interface that is up. The loopback
/// address stands in when there is no other, as on a machine without a network. Asked anew for
/// each answer, since a lease may have changed.
pub fn host_addresses(port: u16) -> Vec<SocketAddr> {
    let interfaces = if_addrs::get_if_addrs().unwrap_or_else(|error| {
        log::warn!("cannot list the network interfaces: {error}");
        Vec::new()
    });
    let all: Vec<IpAddr> = interfaces.iter().map(if_addrs::Interface::ip).collect();
    choose(&all)
        .into_iter()
        .map(|ip| SocketAddr::new(ip, port))
        .collect()
}

fn choose(all: &[IpAddr]) -> Vec<IpAddr> {
    let ipv4 = |ip: &&IpAddr| ip.is_ipv4();
    let mut chosen: Vec<IpAddr> = all
        .iter()
        .filter(ipv4)
        .filter(|ip| !ip.is_loopback())
        .copied()
        .take(MAX_ADDRESSES)
        .collect();
    if chosen.is_empty() {
        chosen.push(std::net::Ipv4Addr::LOCALHOST.into());
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
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
        assert_eq!(choose(&ips(&["127.0.0.1", "::1"])), ips(&["127.0.0.1"]));
        assert_eq!(choose(&[]), ips(&["127.0.0.1"]));
    }
}
