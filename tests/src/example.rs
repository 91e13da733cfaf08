//! The examples of `deploy/examples`, on a bench.
//!
//! What a cluster is told is a kustomization; what it would have by itself is in `directory-mode/`.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use sluice::{facts::PodName, source::Directory};

use crate::{Bench, Pod, cgroup::Cgroup};

/// The file of the policy, without its suffix.
pub const POLICY: &str = "egresspolicy";
const KUSTOMIZATION: &str = "kustomization.yaml";
/// The folder of what is not a part of the kustomization.
const DIRECTORY_MODE: &str = "directory-mode";

/// A kustomization, as far as the examples make use of it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kustomization {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    resources: Vec<String>,
}

/// An example.
#[derive(Debug)]
pub struct Example {
    root: PathBuf,
    /// What `kubectl apply -k` takes.
    pub applied: Vec<PathBuf>,
    /// What the agent reads besides, in directory mode.
    pub besides: Vec<PathBuf>,
}

impl Example {
    /// Where the examples of this repository are.
    pub fn folder() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/examples")
    }

    /// Reads the one in `root`; where there are several kustomizations, the one in its folder `variant`.
    pub fn open(root: &Path, variant: &str) -> Result<Self> {
        let mut applied = Vec::new();
        collect(&root.join(variant), &mut applied)?;
        let besides = yaml_files(&root.join(DIRECTORY_MODE))?;
        Ok(Self {
            root: root.to_owned(),
            applied,
            besides,
        })
    }

    /// Its `README.md`.
    pub fn readme(&self) -> Result<String> {
        let path = self.root.join("README.md");
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    }

    /// Makes its pods on the bench, and a cgroup for each sidecar. They get the addresses that the example says because they
    /// are made in that order.
    pub fn pods(&self, bench: &Bench) -> Result<BTreeMap<String, ExamplePod>> {
        let loaded = Directory::open(self.root.join(DIRECTORY_MODE))?.load();
        let mut declared: Vec<(Vec<IpAddr>, PodName, Option<PathBuf>)> = loaded
            .stores
            .pods
            .values()
            .map(|pod| (pod.addresses.clone(), pod.name.clone(), pod.proxy_cgroup.clone()))
            .collect();
        declared.sort();
        let mut pods = BTreeMap::new();
        for (addresses, name, proxy) in declared {
            let pod = bench.pod(&name.namespace, &name.name)?;
            ensure!(
                addresses == pod.addresses(),
                "{name} has the addresses {addresses:?} in {}, and {:?} on the bench",
                self.root.display(),
                pod.addresses()
            );
            let proxy = proxy
                .map(|written| anyhow::Ok((written, pod.cgroup().child("istio-proxy")?)))
                .transpose()?;
            pods.insert(name.name, ExamplePod { pod, proxy });
        }
        Ok(pods)
    }

    /// Copies it into the agent's folder, with the namespaces and the cgroups that its pods have here. Returns the policy, which
    /// is left out.
    pub fn declare(&self, bench: &Bench, pods: &BTreeMap<String, ExamplePod>) -> Result<String> {
        let mut policy = None;
        for path in self.applied.iter().chain(&self.besides) {
            let mut text =
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let name = stem(path)?;
            if name == POLICY {
                policy = Some(text);
                continue;
            }
            if name == "pods" {
                for pod in pods.values() {
                    text = pod
                        .placed(&text)
                        .with_context(|| format!("in {}", path.display()))?;
                }
            }
            bench.state().write(name, &text)?;
        }
        policy.with_context(|| format!("{} has no {POLICY}.yaml", self.root.display()))
    }
}

/// Takes a pod of an example out of those that were made.
pub fn take(pods: &mut BTreeMap<String, ExamplePod>, name: &str) -> Result<ExamplePod> {
    let pod = pods.remove(name);
    pod.with_context(|| format!("the example has no pod {name}"))
}

/// A pod of an example.
#[derive(Debug)]
pub struct ExamplePod {
    /// The pod.
    pub pod: Pod,
    /// The cgroup of its sidecar, as the example has it, and as it is.
    pub proxy: Option<(PathBuf, Cgroup)>,
}

impl ExamplePod {
    /// The manifest with this pod where it is.
    fn placed(&self, manifest: &str) -> Result<String> {
        let written = format!("/run/netns/{}\n", self.pod.name());
        ensure!(
            manifest.contains(&written),
            "the pod {} is not at {written}",
            self.pod.name()
        );
        let placed = manifest.replace(&written, &format!("{}\n", self.pod.netns().path().display()));
        Ok(match &self.proxy {
            Some((written, cgroup)) => placed.replace(
                &written.display().to_string(),
                &cgroup.path().display().to_string(),
            ),
            None => placed,
        })
    }

    /// The cgroup of its sidecar.
    pub fn proxy(&self) -> Result<&Cgroup> {
        let (_, cgroup) = self.proxy.as_ref().context("this pod has no sidecar")?;
        Ok(cgroup)
    }
}

/// The files that a kustomization names, those of others that it names included.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let path = folder.join(KUSTOMIZATION);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let Kustomization { resources, .. } =
        serde_saphyr::from_str(&text).with_context(|| format!("in {}", path.display()))?;
    for resource in resources {
        let resource = folder.join(resource);
        if resource.is_dir() {
            collect(&resource, files)?;
        } else {
            files.push(resource);
        }
    }
    Ok(())
}

/// Manifests directly in a folder, which may be missing; not its kustomization.
pub fn yaml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let is_manifest = path.extension().is_some_and(|extension| extension == "yaml");
        if is_manifest && !path.ends_with(KUSTOMIZATION) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// A file's name without its suffix.
pub fn stem(path: &Path) -> Result<&str> {
    let stem = path.file_stem().and_then(|stem| stem.to_str());
    stem.with_context(|| format!("{} has no name", path.display()))
}
