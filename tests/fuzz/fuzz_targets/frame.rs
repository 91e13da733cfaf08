//! Any octets are read without panic, and what is read lies within them.
#![no_main]

use ebpf::packet::{ETH_IPV4, ETH_IPV6, Link, Packet, Slice, parse};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for link in [Link::Ethernet, Link::Ip(ETH_IPV4), Link::Ip(ETH_IPV6)] {
        let mut packet = Packet::EMPTY;
        if parse(&Slice(bytes), link, &mut packet).is_ok() {
            assert!(usize::from(packet.l3) <= bytes.len());
            assert!(usize::from(packet.l4) <= bytes.len());
        }
    }
});
