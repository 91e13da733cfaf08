//! The kubelet, whose calls to pods are probes.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{cgroup, cgroup_mount};

/// What the kubelet's process is called: on its own, in minikube's and in k3s' one binary.
const NAMES: [&str; 5] = ["kubelet", "kubelite", "k3s", "k3s-server", "k3s-agent"];
/// A process may call itself what it likes, but one in a container has others of these than process 1.
const NAMESPACES: [&str; 3] = ["mnt", "pid", "net"];

/// The cgroup of this node's kubelet. `None` if there is none to be seen in `proc`, or in the root alone, where everybody
/// may be.
pub fn kubelet_cgroup(proc: &Path) -> Option<PathBuf> {
    let root = cgroup_mount()?;
    let processes = fs::read_dir(proc).ok()?.flatten();
    let mut kubelets = processes.filter(|process| {
        let name = fs::read_to_string(process.path().join("comm"));
        name.is_ok_and(|name| NAMES.contains(&name.trim_end())) && is_of_the_node(proc, &process.path())
    });
    kubelets.find_map(|process| {
        let text = fs::read_to_string(process.path().join("cgroup")).ok()?;
        let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
        let path = root.join(own);
        cgroup(&path).is_ok().then_some(path)
    })
}

/// Whether a process is in no container.
fn is_of_the_node(proc: &Path, process: &Path) -> bool {
    NAMESPACES.iter().all(|kind| {
        let namespace = |process: &Path| fs::read_link(process.join("ns").join(kind)).ok();
        namespace(process).is_some_and(|own| namespace(&proc.join("1")) == Some(own))
    })
}
