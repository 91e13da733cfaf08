//! What the agent stands on is missing, full or taken away.

use std::{
    fs::{self, File},
    io::Write as _,
};

use anyhow::{Context as _, Result, bail, ensure};
use ebpf::rules::ABI;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sluice_tests::{Rig, cgroup, manifest::Policy};

use crate::common::{says, still_holds, wait_until};

const NONE: Option<&str> = None;

#[test]
fn a_bpffs_that_may_not_be_written_to() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    let bpffs = rig.agent.bpffs();
    let remount = |flags| mount(NONE, &bpffs, NONE, MsFlags::MS_REMOUNT | flags, NONE);
    remount(MsFlags::MS_RDONLY)?;
    let output = rig.agent.run_second(None);
    let held = still_holds(&rig);
    remount(MsFlags::empty())?;
    held?;
    let directory = bpffs.join(format!("v{ABI}"));
    says(
        &output?,
        &[&directory.display().to_string(), "Read-only file system"],
    )?;
    rig.agent.restart()?;
    still_holds(&rig)
}

#[test]
fn too_few_descriptors() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    // From none that it could load programs with, to some that nearly suffice.
    for limit in [16, 40, 64] {
        rig.agent.started_after(&format!("ulimit -n {limit}"));
        let output = rig.agent.run_second(None)?;
        still_holds(&rig).with_context(|| format!("with {limit} descriptors"))?;
        says(&output, &["Too many open files"])?;
    }
    rig.agent.started_after("");
    rig.agent.restart()?;
    still_holds(&rig)
}

/// Nothing can be written down: enforcement goes on without, and nobody is captured of whom it cannot be remembered.
#[test]
fn a_full_disk() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    let run_dir = rig.agent.run_dir();
    mount(
        Some("tmpfs"),
        &run_dir,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=64k"),
    )?;
    let tried = on_a_full_disk(&mut rig);
    let killed = rig.agent.kill();
    umount2(&run_dir, MntFlags::MNT_DETACH)?;
    tried.and(killed)
}

fn on_a_full_disk(rig: &mut Rig) -> Result<()> {
    rig.agent.restart()?;
    let mut file = File::create(rig.agent.run_dir().join("filling"))?;
    while file.write_all(&[0; 512]).is_ok() {}
    let proxy = rig
        .client
        .cgroup()
        .path()
        .to_str()
        .context("a path that is no text")?;
    let enrolled = rig
        .agent
        .enroll(rig.client.netns().path(), &["--proxy-cgroup", proxy]);
    let Err(error) = enrolled else {
        bail!("it says that it remembers whom to capture");
    };
    let error = format!("{error:#}");
    ensure!(error.contains("No space left on device"), "{error}");
    still_holds(rig)?;
    rig.agent.kill()?;
    rig.agent.restart().context("an agent that finds no space")?;
    still_holds(rig)
}

/// Cgroups of the first version alone: calls are not refused early, packets are all the same.
#[test]
fn no_cgroups_of_the_second_version() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    rig.agent.without_cgroups();
    // In a mount namespace of its own.
    let root = cgroup::root()?;
    rig.agent.started_after(&format!(
        "exec unshare --mount /bin/sh -c 'umount -l {} && exec \"$0\" \"$@\"' \"$0\" \"$@\"",
        root.display()
    ));
    rig.agent.restart()?;
    let pid = rig.agent.pid().context("no agent")?;
    let mounts = fs::read_to_string(format!("/proc/{pid}/mounts"))?;
    ensure!(
        !mounts.contains(" cgroup2 "),
        "the agent sees cgroups of the second version"
    );
    still_holds(&rig)
}

/// Somebody takes our programs off the cgroup; nobody is told of that.
#[test]
fn hooks_of_calls_that_are_taken_away() -> Result<()> {
    let rig = Rig::start(&Policy::default())?;
    let repairs = || -> Result<u64> { rig.agent.status()?["repairs"].as_u64().context("no repairs") };
    let before = repairs()?;
    let links = rig.agent.bpffs().join(format!("v{ABI}/links"));
    for hook in ["cgroup-connect4", "cgroup-sendmsg6"] {
        fs::remove_file(links.join(hook))?;
    }
    wait_until("the repair", || Ok(repairs()? == before + 2))?;
    ensure!(links.join("cgroup-connect4").exists() && links.join("cgroup-sendmsg6").exists());
    still_holds(&rig)
}
