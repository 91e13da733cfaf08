//! Pods that nobody knows yet.

use std::time::Instant;

use anyhow::{Result, ensure};
use sluice_tests::{
    PATIENCE, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
};

use crate::common::{both, silent};

#[test]
fn a_pod_is_refused_until_it_is_known() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    let newcomer = rig.bench.pod("egress", "newcomer")?;
    let mut sent = Vec::new();
    // From its very first packet.
    let deadline = Instant::now() + PATIENCE;
    loop {
        for dst in [both(REGISTERED), both(UNREGISTERED)].concat() {
            let frame = newcomer.sender().udp(dst, 53);
            newcomer.send(&frame)?;
            sent.push(frame.cookie());
        }
        let known = |event: &sluice_tests::Event| {
            event.device.as_deref() == Some(newcomer.device()) && event.reason == "unknown-endpoint"
        };
        if rig.events.all().iter().any(known) {
            break;
        }
        ensure!(Instant::now() < deadline, "the new device was not noticed");
    }
    // Even to other pods.
    for dst in rig.peer.addresses() {
        rig.refused(&newcomer, &newcomer.sender().udp(dst, 53), "unknown-endpoint")?;
    }
    for cookie in sent {
        rig.did_not_arrive(cookie)?;
    }
    rig.bench.state().declare(&newcomer)?;
    rig.agent.settle()?;
    let inside = rig.peer.capture()?;
    for dst in rig.peer.addresses() {
        rig.passed_to(&inside, &newcomer, &newcomer.sender().udp(dst, 53), "internal")?;
    }
    for dst in both(UNREGISTERED) {
        rig.refused(&newcomer, &newcomer.sender().udp(dst, 53), "not-gateway")?;
    }
    Ok(())
}

#[test]
fn a_pod_that_goes_is_forgotten() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    rig.bench.state().remove("pod-egress-gateway")?;
    rig.agent.settle()?;
    for dst in both(REGISTERED) {
        rig.refused(
            &rig.gateway,
            &rig.gateway.sender().syn(dst, 443),
            "unknown-endpoint",
        )?;
    }
    Ok(())
}
