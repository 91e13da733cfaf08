//! No frame makes a subject reach an external address that nothing permits, and none has a verdict that depends on
//! what is behind the packet.
#![no_main]

use ebpf::{
    Addr, AllowReason, Verdict, decide,
    flow::{Flow, FlowKey, FragmentKey},
    packet::{Link, Packet, Protocol, Slice, parse},
    rules::{Endpoint, GroupSet, PolicyId},
};
use libfuzzer_sys::fuzz_target;

const MAC: [u8; 6] = [2, 0, 0, 0, 10, 1];
const V4: Addr = Addr::v4([10, 244, 0, 10]);
const V6: Addr = Addr::v6([0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10]);

/// Pods are internal; nothing else is, and nothing is permitted.
struct Closed;

impl Lookup for Closed {
    fn groups(&self, addr: Addr) -> GroupSet {
        if is_internal(addr) { GroupSet::INTERNAL } else { GroupSet::EXTERNAL }
    }

    fn permits(&self, _: PolicyId, _: GroupSet, _: Protocol, _: u16) -> bool {
        false
    }

    fn flow(&self, _: &FlowKey) -> Flow {
        Flow::ABSENT
    }

    fn first_fragment(&self, _: &FragmentKey) -> Option<u64> {
        None
    }

    fn now_ns(&self) -> u64 {
        0
    }
}

use decide::Lookup;

fn is_internal(addr: Addr) -> bool {
    let octets = addr.octets();
    if addr.is_v4() { octets[12..14] == [10, 244] } else { octets[..4] == [0xfd, 0, 0, 0x10] }
}

/// The destination of an IP packet behind an Ethernet header, read in the simplest way.
fn destination(bytes: &[u8]) -> Option<Addr> {
    match bytes.get(12..14)? {
        [0x08, 0x00] => Some(Addr::v4(bytes.get(30..34)?.try_into().ok()?)),
        [0x86, 0xdd] => Some(Addr::v6(bytes.get(38..54)?.try_into().ok()?)),
        _ => None,
    }
}

fn verdict(bytes: &[u8]) -> Verdict {
    let mut packet = Packet::EMPTY;
    let parsed = parse(&Slice(bytes), Link::Ethernet, &mut packet);
    let endpoint = Endpoint::new(7, MAC, Some(V4), Some(V6)).subject_to(PolicyId(1));
    decide::pod_out(&Closed, &endpoint, &packet, parsed)
}

fuzz_target!(|bytes: &[u8]| {
    let verdict_alone = verdict(bytes);
    match verdict_alone {
        Verdict::Allow(AllowReason::Internal) => {
            assert!(destination(bytes).is_some_and(is_internal), "a packet to outside passed as internal");
            assert_eq!(bytes[6..12], MAC, "a forged hardware address passed");
        }
        Verdict::Allow(AllowReason::Neighbour) => assert_eq!(bytes[6..12], MAC, "a forged hardware address passed"),
        Verdict::Allow(reason) => panic!("let through for {reason}, which nothing gives a reason for"),
        Verdict::Redirect(reason) => panic!("redirected for {reason}, though nothing is captured"),
        Verdict::Deny(_) => return,
    }
    // Octets behind the packet are padding: they change nothing.
    let mut padded = bytes.to_vec();
    padded.extend([0xff; 64]);
    assert_eq!(verdict(&padded), verdict_alone, "padding changes the verdict");
});
