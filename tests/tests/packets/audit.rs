//! Audit mode: nothing is dropped, and the same is reported as would be enforced.

use anyhow::Result;
use sluice_tests::{
    Frame, Pod, Rig,
    bench::addresses::{REGISTERED, UNREGISTERED},
    echo::Echo,
    frame::Transport,
    manifest::Policy,
};

use crate::common::{LONG, both, connect, exchange, exchange_datagrams, rejecting, udp};

/// Frames of many fates; whether they would arrive if nobody held them back.
fn frames(rig: &Rig) -> Vec<(&Pod, Frame, bool)> {
    let mut frames = Vec::new();
    for dst in both(UNREGISTERED) {
        for pod in [&rig.client, &rig.gateway] {
            let sender = pod.sender();
            frames.extend([
                (pod, sender.udp(dst, 53), true),
                (pod, sender.syn(dst, 443), true),
                (pod, sender.echo(dst), true),
                (pod, sender.other(dst, 47, &[0; 4]), true),
                (
                    pod,
                    sender.udp(dst, 53).from(rig.peer.sender().own_for(dst)),
                    true,
                ),
                (pod, sender.udp(dst, 53).from_mac([2, 0, 0, 0, 99, 1]), true),
                (pod, sender.udp(dst, 53).tagged(0x8100, 5), false),
                (
                    pod,
                    sender.frame(
                        dst,
                        Transport::Icmp {
                            kind: 1,
                            code: 1,
                            body: vec![0x60; 52],
                        },
                    ),
                    false,
                ),
                (pod, sender.syn(rig.peer.sender().own_for(dst), 80), false),
            ]);
        }
    }
    for dst in both(REGISTERED) {
        frames.push((&rig.gateway, rig.gateway.sender().syn(dst, 443), true));
        frames.push((&rig.gateway, rig.gateway.sender().syn(dst, 8443), true));
        let [_, later] = rig.gateway.sender().udp(dst, 53).split();
        frames.push((&rig.gateway, later, true));
    }
    frames
}

#[test]
fn audit_reports_what_enforcement_would_drop_and_drops_nothing() -> Result<()> {
    let mut rig = Rig::start(&Policy {
        mode: "Audit",
        ..rejecting()
    })?;
    let mut audited = Vec::new();
    for (pod, frame, arrives) in frames(&rig) {
        audited.push(rig.judged("pod_out", pod, &frame)?);
        if arrives {
            assert!(
                rig.outside.wait_for_cookie(frame.cookie()).is_some(),
                "{frame:?} was dropped in audit mode"
            );
        }
    }
    assert!(rig.events.all().iter().all(|event| event.verdict != "deny"));
    rig.bench.state().policy(&rejecting())?;
    rig.agent.settle()?;
    for ((pod, frame, _), audited) in frames(&rig).into_iter().zip(audited) {
        let enforced = rig.judged("pod_out", pod, &frame)?;
        assert_eq!(audited.reason, enforced.reason, "{frame:?}");
        let expected = if enforced.verdict == "deny" {
            "audit"
        } else {
            "allow"
        };
        assert_eq!(audited.verdict, expected, "{frame:?}");
    }
    Ok(())
}

#[test]
fn audited_applications_notice_nothing() -> Result<()> {
    let rig = Rig::start(&Policy {
        mode: "Audit",
        ..rejecting()
    })?;
    let _outside = Echo::start(rig.bench.outside(), &both(UNREGISTERED), &[80])?;
    for dst in both(UNREGISTERED) {
        rig.client.run(|| -> std::io::Result<()> {
            exchange(&mut connect(dst, 80, LONG)?)?;
            exchange_datagrams(&udp(dst, 80, LONG)?)
        })??;
        let event = rig.events.wait_for("an audited call", |event| {
            event.dst == dst && event.hook == "pod_out"
        })?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            ("audit", "not-gateway")
        );
    }
    Ok(())
}

/// The backstop, too, only reports: a sender that nobody knows passes.
#[test]
fn an_unknown_sender_is_audited() -> Result<()> {
    let rig = Rig::start(&Policy {
        mode: "Audit",
        ..rejecting()
    })?;
    let stranger = rig.bench.pod("app", "stranger")?;
    for dst in both(UNREGISTERED) {
        let frame = stranger.sender().udp(dst, 53);
        stranger.send(&frame)?;
        assert!(rig.outside.wait_for_cookie(frame.cookie()).is_some(), "{dst}");
    }
    Ok(())
}
