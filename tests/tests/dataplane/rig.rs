//! A bench with one pod and a bpffs of its own.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ebpf::{
    Addr,
    packet::Protocol,
    rules::{ABI, Endpoint, Enforcement, GroupSet, Identity, PolicyId},
};
use sluice::{
    dataplane::{self, AttachMode, Dataplane, Device, Options, Role},
    desired::{Desired, Ports, Rule},
    facts::IfIndex,
};
use sluice_tests::{
    Bench, Pod,
    bench::{UPLINK, addresses::REGISTERED, ip},
    sys::device_index,
};

pub(crate) const POLICY: PolicyId = PolicyId(1);

/// A bench with one pod, and a place for pins; what is pinned there is detached at the end.
pub(crate) struct Rig {
    pub(crate) bench: Bench,
    pub(crate) pod: Pod,
    directory: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn create() -> Result<Self> {
        let bench = Bench::create()?;
        let pod = bench.pod("app", "client")?;
        Ok(Self {
            bench,
            pod,
            directory: tempfile::tempdir()?,
        })
    }

    pub(crate) fn options(&self) -> Options {
        Options {
            bpffs: self.directory.path().join("bpffs"),
            cgroup_root: Some(self.bench.cgroup().path().into()),
        }
    }

    pub(crate) fn pin(&self, kind: &str, name: &str) -> PathBuf {
        self.options().bpffs.join(format!("v{ABI}")).join(kind).join(name)
    }

    /// Calls `f` where the agent would be.
    pub(crate) fn on_node<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.bench.node().run(f)?
    }

    pub(crate) fn devices(&self) -> Result<[Device; 2]> {
        Ok([
            device(self.pod.device(), Role::Pod)?,
            device(UPLINK, Role::Uplink)?,
        ])
    }

    /// The pod may send UDP to port 53 of the registered addresses, and nothing else to the outside.
    pub(crate) fn desired(&self, device: &Device, netns: Option<u64>) -> Desired {
        let (v4, v6) = (Addr::from(self.pod.v4()), Addr::from(self.pod.v6()));
        let endpoint = Endpoint::new(device.index.0, self.pod.sender().mac, Some(v4), Some(v6))
            .subject_to(POLICY)
            .rejecting(netns.is_some());
        let group = GroupSet::numbered(1);
        let mut destinations: BTreeMap<_, _> = REGISTERED
            .iter()
            .map(|address| (ip(address).into(), group))
            .collect();
        for range in ["10.0.0.0/8", "192.0.2.0/24", "fd00::/8", "2001:db8:0:1::/64"] {
            destinations.insert(range.parse().expect("a prefix"), GroupSet::INTERNAL);
        }
        let identities = [Some(Identity::Device(device.index.0)), netns.map(Identity::Netns)];
        Desired {
            enforcement: Enforcement::Enforce,
            endpoints: identities
                .into_iter()
                .flatten()
                .map(|identity| (identity, endpoint))
                .collect(),
            destinations,
            rules: [
                Ports::single(Protocol::UDP, 53),
                Ports::Protocol(Protocol::MARKER.0),
            ]
            .map(|ports| Rule {
                policy: POLICY,
                groups: group,
                ports,
            })
            .into(),
            ..Desired::default()
        }
    }

    /// Whether a frame of the pod arrives outside.
    pub(crate) fn arrives(&self, address: &str, port: u16) -> Result<bool> {
        let outside = self.bench.capture_outside()?;
        let frame = self.pod.sender().udp(ip(address), port);
        self.pod.send(&frame)?;
        self.bench.flush(&outside)?;
        Ok(outside.has_received(frame.cookie()))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Err(error) = self.on_node(|| Ok(dataplane::detach(&self.options())?)) {
            eprintln!("detach: {error:#}");
        }
    }
}

/// The ways in which this kernel lets programs be attached: filters everywhere, links where it has them.
pub(crate) fn modes() -> &'static [AttachMode] {
    match dataplane::attach_mode() {
        AttachMode::Tcx => &[AttachMode::Tcx, AttachMode::Clsact],
        AttachMode::Clsact => &[AttachMode::Clsact],
    }
}

pub(crate) fn device(name: &str, role: Role) -> Result<Device> {
    let index = device_index(name).with_context(|| format!("looking for {name}"))?;
    Ok(Device {
        index: IfIndex(index.cast_unsigned()),
        name: name.to_owned(),
        role,
        ethernet: true,
    })
}

pub(crate) fn sync(dataplane: &mut Dataplane, devices: &[Device]) -> Result<()> {
    match dataplane.sync_devices(devices).into_iter().next() {
        Some(error) => Err(error.into()),
        None => Ok(()),
    }
}

pub(crate) fn inode(path: &Path) -> Result<u64> {
    Ok(fs::metadata(path)
        .with_context(|| format!("{}", path.display()))?
        .ino())
}
