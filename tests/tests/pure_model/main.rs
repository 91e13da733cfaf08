//! The decision against a naive model that was written for this test alone: linear scans over prefixes, rules and
//! flows, on a description of the packet instead of its octets. It shares no code with the parser or the decision,
//! only the words for the reasons.

mod naive;
mod sketch;
mod world;

use ebpf::{
    AllowReason, DropReason, Verdict, decide,
    packet::{Link, Packet, Slice, parse},
    reason::Approval,
    rules::Enforcement,
};
use proptest::prelude::*;

use sketch::{Sketch, sketches};
use world::{Scope, worlds};

fn read(bytes: &[u8]) -> (Packet, Result<(), DropReason>) {
    let mut packet = Packet::EMPTY;
    let parsed = parse(&Slice(bytes), Link::Ethernet, &mut packet);
    (packet, parsed)
}

fn verdict(expected: Result<AllowReason, DropReason>) -> Verdict {
    match expected {
        Ok(reason) => Verdict::Allow(reason),
        Err(reason) => Verdict::Deny(reason),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_pod_sends(world in worlds(), sketch in sketches()) {
        let bytes = sketch.frame().bytes();
        let (packet, parsed) = read(&bytes);
        let lookup = world.lookup(&sketch, Scope::Pod);
        let decided = decide::pod_out(&lookup, &world.endpoint(), &packet, parsed);
        prop_assert_eq!(decided, verdict(naive::pod_out(&world, &sketch)), "{:?}", packet);
    }

    #[test]
    fn what_leaves_the_node(world in worlds(), sketch in sketches(), enforcement in 0..3_usize, approval in 0..3_usize) {
        let enforcement = [Enforcement::Off, Enforcement::Audit, Enforcement::Enforce][enforcement];
        let approval = [Approval::None, Approval::Internal, Approval::External][approval];
        let bytes = sketch.frame().bytes();
        let (packet, parsed) = read(&bytes);
        let lookup = world.lookup(&sketch, Scope::Node);
        let decided = decide::forwarded(&lookup, enforcement, approval, &packet, parsed);
        let expected = naive::forwarded(&world, &sketch, enforcement != Enforcement::Off, approval == Approval::External);
        prop_assert_eq!(decided, verdict(expected), "{:?}", packet);
    }

    /// What a call is told beforehand is what becomes of its packets.
    #[test]
    fn a_call_is_judged_like_its_packet(world in worlds(), sketch in sketches()) {
        let sketch = Sketch::plain(sketch);
        let bytes = sketch.frame().bytes();
        let (packet, parsed) = read(&bytes);
        let lookup = world.lookup(&sketch, Scope::Pod);
        let on_the_wire = decide::pod_out(&lookup, &world.endpoint(), &packet, parsed);
        let early = decide::call(&lookup, &world.endpoint(), &packet.tuple);
        match early {
            // Loopback and the pod's own addresses never reach the device. A call has no flags, so a flow of the same
            // ports counts.
            Verdict::Allow(AllowReason::Own | AllowReason::Reply) => {}
            // Multicast on the link reaches it, and is dropped there.
            Verdict::Allow(AllowReason::Internal) if sketch.stays_on_link() => {}
            Verdict::Allow(_) | Verdict::Redirect(_) | Verdict::Deny(_) => prop_assert_eq!(early, on_the_wire),
        }
    }
}
