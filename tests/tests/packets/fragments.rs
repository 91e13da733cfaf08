//! Packets in parts.

use anyhow::Result;
use sluice_tests::{
    Frame, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
};

use crate::common::{both, silent};

#[test]
fn parts_follow_their_first_and_nothing_else() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let (gateway, sender) = (&rig.gateway, rig.gateway.sender());
    for dst in both(REGISTERED) {
        let [first, later] = sender.syn(dst, 80).split();
        rig.passed(gateway, &first, "rule")?;
        rig.passed(gateway, &later, "fragment")?;

        // Out of order: what comes too early is refused, and may come again.
        let [first, later] = sender.syn(dst, 80).split();
        rig.refused(gateway, &later, "fragment-without-first")?;
        rig.passed(gateway, &first, "rule")?;
        let event = rig.judged("pod_out", gateway, &later)?;
        assert_eq!(event.reason, "fragment");

        // The first one is refused for its port, so is the rest.
        let [first, later] = sender.syn(dst, 8443).split();
        rig.refused(gateway, &first, "port")?;
        rig.refused(gateway, &later, "fragment-without-first")?;

        // The rest of somebody else's packet.
        let [first, _] = sender.syn(dst, 80).split();
        let [_, later] = sender.syn(dst, 80).split();
        rig.passed(gateway, &first, "rule")?;
        rig.refused(gateway, &later, "fragment-without-first")?;
    }
    for dst in both(UNREGISTERED) {
        for [first, later] in split_every_transport(&rig, dst) {
            rig.refused(&rig.client, &first, "not-gateway")?;
            rig.refused(&rig.client, &later, "fragment-without-first")?;
        }
    }
    Ok(())
}

#[test]
fn parts_to_other_pods_pass_in_any_order() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let inside = rig.peer.capture()?;
    for dst in rig.peer.addresses() {
        for [first, later] in split_every_transport(&rig, dst) {
            rig.passed_to(&inside, &rig.client, &later, "internal")?;
            rig.passed_to(&inside, &rig.client, &first, "internal")?;
        }
    }
    Ok(())
}

fn split_every_transport(rig: &Rig, dst: std::net::IpAddr) -> [[Frame; 2]; 4] {
    let sender = rig.client.sender();
    [
        sender.syn(dst, 80),
        sender.udp(dst, 53),
        sender.sctp(dst, 80),
        sender.echo(dst),
    ]
    .map(Frame::split)
}
