//! It is taken away again, by whoever, and everything is as it was.

use std::{collections::BTreeMap, fs};

use crate::rig::{Pod, Rig, is_quiet, modes, wait_for, want};
use anyhow::{Context as _, Result, ensure};
use sluice::{
    dataplane::{self, Dataplane, Options},
    facts::NetnsCookie,
    inpod::{Error, Undone, put_node_routing, take_node_routing, undo_all},
};

/// What another agent put there, and variables that are not as they come.
fn furnish(pod: &Pod) -> Result<()> {
    pod.set("ipv4.fwmark_reflect", "1")?;
    for command in [
        "ip -4 rule add fwmark 0x111/0xfff pref 32764 lookup 100",
        "ip -6 rule add fwmark 0x111/0xfff iif eth0 pref 32764 lookup 100",
        "ip -6 route add local default dev lo table 100",
        "tc qdisc add dev eth0 clsact",
    ] {
        pod.typed(command)?;
    }
    Ok(())
}

#[test]
fn nothing_is_left_behind() -> Result<()> {
    for &mode in modes() {
        for furnished in [false, true] {
            let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
            if furnished {
                furnish(&pod)?;
            }
            let before = pod.snapshot()?;
            let keeper = rig.keeper()?;
            want(&keeper, pod.alone())?;
            ensure!(pod.snapshot()? != before);
            want(&keeper, BTreeMap::new())?;
            let after = pod.snapshot()?;
            ensure!(after == before, "{mode:?}: before:\n{before}\nafter:\n{after}");
            ensure!(fs::read_dir(rig.records())?.next().is_none());
            ensure!(fs::read_dir(rig.links())?.next().is_none());

            // The same without the keeper, and with records and pins only.
            want(&keeper, pod.alone())?;
            drop(keeper);
            ensure!(pod.snapshot()? != before);
            let Undone { names, errors } = undo_all(&rig.records());
            ensure!(
                errors.is_empty() && names == [pod.wanted().name],
                "{names:?} {errors:?}"
            );
            ensure!(pod.snapshot()? == before, "{mode:?}: before:\n{before}");
            ensure!(undo_all(&rig.records()).names.is_empty());
        }
    }
    Ok(())
}

#[test]
fn a_second_keeper_takes_over_and_restores_what_the_first_found() -> Result<()> {
    for &mode in modes() {
        let (rig, pod, other) = (Rig::create(mode)?, Pod::create()?, Pod::create()?);
        let (before, other_before) = (pod.snapshot()?, other.snapshot()?);
        let first = rig.keeper()?;
        let mut both = pod.alone();
        both.extend(other.alone());
        want(&first, both)?;
        let old = pod.programs("eth0")?;
        drop(first);
        ensure!(pod.is_captured()? && other.is_captured()?);

        let second = rig.keeper()?;
        want(&second, pod.alone())?;
        ensure!(pod.is_captured()?);
        ensure!(pod.programs("eth0")? != old, "the program is the old one");
        ensure!(second.repairs().total() == 0, "{:?}", second.repairs());
        ensure!(
            other.snapshot()? == other_before,
            "the pod that is wanted no more is still captured"
        );
        is_quiet(&second)?;
        want(&second, BTreeMap::new())?;
        ensure!(pod.snapshot()? == before);
    }
    Ok(())
}

#[test]
fn a_namespace_may_go_while_it_is_kept() -> Result<()> {
    for &mode in modes() {
        let (rig, pod, stays) = (Rig::create(mode)?, Pod::create()?, Pod::create()?);
        let keeper = rig.keeper()?;
        let mut both = pod.alone();
        both.extend(stays.alone());
        want(&keeper, both.clone())?;
        let cookie = pod.cookie;
        drop(pod);
        wait_for("a problem", || Ok(keeper.problems().len() == 1))?;
        let mut outcome = keeper.want(both)?;
        let gone = outcome.remove(&cookie).context("no answer")?;
        ensure!(matches!(gone, Err(Error::Gone { .. })), "{gone:?}");
        want(&keeper, stays.alone())?;
        ensure!(stays.is_captured()?);
        is_quiet(&keeper)?;
        ensure!(fs::read_dir(rig.records())?.count() == 1);
        let left = fs::read_dir(rig.links())?.flatten();
        let of_the_other = |name: &str| name.starts_with(&format!("pod-{}-", stays.cookie.0));
        ensure!(
            left.into_iter()
                .all(|pin| of_the_other(&pin.file_name().to_string_lossy()))
        );
    }
    Ok(())
}

