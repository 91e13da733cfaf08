//! Capture and enforcement at once: the pod may call anybody, by its proxy; what the proxy sends on is judged like anything
//! else that the pod sends.

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Proxy,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    echo::Echo,
    manifest::Policy,
    proxy::{OUTBOUND, original},
    rig::REGISTERED_PORTS,
};

use crate::common::{SHORT, Stand, at, connect, converse, exchange, fails, text};

fn under(policy: &Policy) -> Result<Stand> {
    let stand = Stand::with(&[], |bench, pod, peer| {
        bench.state().declare(pod)?;
        bench.state().declare(peer)?;
        bench
            .state()
            .register("registered", &REGISTERED, &REGISTERED_PORTS)?;
        bench.state().policy(policy)
    })?;
    stand.enroll(&["--name", "app/client"])?;
    Ok(stand)
}

#[test]
fn a_forbidden_destination_reaches_the_proxy_and_no_further() -> Result<()> {
    for on_deny in ["Drop", "Reject"] {
        let policy = Policy {
            on_deny,
            ..Policy::default()
        };
        let stand = under(&policy)?;
        let _past = Echo::start(stand.bench.outside(), &UNREGISTERED.map(ip), &[80])?;
        let seen = stand.bench.capture_outside()?;
        let listener = stand.proxy.listen(OUTBOUND)?;
        for to in at(UNREGISTERED.map(ip), 80) {
            let [mut stream, mut taken] = stand.arrives(&listener, to)?;
            converse(&mut stream, &mut taken)?;
            let sent_on = stand.proxy.connect(to, SHORT)?;
            ensure!(sent_on.is_err(), "{on_deny}: the proxy reaches {to}");
            if on_deny == "Drop" {
                stand.refusal("pod_out", "not-gateway", to)?;
            }
            // A packet that says it was the proxy's.
            let frame = stand.pod.sender().syn(to.ip(), to.port());
            stand.pod.send(&frame)?;
            stand.bench.flush(&seen)?;
            ensure!(
                !seen
                    .frames()
                    .iter()
                    .any(|seen| seen.header().is_some_and(|header| header.dst == to.ip())),
                "{on_deny}: a packet for {to} got out"
            );
        }
    }
    Ok(())
}

/// What is permitted leaves, from the proxy and not from the pod.
#[test]
fn the_proxy_of_a_gateway_may_leave() -> Result<()> {
    let stand = Stand::with(&[], |bench, pod, peer| {
        bench.state().declare(pod)?;
        bench.state().declare(peer)?;
        bench
            .state()
            .register("registered", &REGISTERED, &REGISTERED_PORTS)?;
        bench.state().policy(&Policy::default())
    })?;
    let gateway = stand.bench.pod("egress", "gateway")?;
    stand.bench.state().declare(&gateway)?;
    let proxy = Proxy::in_pod(&stand.bench, &gateway)?;
    let cgroup = text(proxy.cgroup().path())?;
    let arguments = ["--name", "egress/gateway", "--proxy-cgroup", cgroup];
    stand.agent.enroll(gateway.netns().path(), &arguments)?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    for to in at(REGISTERED.map(ip), 80) {
        fails(libc::ECONNREFUSED, "a call without a proxy", || {
            gateway.run(|| connect(to))
        });
        fails(libc::ECONNREFUSED, "a call past the hooks", || {
            gateway.run_without_cgroup(|| connect(to))
        });
    }
    let listener = proxy.listen(OUTBOUND)?;
    for to in at(REGISTERED.map(ip), 80) {
        let _stream = gateway.run(|| connect(to))??;
        ensure!(original(&listener.accept()?)? == to);
        let mut sent_on = proxy
            .run(|| connect(to))?
            .with_context(|| format!("the proxy calls {to}"))?;
        exchange(&mut sent_on)?;
    }
    Ok(())
}

/// The application is refused early no more, as it does not call anybody but the proxy.
#[test]
fn other_protocols_are_judged_as_ever() -> Result<()> {
    let stand = under(&Policy {
        on_deny: "Reject",
        ..Policy::default()
    })?;
    for to in at(UNREGISTERED.map(ip), 123) {
        let sent = stand.pod.run(|| -> std::io::Result<()> {
            let any = if to.is_ipv4() { "0.0.0.0" } else { "::" };
            let socket = std::net::UdpSocket::bind((ip(any), 0))?;
            socket.send_to(b"time", to).map(drop)
        })?;
        ensure!(
            sent.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM)),
            "{to}"
        );
        let frame = stand.pod.sender().echo(to.ip());
        stand.pod.send(&frame)?;
        stand.events.wait_for("a ping", |event| {
            event.hook == "pod_out" && event.reason == "not-gateway" && event.dst == to.ip()
        })?;
    }
    Ok(())
}
