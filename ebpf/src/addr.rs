//! One address type for both families.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::{Pod, Zeroable};

/// An IP address in network order; IPv4 in its IPv4-mapped form (`::ffff:a.b.c.d`, RFC 4291 2.5.5.2).
///
/// One form for both families means one table for both, and that a mapped IPv6 socket and the IPv4 packets
/// it sends are judged alike. A mapped address inside a real IPv6 header never gets here: the parser
/// refuses it.
///
/// Kept as four words in memory order, because the kernel's programs copy and compare it word by word: octets that
/// are written one by one and read together stall the processor.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Pod, Zeroable)]
pub struct Addr([u32; 4]);

/// The third word of an IPv4-mapped address; the first two are zero.
const MAPPED: u32 = 0xffff_u32.to_be();

impl Addr {
    /// `::`, which stands for "none" where an address is optional.
    pub const UNSPECIFIED: Self = Self([0; 4]);

    /// An IPv4 address.
    #[inline(always)]
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self([0, 0, MAPPED, u32::from_ne_bytes(octets)])
    }

    /// An IPv6 address as it stands.
    #[inline(always)]
    pub const fn v6(o: [u8; 16]) -> Self {
        Self([
            u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
            u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
            u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
            u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
        ])
    }

    /// The words, in memory order.
    #[inline(always)]
    pub const fn words(&self) -> [u32; 4] {
        self.0
    }

    /// Of words in memory order.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self(words)
    }

    /// The sixteen octets, in network order.
    #[inline(always)]
    pub const fn octets(&self) -> [u8; 16] {
        let [a, b, c, d] = self.0;
        let [a, b, c, d] = [a.to_ne_bytes(), b.to_ne_bytes(), c.to_ne_bytes(), d.to_ne_bytes()];
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
        ]
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        let [a, b, c, _] = self.0;
        a == 0 && b == 0 && c == MAPPED
    }

    /// The last four octets: the IPv4 address, if it is one.
    #[inline(always)]
    pub const fn v4_octets(&self) -> [u8; 4] {
        self.0[3].to_ne_bytes()
    }

    /// The first octet of the IPv4 address, if it is one.
    #[inline(always)]
    const fn v4_first(&self) -> u8 {
        self.v4_octets()[0]
    }

    /// The first two octets of the IPv6 address, if it is one.
    #[inline(always)]
    pub const fn v6_first(&self) -> [u8; 2] {
        let [first, second, _, _] = self.0[0].to_ne_bytes();
        [first, second]
    }

    /// `0.0.0.0` or `::`.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        let [a, b, c, d] = self.0;
        a == 0 && b == 0 && d == 0 && (c == 0 || c == MAPPED)
    }

    /// `127.0.0.0/8` or `::1`.
    #[inline(always)]
    pub const fn is_loopback(&self) -> bool {
        const ONE: u32 = 1_u32.to_be();
        let [a, b, c, d] = self.0;
        a == 0 && b == 0 && ((c == 0 && d == ONE) || (c == MAPPED && self.v4_first() == 127))
    }

    /// `224.0.0.0/4`, `ff00::/8`.
    #[inline(always)]
    pub const fn is_multicast(&self) -> bool {
        if self.is_v4() {
            self.v4_first() >> 4 == 0xe
        } else {
            self.v6_first()[0] == 0xff
        }
    }

    /// `255.255.255.255`.
    #[inline(always)]
    pub const fn is_broadcast(&self) -> bool {
        self.is_v4() && self.0[3] == u32::MAX
    }

    /// Of `240.0.0.0/4` (reserved, RFC 1112 section 4), broadcast left aside.
    #[inline(always)]
    pub const fn is_reserved(&self) -> bool {
        self.is_v4() && self.v4_first() >> 4 == 0xf && !self.is_broadcast()
    }

    /// `fe80::/10`: an IPv6 address that has no meaning beyond its link.
    #[inline(always)]
    pub const fn is_v6_link_local(&self) -> bool {
        let [first, second] = self.v6_first();
        first == 0xfe && second & 0xc0 == 0x80
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            Self::V4(Ipv4Addr::from(addr.v4_octets()))
        } else {
            Self::V6(Ipv6Addr::from(addr.octets()))
        }
    }
}

impl core::fmt::Display for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        core::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(text: &str) -> Addr {
        Addr::from(text.parse::<IpAddr>().expect("an address"))
    }

    #[test]
    fn classes_are_those_of_the_standard_library() {
        let samples = [
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "127.255.0.9",
            "::1",
            "::2",
            "224.0.0.1",
            "239.255.255.255",
            "ff02::1",
            "255.255.255.255",
            "240.0.0.1",
            "255.255.255.254",
            "10.0.0.1",
            "169.254.169.254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "2001:db8::1",
            "fd00:ec2::254",
            "1.1.1.1",
        ];
        for text in samples {
            let ip: IpAddr = text.parse().expect("an address");
            let addr = Addr::from(ip);
            assert_eq!(addr.is_unspecified(), ip.is_unspecified(), "{text}");
            assert_eq!(addr.is_loopback(), ip.is_loopback(), "{text}");
            assert_eq!(addr.is_multicast(), ip.is_multicast(), "{text}");
            assert_eq!(addr.is_v4(), ip.is_ipv4(), "{text}");
            assert_eq!(IpAddr::from(addr), ip, "{text}");
            if let IpAddr::V4(v4) = ip {
                assert_eq!(addr.is_broadcast(), v4.is_broadcast(), "{text}");
            }
            if let IpAddr::V6(v6) = ip {
                assert_eq!(addr.is_v6_link_local(), v6.is_unicast_link_local(), "{text}");
            }
        }
    }

    #[test]
    fn reserved_is_not_broadcast() {
        assert!(addr("240.0.0.1").is_reserved());
        assert!(addr("255.255.255.254").is_reserved());
        assert!(!addr("255.255.255.255").is_reserved());
        assert!(!addr("239.1.1.1").is_reserved());
    }
}
