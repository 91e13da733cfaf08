//! How kubelets and container runtimes name the cgroups of pods.
//!
//! A pod may make cgroups inside its own and call them what it likes, so a name counts only where the kubelet makes it:
//! at the root of the hierarchy as this node sees it, or in the one cgroup that a node in a container (kind, minikube)
//! keeps its pods in. What is below a pod's cgroup never changes which pod it is.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What the kubelet calls the cgroup of all pods (`defaultNodeAllocatableCgroupName` in `pkg/kubelet/cm`).
const KUBEPODS: &str = "kubepods";
/// The classes that have a cgroup of their own; guaranteed pods are beside them.
const CLASSES: [&str; 2] = ["burstable", "besteffort"];
/// Where the kubelet was told to put its root (`--cgroup-root`): nowhere in particular, or as kind does.
const ROOTS: [Option<&str>; 2] = [None, Some("kubelet")];
/// What runtimes put before a container's id. Without a scope (cgroupfs) CRI-O alone has one.
const SCOPES: [&str; 3] = ["cri-containerd-", "crio-", "docker-"];
const CRI_O: &str = "crio-";
/// The process that watches over a container of CRI-O. It is in the pod's cgroup, and not in the pod.
const MONITOR: &str = "crio-conmon-";
/// Shortest container id: 32 hexadecimal digits; all runtimes of today have 64.
const ID_LEN: usize = 32;

/// What the kubelet calls a pod: `metadata.uid`, or for a static one the hash of its manifest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PodUid(String);

/// What a runtime calls a container.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ContainerId(String);

/// Whose a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// The pod.
    pub(super) pod: PodUid,
    /// It is the runtime's, to watch over a container.
    pub(super) is_monitor: bool,
}

/// What a process's cgroups say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Membership {
    /// It belongs to a pod.
    Pod(Owner),
    /// To none.
    Nobody,
    /// To several, or to one that cannot be seen from the agent's cgroup namespace.
    Unclear,
}

impl PodUid {
    /// As an API object has it; `None` if it cannot be in the name of a cgroup.
    pub fn new(text: &str) -> Option<Self> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (!text.is_empty() && text.bytes().all(known)).then(|| Self(text.to_owned()))
    }

    /// As the systemd driver writes it, to which `-` is a separator.
    fn from_slice(text: &str) -> Option<Self> {
        let escaped = !text.contains('-');
        escaped.then(|| Self::new(&text.replace('_', "-")))?
    }

    fn in_slice(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl fmt::Display for PodUid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ContainerId {
    /// As `status.containerStatuses[].containerID` has it: `containerd://…`.
    pub fn of_status(text: &str) -> Option<Self> {
        let (_, id) = text.split_once("://")?;
        Self::new(id)
    }

    fn new(text: &str) -> Option<Self> {
        let hexadecimal = text.len() >= ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hexadecimal.then(|| Self(text.to_owned()))
    }

    /// What its cgroup may be called, inside its pod's.
    pub(super) fn directories(&self) -> impl Iterator<Item = String> {
        let id = &self.0;
        let scopes = SCOPES.iter().map(move |scope| format!("{scope}{id}.scope"));
        scopes.chain([id.clone(), format!("{CRI_O}{id}")])
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where the cgroup of a pod may be, below the root of the hierarchy.
pub(super) fn directories(pod: &PodUid) -> impl Iterator<Item = PathBuf> {
    let classes = || std::iter::once(None).chain(CLASSES.map(Some));
    ROOTS.into_iter().flat_map(move |root| {
        classes().flat_map(move |class| {
            let parts = root.into_iter().chain([KUBEPODS]).chain(class);
            let slices = slices(parts.clone());
            let last = parts.clone().collect::<Vec<_>>().join("-");
            let systemd = slices.chain([format!("{last}-pod{}.slice", pod.in_slice())]);
            let plain = parts.map(str::to_owned).chain([format!("pod{pod}")]);
            [systemd.collect::<PathBuf>(), plain.collect()]
        })
    })
}

/// Where all pods' cgroups may be.
pub(super) fn roots() -> impl Iterator<Item = PathBuf> {
    ROOTS.into_iter().flat_map(|root| {
        let parts = root.into_iter().chain([KUBEPODS]);
        [slices(parts.clone()).collect::<PathBuf>(), parts.collect()]
    })
}

/// `a.slice`, `a-b.slice`, …: systemd knows from the name of a slice in which others it is.
fn slices<'a>(parts: impl Iterator<Item = &'a str>) -> impl Iterator<Item = String> {
    parts.scan(String::new(), |name, part| {
        if !name.is_empty() {
            name.push('-');
        }
        name.push_str(part);
        Some(format!("{name}.slice"))
    })
}

/// Where the cgroups of this node begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Start {
    /// Those of process 1, by hierarchy.
    node: BTreeMap<String, Vec<String>>,
    /// That of the second version which the agent was told to look in.
    told: Vec<String>,
}

impl Start {
    /// `node` is `/proc/1/cgroup`, `told` a path below the root of the second version.
    pub(super) fn new(node: &str, told: &str) -> Self {
        let owned = |path: &str| components(path).into_iter().map(str::to_owned).collect();
        let node = lines(node).map(|(hierarchy, path)| (hierarchy.to_owned(), owned(path)));
        Self {
            node: node.collect(),
            told: owned(told),
        }
    }

    /// What is left of a path.
    fn strip<'a, 'b>(&self, hierarchy: &str, path: &'b [&'a str]) -> &'b [&'a str] {
        let common = |start: &[String]| start.iter().zip(path).take_while(|(a, b)| a == *b).count();
        let of_node = self.node.get(hierarchy).map_or(0, |node| common(node));
        let told = common(&self.told);
        let is_told = hierarchy.is_empty() && told == self.told.len();
        &path[if is_told { of_node.max(told) } else { of_node }..]
    }
}

