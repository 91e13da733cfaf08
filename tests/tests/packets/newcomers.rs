//! Pods that nobody knows yet.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sluice_tests::{
    PATIENCE, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    command,
    frame::Sender,
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
        // A sender has only so many of its flows told of in a second.
        thread::sleep(Duration::from_millis(10));
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

/// With a bridge, the node's side of a pod's packets has a second device, on which a forged sender looks like one outside.
#[test]
fn a_pod_that_comes_to_a_bridge_while_the_agent_is_down_gets_nowhere() -> Result<()> {
    let mut rig = Rig::start_with(&silent(), |bench| {
        bench.node().run(|| {
            command::ip(
                "link add cni0 address 02:00:00:00:0c:01 type bridge
addr add 10.244.0.1/32 dev cni0
link set cni0 up
",
            )
        })?
    })?;
    rig.agent.kill()?;
    let newcomer = rig.bench.pod("app", "newcomer")?;
    rig.bench.node().run(|| {
        command::ip(&format!(
            "link set {} master cni0
",
            newcomer.device()
        ))
    })??;
    let dst = both(UNREGISTERED)[0];
    let sender = Sender {
        node_mac: [2, 0, 0, 0, 0x0c, 1],
        ..*newcomer.sender()
    };
    let out = sender.udp(dst, 53);
    let call = sender.udp(sender.v4, out.source_port()).from(dst).sport(53);
    newcomer.send(&call)?;
    newcomer.send(&out)?;
    rig.did_not_arrive(out.cookie())
}

/// A pod that no program is on yet can bring another pod a call from "outside"; an answer to it would be the way out.
#[test]
fn a_pod_that_comes_while_the_agent_is_down_calls_nobody_from_outside() -> Result<()> {
    let mut rig = Rig::start(&silent())?;
    let inside = rig.client.capture()?;
    rig.agent.kill()?;
    let newcomer = rig.bench.pod("app", "newcomer")?;
    for dst in both(UNREGISTERED) {
        let own = if dst.is_ipv4() {
            rig.client.v4()
        } else {
            rig.client.v6()
        };
        let out = rig.client.sender().udp(dst, 53);
        let call = newcomer.sender().udp(own, out.source_port()).from(dst).sport(53);
        newcomer.send(&call)?;
        ensure!(
            inside.wait_for_cookie(call.cookie()).is_some(),
            "the forged call did not arrive"
        );
        rig.client.send(&out)?;
        rig.did_not_arrive(out.cookie())?;
    }
    Ok(())
}
