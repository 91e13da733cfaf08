//! It is there, and comes back when it is taken away.

use std::fs;

use anyhow::{Result, ensure};
use sluice::dataplane::AttachMode;
use sluice_tests::sys;

use crate::rig::{Pod, Rig, is_quiet, modes, more, wait_for, want};

#[test]
fn everything_is_put_there_and_stays_as_it_is() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let keeper = rig.keeper()?;
        ensure!(!pod.is_captured()?);
        want(&keeper, pod.alone())?;
        ensure!(pod.is_captured()?, "{}", pod.snapshot()?);
        let before = pod.snapshot()?;
        is_quiet(&keeper)?;
        want(&keeper, pod.alone())?;
        let after = pod.snapshot()?;
        ensure!(after == before, "before:\n{before}\nafter:\n{after}");
        ensure!(keeper.repairs().total() == 0);
    }
    Ok(())
}

#[test]
fn what_is_taken_away_comes_back_and_is_counted() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let keeper = rig.keeper()?;
        want(&keeper, pod.alone())?;
        let before = pod.snapshot()?;
        let eth0 = pod.programs("eth0")?;
        let damage: [(&str, &dyn Fn() -> Result<()>); 10] = [
            ("rule", &|| pod.typed("ip -4 rule del pref 32764")),
            ("rule", &|| pod.typed("ip -6 rule del pref 32764")),
            ("route", &|| pod.typed("ip -4 route flush table 100")),
            ("route", &|| pod.typed("ip -6 route flush table 100")),
            ("route", &|| {
                pod.typed("ip route replace unreachable default table 100")
            }),
            ("sysctl", &|| pod.set("ipv4.tcp_fwmark_accept", "0")),
            ("sysctl", &|| pod.set("ipv4.fwmark_reflect", "0")),
            ("sysctl", &|| pod.set("ipv6.fwmark_reflect", "0")),
            ("program", &|| {
                take_off(&rig, &pod, "eth0", "capture_in", "ingress")
            }),
            ("program", &|| take_off(&rig, &pod, "lo", "capture_lo", "egress")),
        ];
        for (number, (kind, damage)) in damage.into_iter().enumerate() {
            let expected = more(keeper.repairs(), kind);
            damage()?;
            let took = wait_for(&format!("{mode:?}: repair {number} of a {kind}"), || {
                Ok(keeper.repairs() == expected)
            })?;
            println!("{mode:?}: {kind} {number} was back after {} ms", took.as_millis());
            ensure!(pod.is_captured()?, "{number}: {}", pod.snapshot()?);
        }
        ensure!(pod.programs("eth0")? == eth0);
        is_quiet(&keeper)?;
        drop(keeper);
        ensure!(pod.snapshot()?.lines().count() == before.lines().count());
    }
    Ok(())
}

fn take_off(rig: &Rig, pod: &Pod, device: &str, program: &str, direction: &str) -> Result<()> {
    match rig.mode {
        AttachMode::Tcx => {
            let ending = format!("-{program}");
            for entry in fs::read_dir(rig.links())? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().ends_with(&ending) {
                    fs::remove_file(entry.path())?;
                }
            }
            Ok(())
        }
        AttachMode::Clsact => pod
            .run("tc", &["filter", "del", "dev", device, direction])
            .map(drop),
    }
}

#[test]
fn a_device_that_appears_gets_its_program() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let keeper = rig.keeper()?;
        want(&keeper, pod.alone())?;
        pod.ip("link add virt0 type veth peer name net1\n")?;
        wait_for("capture on new devices", || {
            Ok(pod.programs("virt0")?.len() == 1 && pod.programs("net1")?.len() == 1)
        })?;
        ensure!(pod.programs("virt0")? != pod.programs("net1")?);
        ensure!(pod.programs("net1")? == pod.programs("eth0")?);
        pod.ip("link del virt0\n")?;
        is_quiet(&keeper)?;
        ensure!(keeper.repairs().total() == 0, "{:?}", keeper.repairs());

        // Another wish for the same pod.
        let mut bypass = pod.wanted();
        bypass.inbound = false;
        want(&keeper, [(pod.cookie, bypass)].into())?;
        ensure!(pod.programs("eth0")?.is_empty() && pod.programs("lo")?.len() == 1);
        want(&keeper, pod.alone())?;
        ensure!(pod.is_captured()?);
    }
    Ok(())
}

#[test]
fn a_pod_without_ipv6_gets_it_when_it_has() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        pod.set("ipv6.conf.lo.disable_ipv6", "1")?;
        let keeper = rig.keeper()?;
        want(&keeper, pod.alone())?;
        ensure!(!pod.run("ip", &["-6", "rule"])?.contains("0x111"));
        ensure!(pod.run("ip", &["-4", "rule"])?.contains("0x111"));
        pod.set("ipv6.conf.lo.disable_ipv6", "0")?;
        wait_for("IPv6", || pod.is_captured())?;
        is_quiet(&keeper)?;
    }
    Ok(())
}

#[test]
fn another_program_does_not_stay_before_ours() -> Result<()> {
    let [AttachMode::Tcx, ..] = modes() else {
        println!("this kernel has no TCX: filters at one priority have an order of their own");
        return Ok(());
    };
    let (rig, pod) = (Rig::create(AttachMode::Tcx)?, Pod::create()?);
    let keeper = rig.keeper()?;
    want(&keeper, pod.alone())?;
    let ours = pod.programs("eth0")?;
    let program = sys::bpf::classifier("other", 0)?;
    let _link = pod.attach_first("eth0", &program)?;
    wait_for("our program in front", || {
        let now = pod.programs("eth0")?;
        Ok(now.len() == 2 && now.first() == ours.first())
    })?;
    wait_for("the count", || Ok(keeper.repairs().programs == 1))?;
    is_quiet(&keeper)
}
