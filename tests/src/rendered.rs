//! What `kubectl kustomize` makes of an overlay.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use k8s_openapi::{
    DeepMerge as _,
    api::{
        apps::v1::DaemonSet,
        core::v1::{ConfigMap, Container, PodSpec},
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A kubectl of our own choice; `cargo xtask test` names one.
const KUBECTL: &str = "SLUICE_KUBECTL";

/// What people apply.
pub const OVERLAYS: [&str; 4] = ["ambient", "detach", "enforce", "kind"];

/// The folder of everything that is installed.
pub fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of an overlay.
#[derive(Clone, Debug)]
pub struct Rendered(pub Vec<Value>);

impl Rendered {
    /// Renders it.
    pub fn of(overlay: &str) -> Result<Self> {
        let folder = deploy().join("overlays").join(overlay);
        let kubectl = std::env::var_os(KUBECTL).unwrap_or_else(|| OsString::from("kubectl"));
        let shown = format!("{} kustomize {}", kubectl.display(), folder.display());
        let output = Command::new(&kubectl)
            .arg("kustomize")
            .arg(&folder)
            .output()
            .with_context(|| format!("`{shown}` (kubectl 1.21 or later; {KUBECTL} names one)"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`{shown}` failed: {said}");
        // A field that is deprecated, for example.
        ensure!(said.is_empty(), "`{shown}` says: {said}");
        let text = String::from_utf8(output.stdout).with_context(|| shown.clone())?;
        let objects: Vec<Value> = serde_saphyr::from_multiple(&text).with_context(|| shown.clone())?;
        ensure!(!objects.is_empty(), "`{shown}` rendered nothing");
        Ok(Self(objects))
    }

    /// All objects of a kind.
    pub fn all<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<T>> {
        let of_kind = self.0.iter().filter(|object| object["kind"] == kind);
        of_kind
            .map(|object| serde_json::from_value(object.clone()).with_context(|| format!("{kind}: {object}")))
            .collect()
    }

    fn only<T: DeserializeOwned>(&self, kind: &str) -> Result<T> {
        let mut all = self.all(kind)?;
        ensure!(all.len() == 1, "{} objects of kind {kind}", all.len());
        all.pop().context("no object")
    }

    /// The agent's pod.
    pub fn pod(&self) -> Result<PodSpec> {
        let daemonset: DaemonSet = self.only("DaemonSet")?;
        let spec = daemonset.spec.context("a DaemonSet without spec")?;
        spec.template.spec.context("a DaemonSet without pod")
    }

    /// The agent's container.
    pub fn container(&self) -> Result<Container> {
        let mut containers = self.pod()?.containers;
        ensure!(containers.len() == 1, "{} containers", containers.len());
        containers.pop().context("no container")
    }

    /// The agent's configuration, as its container gets it.
    pub fn configuration(&self) -> Result<ConfigMap> {
        let mut all = ConfigMap::default();
        let maps: Vec<ConfigMap> = self.all("ConfigMap")?;
        for source in self.container()?.env_from.unwrap_or_default() {
            let name = source.config_map_ref.context("not from a ConfigMap")?.name;
            let named = maps
                .iter()
                .find(|map| map.metadata.name.as_ref() == Some(&name))
                .with_context(|| format!("there is no ConfigMap {name}"))?;
            all.merge_from(named.clone());
        }
        Ok(all)
    }
}
