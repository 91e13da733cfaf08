//! The directory of manifests that the agent reads.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use crate::bench::{Pod, addresses};

/// Name of the node in every manifest.
pub const NODE: &str = "node-1";

/// A directory of manifests, gone when it is dropped.
#[derive(Debug)]
pub struct State {
    directory: TempDir,
}

impl State {
    /// An empty one but for the node.
    pub fn create() -> Result<Self> {
        let directory = TempDir::with_prefix("sluice-state-").context("making a directory for manifests")?;
        let state = Self { directory };
        state.write("node", &node())?;
        Ok(state)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path().join(format!("{name}.yaml"))
    }

    /// Writes `name.yaml`, in place of one that is there.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let path = self.file(name);
        fs::write(&path, yaml).with_context(|| format!("writing {}", path.display()))
    }

    /// Removes `name.yaml`.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.file(name);
        fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))
    }

    /// Writes the manifest of a pod.
    pub fn declare(&self, pod: &Pod) -> Result<()> {
        self.declare_with(pod, &Details::default())
    }

    /// Writes the manifest of a pod of which there is more to say.
    pub fn declare_with(&self, pod: &Pod, details: &Details) -> Result<()> {
        self.write(
            &format!("pod-{}-{}", pod.namespace(), pod.name()),
            &pod_manifest(pod, details)?,
        )
    }

    /// Writes the manifest of a namespace.
    pub fn namespace(&self, name: &str, labels: &[(&str, &str)]) -> Result<()> {
        let labels = pairs(labels.iter().copied());
        let yaml =
            format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n");
        self.write(&format!("namespace-{name}"), &yaml)
    }

    /// Writes the policy [`Policy::yaml`].
    pub fn policy(&self, policy: &Policy) -> Result<()> {
        self.write("policy", &policy.yaml()?)
    }

    /// Writes a `ServiceEntry` of static addresses.
    pub fn register(&self, name: &str, addresses: &[&str], ports: &[(u16, &str)]) -> Result<()> {
        self.write(
            &format!("serviceentry-{name}"),
            &service_entry(name, addresses, ports)?,
        )
    }

    /// Writes a Service with these addresses and one TCP port.
    pub fn service(&self, name: &str, addresses: &[&str], port: u16) -> Result<()> {
        let list = addresses
            .iter()
            .map(|address| format!("\"{address}\""))
            .collect::<Vec<_>>()
            .join(", ");
        let first = addresses.first().context("a Service needs an address")?;
        self.write(
            &format!("service-{name}"),
            &format!(
                r#"apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: app}}
spec:
  clusterIP: "{first}"
  clusterIPs: [{list}]
  ports: [{{name: tcp, protocol: TCP, port: {port}}}]
"#
            ),
        )
    }
}

fn node() -> String {
    format!(
        r#"apiVersion: v1
kind: Node
metadata: {{name: {NODE}}}
spec:
  podCIDRs: ["{}", "{}"]
status:
  addresses:
  - {{type: InternalIP, address: "{}"}}
  - {{type: InternalIP, address: "{}"}}
"#,
        addresses::PODS_V4,
        addresses::PODS_V6,
        addresses::NODE_V4,
        addresses::NODE_V6,
    )
}

