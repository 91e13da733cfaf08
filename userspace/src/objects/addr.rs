//! Addresses and prefixes as text.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

/// Length of `::ffff:0:0/96`, below which IPv6 addresses stand for IPv4 ones.
const MAPPED_BITS: u8 = 96;

/// Reads an address; an IPv4-mapped one becomes IPv4, as the programs judge both alike.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|addr| addr.to_canonical())
}

/// Reads a prefix, or an address as the prefix of itself alone. Host bits are left as they are.
pub fn parse_net(text: &str) -> Option<IpNet> {
    match text.parse::<IpNet>() {
        Ok(net) => Some(canonical_net(net)),
        Err(_) => parse_ip(text).map(IpNet::from),
    }
}

/// The prefix that holds this address alone.
pub fn host_net(addr: IpAddr) -> IpNet {
    IpNet::from(addr.to_canonical())
}

/// An IPv4 prefix in IPv4-mapped form becomes what it stands for.
pub fn canonical_net(net: IpNet) -> IpNet {
    let IpNet::V6(v6) = net else { return net };
    match (
        v6.addr().to_ipv4_mapped(),
        v6.prefix_len().checked_sub(MAPPED_BITS),
    ) {
        (Some(v4), Some(bits)) => Ipv4Net::new(v4, bits).map_or(net, IpNet::V4),
        (None, _) | (_, None) => net,
    }
}

/// Whether an IPv6 prefix covers `::ffff:0:0/96`, and with it, in the programs' tables, all of IPv4.
pub(crate) fn covers_mapped(net: &IpNet) -> bool {
    match net {
        IpNet::V4(_) => false,
        IpNet::V6(v6) => {
            v6.prefix_len() <= MAPPED_BITS && v6.contains(&Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_prefixes_become_ipv4() {
        let net = |text: &str| parse_net(text).expect("a prefix");
        assert_eq!(net("::ffff:10.0.0.0/104"), net("10.0.0.0/8"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1/32"));
        assert_eq!(net("::/0").to_string(), "::/0");
        assert!(covers_mapped(&net("::/0")));
        assert!(!covers_mapped(&net("2001:db8::/32")));
        assert!(!covers_mapped(&net("0.0.0.0/0")));
        assert_eq!(parse_net("10.0.0"), None);
    }
}
