//! What a kubelet and a container runtime leave of pods on a node: cgroups of a certain shape, and processes in them.

use std::{
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result};

use crate::{Bench, cgroup::Cgroup, netns::Netns};

/// How the kubelet names cgroups.
#[derive(Clone, Copy, Debug)]
pub enum Driver {
    /// `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod….slice`
    Systemd,
    /// `kubepods/burstable/pod…`
    Cgroupfs,
}

/// The cgroups around those of all burstable pods.
#[derive(Debug)]
pub struct Kubelet {
    driver: Driver,
    class: Cgroup,
    _pods: Cgroup,
}

/// The cgroup of a pod.
#[derive(Debug)]
pub struct PodCgroup {
    driver: Driver,
    cgroup: Cgroup,
}

impl Kubelet {
    /// On the bench's node.
    pub fn start(bench: &Bench, driver: Driver) -> Result<Self> {
        let (pods, class) = match driver {
            Driver::Systemd => ("kubepods.slice", "kubepods-burstable.slice"),
            Driver::Cgroupfs => ("kubepods", "burstable"),
        };
        let pods = bench.cgroup().child(pods)?;
        let class = pods.child(class)?;
        Ok(Self {
            driver,
            class,
            _pods: pods,
        })
    }

    /// Makes the cgroup of a pod.
    pub fn pod(&self, uid: &str) -> Result<PodCgroup> {
        let name = match self.driver {
            Driver::Systemd => format!("kubepods-burstable-pod{}.slice", uid.replace('-', "_")),
            Driver::Cgroupfs => format!("pod{uid}"),
        };
        Ok(PodCgroup {
            driver: self.driver,
            cgroup: self.class.child(&name)?,
        })
    }
}

impl PodCgroup {
    /// Itself.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Itself alone.
    pub fn into_cgroup(self) -> Cgroup {
        self.cgroup
    }

    /// Makes the cgroup of one of its containers.
    pub fn container(&self, id: &str) -> Result<Cgroup> {
        let name = match self.driver {
            Driver::Systemd => format!("cri-containerd-{id}.scope"),
            Driver::Cgroupfs => id.to_owned(),
        };
        self.cgroup.child(&name)
    }
}

/// A process that does nothing but be there.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Starts it in a network namespace and puts it into a cgroup.
    pub fn start(cgroup: &Cgroup, netns: &Netns) -> Result<Self> {
        // It reads commands until its standard input is closed.
        let mut command = Command::new("ip");
        command.args(["-batch", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let child = netns.run(|| command.spawn())?.context("running `ip -batch -`")?;
        let process = Self(child);
        process.join(cgroup.path())?;
        Ok(process)
    }

    fn join(&self, cgroup: &Path) -> Result<()> {
        let processes = cgroup.join("cgroup.procs");
        fs::write(&processes, self.id().to_string())
            .with_context(|| format!("writing to {}", processes.display()))
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
