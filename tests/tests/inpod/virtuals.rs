//! The real programs on devices of the pod behind which somebody is: a virtual machine, or the end of a tunnel.

use std::{collections::BTreeMap, io::ErrorKind, net::IpAddr};

use anyhow::{Context as _, Result, ensure};
use ebpf::{
    Addr,
    capture::{Capture, Mode, port},
};
use sluice::{dataplane::Dataplane, desired::Desired, inpod::Keeper};

use crate::{
    machine::{ADDRESSES, Cable, Machine, is_answered, listen},
    rig::{Pod, Rig, is_quiet, modes, more, wait_for, want},
};

/// Where the machine calls, far away.
const FAR: [&str; 2] = ["203.0.113.9", "2001:db8:9::9"];
/// The marks of the listener: an Envoy's, and a ztunnel's.
const MARKS: [u32; 2] = [0, 0x539];

/// The agent's programs, under rules of its own: they stay in force for as long as the dataplane is there.
fn real(rig: &Rig, pod: &Pod) -> Result<(Dataplane, Keeper)> {
    let mut dataplane = Dataplane::open(&rig.options())?;
    dataplane.apply(&desired(pod)?)?;
    let programs = dataplane.pod_programs()?;
    let keeper = Keeper::start(rig.mode, rig.links(), &rig.records(), programs)?;
    Ok((dataplane, keeper))
}

/// The pod's side of the cable is captured.
fn desired(pod: &Pod) -> Result<Desired> {
    let own = ADDRESSES.map(|(_, own)| own.parse::<IpAddr>().map(Addr::from));
    let [v4, v6] = own;
    let (v4, v6) = (v4?, v6?);
    let capture = Capture::new(pod.cookie.0, Mode::InPod)
        .at(Some(v4), Some(v6))
        .inbound(true)
        .every_port(true);
    Ok(Desired {
        captures: [(pod.cookie, capture)].into(),
        owners: [(v4, pod.cookie), (v6, pod.cookie)].into(),
        ..Desired::default()
    })
}

#[test]
fn a_virtual_machine_s_calls_go_to_the_proxy() -> Result<()> {
    for &mode in modes() {
        for cable in [Cable::Veth, Cable::Tun] {
            let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
            let (_dataplane, keeper) = real(&rig, &pod)?;
            let machine = Machine::behind(&pod, "virt0", cable)?;
            want(&keeper, pod.alone())?;
            // The way back is asked for as if from `lo`, so none of these matters.
            for (strict, mark) in [("0", "0"), ("0", "1"), ("1", "0"), ("1", "1")] {
                pod.set("ipv4.conf.all.rp_filter", strict)?;
                pod.set("ipv4.conf.all.src_valid_mark", mark)?;
                every_call_is_answered(&pod, &machine).with_context(|| {
                    format!("{mode:?}, {cable:?}, rp_filter {strict}, src_valid_mark {mark}")
                })?;
            }
            if let Cable::Veth = cable {
                for ((own, _), far) in ADDRESSES.into_iter().zip(FAR) {
                    let error = machine.call(far, 80, own)?.expect_err("nobody listens");
                    ensure!(error.kind() == ErrorKind::ConnectionRefused, "{error}");
                }
            }
        }
    }
    Ok(())
}

fn every_call_is_answered(pod: &Pod, machine: &Machine) -> Result<()> {
    for ((own, _), far) in ADDRESSES.into_iter().zip(FAR) {
        for mark in MARKS {
            let listener = listen(pod, far.parse()?, port::OUTBOUND, mark)?;
            is_answered(machine, listener, (own, far, 80))
                .with_context(|| format!("{own} calls {far}, the listener's mark is {mark:#x}"))?;
        }
    }
    Ok(())
}

#[test]
fn calls_to_the_pod_go_to_the_proxy_by_any_kind_of_device() -> Result<()> {
    for &mode in modes() {
        for cable in [Cable::Veth, Cable::Tun] {
            let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
            let (_dataplane, keeper) = real(&rig, &pod)?;
            let machine = Machine::behind(&pod, "net1", cable)?;
            want(&keeper, pod.alone())?;
            for (own, callee) in ADDRESSES {
                let listener = listen(&pod, callee.parse()?, port::INBOUND, 0)?;
                is_answered(&machine, listener, (own, callee, 8080))
                    .with_context(|| format!("{mode:?}, {cable:?}: {own} calls {callee}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn each_kind_of_device_has_its_program() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let keeper = rig.keeper()?;
        let _machine = Machine::behind(&pod, "net1", Cable::Tun)?;
        let before = pod.snapshot()?;
        want(&keeper, pod.alone())?;
        let [ethernet, none] = [pod.programs("eth0")?, pod.programs("net1")?];
        ensure!(
            ethernet.len() == 1 && none.len() == 1 && ethernet != none,
            "{ethernet:?} {none:?}"
        );
        want(&keeper, BTreeMap::new())?;
        ensure!(pod.snapshot()? == before);
    }
    Ok(())
}

#[test]
fn a_virtual_interface_has_its_rules_for_as_long_as_it_is_there() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let bare = pod.snapshot()?;
        let keeper = rig.keeper()?;
        want(&keeper, pod.alone())?;
        let without = rules(&pod)?;
        ensure!(without[0] + without[1] == 0);
        pod.ip("link add virt0 type veth peer name net1\n")?;
        let are = |expected: [usize; 2]| wait_for("rules", || Ok(rules(&pod)? == expected));
        are([1, 1])?;
        for family in ["-4", "-6"] {
            let expected = more(keeper.repairs(), "rule");
            pod.typed(&format!("ip {family} rule del pref 32763"))?;
            wait_for("the rule's return", || Ok(keeper.repairs() == expected))?;
            are([1, 1])?;
        }
        // Somebody else's, narrower, is not enough, and stays.
        let narrow = "iif virt0 fwmark 0x112/0xfff to 192.0.2.0/24 pref 32763 lookup 100";
        pod.typed(&format!("ip -4 rule add {narrow}"))?;
        is_quiet(&keeper)?;
        let again = next(keeper, &rig, &pod)?;
        ensure!(rules(&pod)? == [2, 1] && again.repairs().total() == 0);
        pod.ip("link del virt0\n")?;
        are([1, 0])?;
        pod.typed(&format!("ip -4 rule del {narrow}"))?;
        is_quiet(&again)?;
        want(&again, BTreeMap::new())?;
        ensure!(pod.snapshot()? == bare);
    }
    Ok(())
}

/// The next agent takes over.
fn next(keeper: Keeper, rig: &Rig, pod: &Pod) -> Result<Keeper> {
    drop(keeper);
    let keeper = rig.keeper()?;
    want(&keeper, pod.alone())?;
    Ok(keeper)
}

/// How many rules virtual interfaces have, of IPv4 and IPv6.
fn rules(pod: &Pod) -> Result<[usize; 2]> {
    let count = |family| -> Result<usize> {
        let rules = pod.run("ip", &[family, "rule"])?;
        let ours = |line: &&str| line.starts_with("32763:") && line.contains("iif virt0");
        Ok(rules.lines().filter(ours).count())
    };
    Ok([count("-4")?, count("-6")?])
}
