//! What a pod answers to callers from outside, who came directly or through the node.

use std::{fmt::Write as _, net::IpAddr};

use anyhow::{Context as _, Result};
use sluice_tests::{
    Rig,
    bench::{
        OUTSIDER,
        addresses::{NODE_V4, NODE_V6, REGISTERED, UNREGISTERED},
        ip,
    },
    command,
    echo::Echo,
    frame::{Tcp, Transport},
};

use crate::common::{LONG, both, connect, exchange, exchange_datagrams, silent, udp};

#[test]
fn a_pod_answers_who_calls_it() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let _server = Echo::start(rig.client.netns(), &rig.client.addresses(), &[8080])?;
    for (family, caller) in both(UNREGISTERED).into_iter().enumerate() {
        let pod = rig.client.addresses()[family];
        // Callers come from the address that routes give them, so this one is said.
        rig.bench.outside().run(|| -> Result<()> {
            let mut stream = connect(pod, 8080, LONG).context("TCP")?;
            for _ in 0..3 {
                exchange(&mut stream).context("TCP")?;
            }
            exchange_datagrams(&udp(pod, 8080, LONG)?).context("UDP")
        })??;
        let event = rig
            .events
            .wait_for("an answer", |event| event.src == pod && event.sport == 8080)?;
        assert_eq!(
            (event.verdict.as_str(), event.reason.as_str()),
            ("allow", "reply")
        );

        let ping = OUTSIDER.echo(pod).from(caller);
        rig.outside.clear();
        rig.bench.send_from_outside(&ping)?;
        rig.outside
            .wait_for_cookie(ping.cookie())
            .context("no answer to a ping")?;
    }
    Ok(())
}

#[test]
fn having_been_called_permits_no_call_back() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let _server = Echo::start(rig.client.netns(), &rig.client.addresses(), &[8080])?;
    for (family, caller) in both(UNREGISTERED).into_iter().enumerate() {
        let pod = rig.client.addresses()[family];
        let call = OUTSIDER.syn(pod, 8080).from(caller);
        rig.bench.send_from_outside(&call)?;
        rig.events.wait_for("the answer to a call", |event| {
            event.src == pod
                && event.dst == caller
                && event.dport == call.source_port()
                && event.reason == "reply"
        })?;
        let sender = rig.client.sender();
        // Another port of the caller, another port of the pod, another protocol, and a call in the other direction.
        let segment = |port, flags| {
            sender
                .frame(
                    caller,
                    Transport::Tcp(Tcp {
                        port,
                        flags,
                        seq: 1,
                        ack: 1,
                    }),
                )
                .sport(8080)
        };
        let back = call.source_port();
        rig.refused(&rig.client, &segment(back ^ 1, Tcp::ACK), "not-gateway")?;
        rig.refused(&rig.client, &segment(back, Tcp::ACK).sport(8081), "not-gateway")?;
        rig.refused(&rig.client, &sender.udp(caller, back).sport(8080), "not-gateway")?;
        rig.refused(&rig.client, &segment(back, Tcp::SYN), "not-gateway")?;
        // Another caller.
        let elsewhere = sender
            .frame(
                both(REGISTERED)[family],
                Transport::Tcp(Tcp {
                    port: back,
                    flags: Tcp::ACK,
                    seq: 1,
                    ack: 1,
                }),
            )
            .sport(8080);
        rig.refused(&rig.client, &elsewhere, "not-gateway")?;
    }
    Ok(())
}

#[test]
fn an_echo_reply_without_a_request_is_refused() -> Result<()> {
    let rig = Rig::start(&silent())?;
    for dst in both(UNREGISTERED) {
        let reply = rig.client.sender().frame(dst, Transport::Echo { reply: true });
        rig.refused(&rig.client, &reply, "not-gateway")?;
    }
    Ok(())
}

/// What kube-proxy does for a Service of type `NodePort`, with and without masquerading callers.
fn node_port(rig: &Rig, masquerade: bool) -> Result<()> {
    let (v4, v6) = (rig.client.v4(), rig.client.v6());
    let device = rig.client.device();
    let mut rules = format!(
        "table inet nodeport {{
  chain prerouting {{
    type nat hook prerouting priority dstnat;
    ip daddr {NODE_V4} meta l4proto {{ tcp, udp }} th dport 30080 dnat ip to {v4}:8080
    ip6 daddr {NODE_V6} meta l4proto {{ tcp, udp }} th dport 30080 dnat ip6 to [{v6}]:8080
  }}
"
    );
    if masquerade {
        write!(
            rules,
            "  chain postrouting {{
    type nat hook postrouting priority srcnat;
    oifname {device} ct status dnat masquerade
  }}
"
        )?;
    }
    rules.push_str("}\n");
    rig.bench.node().run(|| command::nft(&rules))?
}

#[test]
fn a_pod_answers_through_the_nodes_port() -> Result<()> {
    for masquerade in [false, true] {
        let rig = Rig::start(&silent())?;
        let _server = Echo::start(rig.client.netns(), &rig.client.addresses(), &[8080])?;
        node_port(&rig, masquerade)?;
        for node in [ip(NODE_V4), ip(NODE_V6)] {
            let how = if masquerade { "masqueraded" } else { "as they are" };
            rig.bench
                .outside()
                .run(|| call(node))?
                .with_context(|| format!("through {node}, callers {how}"))?;
        }
    }
    Ok(())
}

fn call(node: IpAddr) -> Result<()> {
    let mut stream = connect(node, 30080, LONG).context("TCP")?;
    exchange(&mut stream).context("TCP")?;
    exchange_datagrams(&udp(node, 30080, LONG)?).context("UDP")
}

/// The node's uplink sees answers with the Service's address, which `pod_out` never saw: the backstop knows the call.
#[test]
fn the_backstop_lets_answers_through() -> Result<()> {
    let rig = Rig::start(&silent())?;
    let _server = Echo::start(rig.client.netns(), &rig.client.addresses(), &[8080])?;
    node_port(&rig, false)?;
    rig.bench.outside().run(|| call(ip(NODE_V4)))??;
    let refused: Vec<_> = rig
        .events
        .all()
        .into_iter()
        .filter(|event| event.verdict == "deny")
        .collect();
    assert!(refused.is_empty(), "{refused:?}");
    Ok(())
}
