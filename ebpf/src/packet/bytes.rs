//! The one way to read a packet.

use network_types::{
    arp::ArpHdr,
    eth::EthHdr,
    icmp::Icmpv4Hdr,
    ip::{Ipv4Hdr, Ipv6Hdr},
    udp::UdpHdr,
    vlan::VlanHdr,
};

/// A header that can be made of any octets.
///
/// # Safety
///
/// The type is `repr(C)` and consists of integers and arrays of integers alone, without padding, so that every
/// pattern of octets is a value of it.
pub unsafe trait Header: Copy {}

// SAFETY: an array of octets.
unsafe impl<const N: usize> Header for [u8; N] {}
// SAFETY: `repr(C)` of octet arrays and one `u16` behind twelve octets, 14 octets in all.
unsafe impl Header for EthHdr {}
// SAFETY: `repr(C)` of two octets and one `u16`.
unsafe impl Header for VlanHdr {}
// SAFETY: `repr(C)` of octets and octet arrays.
unsafe impl Header for ArpHdr {}
// SAFETY: `repr(C)` of octets and octet arrays.
unsafe impl Header for Ipv4Hdr {}
// SAFETY: `repr(C)` of octets and octet arrays.
unsafe impl Header for Ipv6Hdr {}
// SAFETY: `repr(C)` of octet arrays.
unsafe impl Header for UdpHdr {}
// SAFETY: `repr(C)` of octets and octet arrays.
unsafe impl Header for Icmpv4Hdr {}

/// Octets of a frame, read with their bounds checked.
pub trait Bytes {
    /// The header at `offset`, if all of it is there.
    fn load<T: Header>(&self, offset: usize) -> Option<T>;

    /// Length of the frame in octets, all segments of a GSO packet included.
    fn len(&self) -> usize;

    /// Whether there is nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A VLAN tag that the kernel keeps beside the frame.
    fn has_vlan_tag(&self) -> bool {
        false
    }
}

/// A frame in memory.
#[derive(Clone, Copy, Debug)]
pub struct Slice<'a>(pub &'a [u8]);

impl Bytes for Slice<'_> {
    fn load<T: Header>(&self, offset: usize) -> Option<T> {
        let part = self.0.get(offset..offset.checked_add(size_of::<T>())?)?;
        // SAFETY: `part` is as long as `T`, `Header` promises that any octets make a `T`, and an unaligned read
        // asks nothing more.
        Some(unsafe { part.as_ptr().cast::<T>().read_unaligned() })
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}