/// What a pod's manifest says beyond what all of them say.
#[derive(Clone, Debug, Default)]
pub struct Details {
    /// Labels.
    pub labels: Vec<(&'static str, &'static str)>,
    /// Annotations.
    pub annotations: Vec<(&'static str, String)>,
    /// It has a container `istio-proxy`.
    pub sidecar: bool,
}

fn pod_manifest(pod: &Pod, details: &Details) -> Result<String> {
    let mut labels = vec![("app", pod.name())];
    labels.extend(&details.labels);
    let place = if pod.is_host() {
        ("sluice.dev/cgroup", pod.cgroup().path())
    } else {
        ("sluice.dev/netns", pod.netns().path())
    };
    let place = (place.0, place.1.display().to_string());
    let annotations = std::iter::once(&place).chain(&details.annotations);
    let mut yaml = String::new();
    writeln!(
        yaml,
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}",
        pod.name(),
        pod.namespace()
    )?;
    writeln!(yaml, "  uid: {}-{}", pod.namespace(), pod.name())?;
    writeln!(yaml, "  labels: {{{}}}", pairs(labels))?;
    let annotations = pairs(annotations.map(|(key, value)| (*key, value.as_str())));
    writeln!(yaml, "  annotations: {{{annotations}}}")?;
    writeln!(
        yaml,
        "spec:\n  nodeName: {NODE}\n  hostNetwork: {}",
        pod.is_host()
    )?;
    writeln!(yaml, "  containers:\n  - {{name: main, image: none}}")?;
    if details.sidecar {
        writeln!(
            yaml,
            "  - {{name: istio-proxy, image: none, args: [proxy, sidecar]}}"
        )?;
    }
    writeln!(yaml, "status:\n  phase: Running\n  podIP: \"{}\"", pod.v4())?;
    writeln!(
        yaml,
        "  podIPs: [{{ip: \"{}\"}}, {{ip: \"{}\"}}]",
        pod.v4(),
        pod.v6()
    )?;
    Ok(yaml)
}

/// Keys and values of a mapping in one line.
fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let quoted = pairs
        .into_iter()
        .map(|(key, value)| format!("{key}: \"{value}\""));
    quoted.collect::<Vec<_>>().join(", ")
}

fn service_entry(name: &str, addresses: &[&str], ports: &[(u16, &str)]) -> Result<String> {
    let mut yaml = String::new();
    writeln!(yaml, "apiVersion: networking.istio.io/v1\nkind: ServiceEntry")?;
    writeln!(yaml, "metadata: {{name: {name}, namespace: egress}}")?;
    writeln!(
        yaml,
        "spec:\n  hosts: [{name}.example.com]\n  location: MESH_EXTERNAL\n  resolution: STATIC\n  ports:"
    )?;
    for (port, protocol) in ports {
        writeln!(
            yaml,
            "  - {{number: {port}, name: port-{port}, protocol: {protocol}}}"
        )?;
    }
    writeln!(yaml, "  endpoints:")?;
    for address in addresses {
        writeln!(yaml, "  - {{address: \"{address}\"}}")?;
    }
    Ok(yaml)
}

/// The one `EgressPolicy` of most tests. The gateway is `egress/gateway`.
#[derive(Clone, Debug)]
pub struct Policy {
    /// `Enforce` or `Audit`.
    pub mode: &'static str,
    /// `Reject` or `Drop`.
    pub on_deny: &'static str,
    /// `Registry` or `Any`.
    pub destinations: &'static str,
    /// Pods in the node's network namespace, too.
    pub host_network: bool,
    /// Exceptions: prefix, protocol and port.
    pub exceptions: Vec<(String, &'static str, u16)>,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            mode: "Enforce",
            on_deny: "Drop",
            destinations: "Registry",
            host_network: false,
            exceptions: Vec::new(),
        }
    }
}

impl Policy {
    /// As a manifest.
    pub fn yaml(&self) -> Result<String> {
        let Self {
            mode,
            on_deny,
            destinations,
            host_network,
            exceptions,
        } = self;
        let mut yaml = format!(
            "apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {{name: one-way-out}}
spec:
  mode: {mode}
  onDeny: {on_deny}
  gatewayDestinations: {destinations}
"
        );
        if *host_network {
            yaml.push_str("  subjects: {hostNetwork: true}\n");
        }
        yaml.push_str("  gateways:\n  - {namespace: egress, podSelector: {matchLabels: {app: gateway}}}\n");
        if !exceptions.is_empty() {
            yaml.push_str("  exceptions:\n");
        }
        for (place, (prefix, protocol, port)) in exceptions.iter().enumerate() {
            writeln!(
                yaml,
                "  - name: exception-{place}\n    podSelector: {{}}\n    to: [{{cidr: \"{prefix}\"}}]"
            )?;
            writeln!(yaml, "    ports: [{{protocol: {protocol}, port: {port}}}]")?;
        }
        Ok(yaml)
    }
}
