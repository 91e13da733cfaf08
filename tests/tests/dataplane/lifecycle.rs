//! Programs on devices: taken over, put back, taken away.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use sluice::dataplane::{self, AttachMode, Dataplane, Device, Error, Options, Role};
use sluice_tests::{
    bench::{
        UPLINK,
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    command,
};

use crate::rig::{Rig, inode, modes, sync};

#[test]
fn a_new_agent_takes_over_without_a_packet_in_between() -> Result<()> {
    for &mode in modes() {
        let rig = Rig::create()?;
        rig.on_node(|| {
            let devices = rig.devices()?;
            let desired = rig.desired(&devices[0], None);
            let mut first = Dataplane::open_as(&rig.options(), mode)?;
            sync(&mut first, &devices)?;
            first.apply(&desired)?;
            let old_program = first.programs()?[0].id;
            drop(first);
            ensure!(
                !rig.arrives(UNREGISTERED[0], 53)?,
                "the rules stay without an agent"
            );

            let link = rig.pin("links", &format!("{}-pod_out", devices[0].index.0));
            let cgroup_link = rig.pin("links", "cgroup-connect4");
            let before = (inode(&link)?, inode(&cgroup_link)?);
            let outside = rig.bench.capture_outside()?;
            let done = AtomicBool::new(false);
            let (permitted, refused) = thread::scope(|scope| {
                let traffic = scope.spawn(|| -> Result<_> {
                    let (mut permitted, mut refused) = (Vec::new(), Vec::new());
                    while !done.load(Ordering::Relaxed) {
                        for (address, cookies) in
                            [(REGISTERED[0], &mut permitted), (UNREGISTERED[0], &mut refused)]
                        {
                            let frame = rig.pod.sender().udp(ip(address), 53);
                            rig.pod.send(&frame)?;
                            cookies.push(frame.cookie());
                        }
                        thread::sleep(Duration::from_micros(200));
                    }
                    Ok((permitted, refused))
                });
                let taken_over = (|| -> Result<()> {
                    let mut second = Dataplane::open_as(&rig.options(), mode)?;
                    ensure!(second.generation().0 == 1, "the rules are those of the first");
                    sync(&mut second, &devices)?;
                    ensure!(second.programs()?[0].id != old_program && second.repairs() == 0);
                    let applied = second
                        .apply(&desired)?
                        .context("what the bank holds was not known")?;
                    ensure!(applied.generation.0 == 2);
                    second.settle()?;
                    ensure!(second.apply(&desired)?.is_none());
                    Ok(())
                })();
                done.store(true, Ordering::Relaxed);
                let traffic = traffic.join().expect("the traffic");
                taken_over.and(traffic)
            })?;
            rig.bench.flush(&outside)?;
            ensure!(
                (inode(&link)?, inode(&cgroup_link)?) == before,
                "the links are the same"
            );
            ensure!(permitted.len() > 20, "only {} frames were sent", permitted.len());
            for cookie in permitted {
                ensure!(outside.has_received(cookie), "a permitted packet was lost");
            }
            for cookie in refused {
                ensure!(!outside.has_received(cookie), "a refused packet got out");
            }
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_program_that_is_displaced_or_removed_is_put_back() -> Result<()> {
    for &mode in modes() {
        let rig = Rig::create()?;
        let other = tempfile::tempdir()?;
        rig.on_node(|| {
            let mut ours = Dataplane::open_as(&rig.options(), mode)?;
            let devices = rig.devices()?;
            sync(&mut ours, &devices)?;
            ours.apply(&rig.desired(&devices[0], None))?;
            sync(&mut ours, &devices)?;
            ensure!(ours.repairs() == 0, "nobody has touched anything");

            // Another agent, whose programs know no rules: its links come before ours, its filters take their place.
            let theirs = Options {
                bpffs: other.path().join("bpffs"),
                cgroup_root: None,
            };
            let mut another = Dataplane::open_as(&theirs, mode)?;
            sync(&mut another, &devices)?;
            sync(&mut ours, &devices)?;
            ensure!(
                ours.repairs() == 4,
                "{mode:?}: {} repairs of four displaced programs",
                ours.repairs()
            );
            sync(&mut ours, &devices)?;
            ensure!(ours.repairs() == 4, "{mode:?}: once is enough");
            ensure!(!rig.arrives(UNREGISTERED[0], 53)?);
            drop(another);
            if mode == AttachMode::Tcx {
                dataplane::detach(&theirs)?;
            }

            take_away_pod_out(&rig, &devices[0], mode)?;
            ensure!(!rig.arrives(UNREGISTERED[0], 53)?, "the backstop holds");
            sync(&mut ours, &devices)?;
            ensure!(ours.repairs() == 5, "{mode:?}: {} repairs", ours.repairs());
            ensure!(!rig.arrives(UNREGISTERED[0], 53)? && rig.arrives(REGISTERED[0], 53)?);
            drop(ours);
            // Before those of the bench: the filters of the two are the same ones.
            dataplane::detach(&theirs)?;
            Ok(())
        })?;
    }
    Ok(())
}

fn take_away_pod_out(rig: &Rig, device: &Device, mode: AttachMode) -> Result<()> {
    match mode {
        AttachMode::Tcx => fs::remove_file(rig.pin("links", &format!("{}-pod_out", device.index.0)))?,
        AttachMode::Clsact => {
            command::run("tc", &["filter", "del", "dev", &device.name, "ingress"], "")?;
        }
    }
    Ok(())
}

#[test]
fn a_qdisc_that_is_removed_is_put_back_with_its_filters() -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        let mut dataplane = Dataplane::open_as(&rig.options(), AttachMode::Clsact)?;
        let devices = rig.devices()?;
        sync(&mut dataplane, &devices)?;
        sync(&mut dataplane, &devices)?;
        ensure!(dataplane.repairs() == 0);
        command::run("tc", &["qdisc", "del", "dev", rig.pod.device(), "clsact"], "")?;
        sync(&mut dataplane, &devices)?;
        ensure!(dataplane.repairs() == 2, "{} repairs", dataplane.repairs());
        Ok(())
    })
}

#[test]
fn a_device_that_changes_its_role_or_goes_takes_its_pins_along() -> Result<()> {
    for &mode in modes() {
        let rig = Rig::create()?;
        rig.on_node(|| {
            let mut dataplane = Dataplane::open_as(&rig.options(), mode)?;
            let [pod, uplink] = rig.devices()?;
            sync(&mut dataplane, &[pod.clone(), uplink.clone()])?;
            let pins = || -> Result<(Vec<String>, Vec<String>)> {
                let mut names = Vec::new();
                for entry in fs::read_dir(rig.pin("links", ""))? {
                    let name = entry?.file_name().to_string_lossy().into_owned();
                    if !name.starts_with("cgroup") {
                        names.push(name);
                    }
                }
                Ok(names.into_iter().partition(|name| !name.ends_with("clsact")))
            };
            let qdiscs = usize::from(mode == AttachMode::Clsact);
            let (links, notes) = pins()?;
            ensure!(
                links.len() == 4 && notes.len() == 2 * qdiscs,
                "{links:?} {notes:?}"
            );

            let changed = Device {
                role: Role::Uplink,
                ..pod.clone()
            };
            for _ in 0..2 {
                sync(&mut dataplane, &[changed.clone(), uplink.clone()])?;
                let (links, notes) = pins()?;
                ensure!(
                    links.len() == 4 && !links.iter().any(|name| name.ends_with("pod_out")),
                    "{links:?}"
                );
                ensure!(notes.len() == 2 * qdiscs, "{notes:?}");
                ensure!(
                    dataplane.repairs() == 0,
                    "{mode:?}: the programs of the new role were taken off with those of the old"
                );
            }
            command::ip(&format!("link del {}\n", pod.name))?;
            sync(&mut dataplane, &[changed, uplink.clone()]).context("a device that has gone is no error")?;
            sync(&mut dataplane, &[uplink])?;
            let (links, notes) = pins()?;
            ensure!(links.len() == 2 && notes.len() == qdiscs, "{links:?} {notes:?}");
            ensure!(dataplane.repairs() == 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_map_of_another_layout_is_not_taken_for_ours() -> Result<()> {
    let rig = Rig::create()?;
    rig.on_node(|| {
        drop(Dataplane::open(&rig.options())?);
        let pin = rig.pin("maps", "OBSERVE");
        fs::remove_file(&pin)?;
        Array::<MapData, u32>::create(7, 0)?.pin(&pin)?;
        match Dataplane::open(&rig.options()) {
            Err(error @ Error::Layout { .. }) => {
                let text = error.to_string();
                ensure!(
                    text.contains("OBSERVE: the number of entries is 7 and should be 1"),
                    "{text}"
                );
            }
            Err(error) => bail!("{error}"),
            Ok(_) => bail!("it was taken for ours"),
        }
        Ok(())
    })
}

#[test]
fn detach_takes_everything_away_and_finds_nothing_the_second_time() -> Result<()> {
    for &mode in modes() {
        let rig = Rig::create()?;
        rig.on_node(|| {
            let mut dataplane = Dataplane::open_as(&rig.options(), mode)?;
            let devices = rig.devices()?;
            // This one is somebody else's, who may count on it.
            command::run("tc", &["qdisc", "add", "dev", UPLINK, "clsact"], "")?;
            sync(&mut dataplane, &devices)?;
            dataplane.apply(&rig.desired(&devices[0], None))?;
            drop(dataplane);
            ensure!(!rig.arrives(UNREGISTERED[0], 53)?);
            let removed = dataplane::detach(&rig.options())?;
            ensure!(
                removed.iter().filter(|line| line.starts_with("program ")).count() == 15,
                "{removed:#?}"
            );
            let has_clsact = |device| -> Result<bool> {
                Ok(command::run("tc", &["qdisc", "show", "dev", device], "")?.contains("clsact"))
            };
            ensure!(has_clsact(UPLINK)? && !has_clsact(rig.pod.device())?);
            ensure!(rig.arrives(UNREGISTERED[0], 53)?);
            let filters = command::run("tc", &["filter", "show", "dev", UPLINK, "egress"], "")?;
            ensure!(filters.is_empty(), "{filters}");
            ensure!(!rig.options().bpffs.exists());
            ensure!(dataplane::detach(&rig.options())?.is_empty());
            Ok(())
        })?;
    }
    Ok(())
}