#[test]
fn only_the_right_namespace_is_touched() -> Result<()> {
    for &mode in modes() {
        let (rig, pod) = (Rig::create(mode)?, Pod::create()?);
        let before = pod.snapshot()?;
        let keeper = rig.keeper()?;
        let another = NetnsCookie(pod.cookie.0 + 1_000_000);
        let outcome = keeper.want([(another, pod.wanted())].into())?;
        ensure!(matches!(outcome.get(&another), Some(Err(Error::Another { .. }))));
        let mut own = pod.wanted();
        own.netns = "/proc/self/ns/net".into();
        let outcome = keeper.want([(another, own)].into())?;
        ensure!(matches!(outcome.get(&another), Some(Err(Error::Own { .. }))));
        ensure!(pod.snapshot()? == before);
    }
    Ok(())
}

#[test]
fn the_node_s_links_and_those_of_pods_are_kept_apart() -> Result<()> {
    let (node, pod) = (Pod::create()?, Pod::create()?);
    let directory = tempfile::tempdir()?;
    let options = Options {
        bpffs: directory.path().join("bpffs"),
        cgroup_root: None,
    };
    let records = directory.path().join("records");
    node.inside(|| {
        let mut dataplane = Dataplane::open(&options)?;
        let programs = crate::rig::programs()?;
        let mode = dataplane::attach_mode();
        let keeper = sluice::inpod::Keeper::start(mode, options.links(), &records, programs)?;
        want(&keeper, pod.alone())?;
        ensure!(dataplane.sync_devices(&[]).is_empty());
        ensure!(pod.is_captured()?);
        drop((keeper, dataplane));
        let removed = dataplane::detach(&options)?;
        let of_pods = removed.iter().filter(|line| line.starts_with("program pod-"));
        if mode == dataplane::AttachMode::Tcx {
            ensure!(of_pods.count() == 2, "{removed:?}");
            ensure!(pod.programs("eth0")?.is_empty() && pod.programs("lo")?.is_empty());
        }
        let errors = undo_all(&records).errors;
        ensure!(errors.is_empty(), "{errors:?}");
        ensure!(pod.programs("eth0")?.is_empty() && pod.programs("lo")?.is_empty());
        Ok(())
    })
}

#[test]
fn the_node_has_routing_of_its_own() -> Result<()> {
    let node = Pod::create()?;
    let directory = tempfile::tempdir()?;
    let before = node.snapshot()?;
    let routing = || node.inside(|| Ok(put_node_routing(directory.path())?));
    ensure!(routing()? == 4);
    ensure!(routing()? == 0);
    let shown = node.snapshot()?;
    let rule = "100:\tfrom all fwmark 0x1111 lookup 5120";
    ensure!(shown.matches(rule).count() == 2, "{shown}");
    ensure!(
        shown.matches("local default dev lo table 5120").count() == 2,
        "{shown}"
    );
    node.typed("ip -4 route flush table 5120")?;
    ensure!(routing()? == 1);
    let errors = node.inside(|| Ok(take_node_routing(directory.path())))?;
    ensure!(errors.is_empty(), "{errors:?}");
    ensure!(node.snapshot()? == before);
    // By `sluice detach`, where there is nothing of pods.
    ensure!(routing()? == 4);
    let errors = node.inside(|| Ok(undo_all(directory.path()).errors))?;
    ensure!(errors.is_empty() && node.snapshot()? == before, "{errors:?}");
    Ok(())
}
