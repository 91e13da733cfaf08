//! Interfaces inside a pod behind which others are, as virtual machines: what comes from there is the pod's.

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    bench::{addresses::REGISTERED, ip},
    command,
    echo::Echo,
    manifest::Details,
    netns::Netns,
    proxy::{OUTBOUND, original},
};

use crate::common::{Stand, at, connect, converse, fails};

/// A stand and the namespace that is behind its pod's `virt0`.
fn with_machine() -> Result<(Stand, Netns)> {
    let details = Details {
        annotations: vec![("istio.io/reroute-virtual-interfaces", "virt0, virt1".to_owned())],
        ..Details::default()
    };
    let stand = Stand::with(&[], |bench, pod, peer| {
        bench.state().declare_with(pod, &details)?;
        bench.state().declare(peer)
    })?;
    let machine = Netns::create(&format!("{}-machine", stand.bench.id()))?;
    stand.pod.netns().run(|| {
        command::ip(&format!(
            "link add virt0 type veth peer name eth0 netns {}
addr add 10.99.0.1/24 dev virt0
addr add fd00:99::1/64 dev virt0 nodad
link set virt0 up
",
            machine.name()
        ))
    })??;
    stand.pod.netns().sysctls(&[
        ("ipv4.ip_forward", "1"),
        ("ipv6.conf.all.forwarding", "1"),
        ("ipv4.conf.virt0.rp_filter", "0"),
    ])?;
    machine.run(|| {
        command::ip(
            "link set lo up
addr add 10.99.0.2/24 dev eth0
addr add fd00:99::2/64 dev eth0 nodad
link set eth0 up
route add default via 10.99.0.1
route add default via fd00:99::1
",
        )
    })??;
    stand.enroll(&["--name", "app/client"])?;
    Ok((stand, machine))
}

#[test]
fn calls_from_behind_a_virtual_interface_are_captured() -> Result<()> {
    let (stand, machine) = with_machine()?;
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    let destinations = at(REGISTERED.map(ip), 80);
    for to in destinations {
        fails(
            libc::ECONNREFUSED,
            &format!("a call for {to} without a proxy"),
            || machine.run(|| connect(to)),
        );
    }
    let listener = stand.proxy.listen(OUTBOUND)?;
    for to in destinations {
        let mut stream = machine
            .run(|| connect(to))?
            .with_context(|| format!("calling {to}"))?;
        let mut taken = listener.accept()?;
        ensure!(original(&taken)? == to, "{to} became {}", original(&taken)?);
        converse(&mut stream, &mut taken)?;
        // The pod's own calls as before.
        stand.arrives(&listener, to)?;
    }
    Ok(())
}
