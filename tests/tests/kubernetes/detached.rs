//! The way out again, as a DaemonSet goes it: `sluice detach --stay`.

use std::{
    os::unix::process::ExitStatusExt as _,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sluice_tests::{
    Rig,
    bench::{addresses::UNREGISTERED, ip},
    manifest::Policy,
};

use crate::common::eventually;

/// It does not outlive a test that fails.
struct Detaching(Child);

impl Drop for Detaching {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pod_that_has_detached_everything_stays_until_it_is_ended() -> Result<()> {
    let mut rig = Rig::start(&Policy::default())?;
    rig.agent.kill()?;
    let gets_out = || -> Result<bool> {
        let frame = rig.client.sender().udp(ip(UNREGISTERED[0]), 53);
        rig.client.send(&frame)?;
        rig.bench.flush(&rig.outside)?;
        Ok(rig.outside.has_received(frame.cookie()))
    };
    ensure!(!gets_out()?, "nothing is enforced");

    let mut command = Command::new(rig.agent.binary());
    command
        .args(["detach", "--stay", "--bpffs"])
        .arg(rig.agent.bpffs())
        .arg("--run-dir")
        .arg(rig.agent.run_dir())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let child = rig.bench.node().run(|| command.spawn())?;
    let mut detaching = Detaching(child.context("running `sluice detach --stay`")?);
    eventually("everything is detached", || Ok(gets_out()?.then_some(())))?;
    thread::sleep(Duration::from_secs(1));
    let ended = detaching.0.try_wait()?;
    ensure!(ended.is_none(), "it has ended: {ended:?}");

    kill(Pid::from_raw(detaching.0.id().try_into()?), Signal::SIGTERM)?;
    let status = detaching.0.wait()?;
    ensure!(
        status.signal() == Some(Signal::SIGTERM as i32),
        "it does not end by SIGTERM: {status}"
    );
    Ok(())
}