/// Reads `/proc/PID/cgroup`, with lines of both versions.
pub(super) fn read(text: &str, start: &Start) -> Membership {
    let mut found: Option<Owner> = None;
    for (hierarchy, path) in lines(text) {
        // Seen from a cgroup namespace that it is not in.
        if path.starts_with("/..") {
            return Membership::Unclear;
        }
        // Most processes of most nodes are in no pod.
        if !path.contains(KUBEPODS) {
            continue;
        }
        let path = components(path);
        match (owner(start.strip(hierarchy, &path)), &found) {
            (None, _) => {}
            (Some(owner), None) => found = Some(owner),
            (Some(owner), Some(known)) if owner == *known => {}
            (Some(_), Some(_)) => return Membership::Unclear,
        }
    }
    found.map_or(Membership::Nobody, Membership::Pod)
}

/// The controllers and the path of each line; the second version has no controllers. A path may have colons.
fn lines(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        Some((fields.next()?, fields.next()?))
    })
}

fn components(path: &str) -> Vec<&str> {
    path.split('/')
        .filter(|component| !component.is_empty())
        .collect()
}

/// Whose a cgroup is, by its path from where the node's begin.
fn owner(path: &[&str]) -> Option<Owner> {
    let (pod, rest) = ROOTS
        .iter()
        .find_map(|root| plain(*root, path).or_else(|| systemd(*root, path)))
        .or_else(|| unmanaged(path))?;
    let inner = rest.first();
    Some(Owner {
        pod,
        is_monitor: inner.is_some_and(|name| name.starts_with(MONITOR)),
    })
}

type Found<'a> = Option<(PodUid, &'a [&'a str])>;

/// The cgroupfs driver: `kubepods/burstable/pod<uid>/…`.
fn plain<'a>(root: Option<&str>, path: &'a [&'a str]) -> Found<'a> {
    let mut path = path;
    for part in root.into_iter().chain([KUBEPODS]) {
        path = without(path, part)?;
    }
    if let [class, rest @ ..] = path
        && CLASSES.contains(class)
    {
        path = rest;
    }
    let (pod, rest) = path.split_first()?;
    Some((PodUid::new(pod.strip_prefix("pod")?)?, rest))
}

/// The systemd driver: `kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid>.slice/…`.
fn systemd<'a>(root: Option<&str>, path: &'a [&'a str]) -> Found<'a> {
    let parts: Vec<_> = root.into_iter().chain([KUBEPODS]).collect();
    let mut path = path;
    for slice in slices(parts.iter().copied()) {
        path = without(path, &slice)?;
    }
    let mut name = parts.join("-");
    if let [slice, rest @ ..] = path
        && let Some(class) = CLASSES
            .iter()
            .find(|class| **slice == format!("{name}-{class}.slice"))
    {
        name = format!("{name}-{class}");
        path = rest;
    }
    let (pod, rest) = path.split_first()?;
    let uid = pod.strip_prefix(&format!("{name}-pod"))?.strip_suffix(".slice")?;
    Some((PodUid::from_slice(uid)?, rest))
}

fn without<'a>(path: &'a [&'a str], first: &str) -> Option<&'a [&'a str]> {
    let (found, rest) = path.split_first()?;
    (*found == first).then_some(rest)
}

/// A kubelet with the systemd driver and a containerd without: what was meant for systemd
/// (`kubepods-burstable-pod<uid>.slice:cri-containerd:<id>`) becomes the name of a cgroup, in the runtime's own or at the root.
fn unmanaged<'a>(path: &'a [&'a str]) -> Found<'a> {
    let (name, rest) = match path {
        ["system.slice", service, name, rest @ ..] if service.ends_with(".service") => (name, rest),
        [name, rest @ ..] => (name, rest),
        [] => return None,
    };
    let mut fields = name.split(':');
    let (slice, _, id) = (fields.next()?, fields.next()?, fields.next()?);
    ContainerId::new(id)?;
    let slice = slice
        .strip_suffix(".slice")?
        .strip_prefix(KUBEPODS)?
        .strip_prefix('-')?;
    let class = CLASSES
        .iter()
        .find_map(|class| slice.strip_prefix(class)?.strip_prefix('-'));
    let uid = class.unwrap_or(slice).strip_prefix("pod")?;
    Some((PodUid::from_slice(uid)?, rest))
}

#[cfg(test)]
#[path = "tests/kubepods.rs"]
mod tests;
