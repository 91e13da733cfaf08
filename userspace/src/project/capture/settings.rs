//! What an operator says of capture.

use std::{fs, path::PathBuf};

use clap::Args;

use crate::objects::{Enablement, EnablementError, words::AMBIENT_LABEL};

/// Where ztunnel looks for whom it gets its pods from.
const ZDS_SOCKET: &str = "/var/run/ztunnel/ztunnel.sock";
const EXCLUDED_NAMESPACE: &str = "kube-system";
const ISTIO_NAMESPACE: &str = "istio-system";

/// Which connections go to the node proxy. Without any of --ambient, --sidecar and --node-proxy, those of namespaces that
/// `sluice enroll` names.
#[expect(clippy::doc_markdown, reason = "clap shows these texts as they are")]
#[derive(Clone, Debug, PartialEq, Eq, Args)]
#[command(next_help_heading = "Capture")]
#[group(id = "capture")]
pub struct Settings {
    /// Capture the pods that Istio's ambient mode would, with the same labels (istio.io/dataplane-mode=ambient), and hand
    /// them to ztunnel: in place of istio-cni, which must not run here.
    #[arg(long, env = "SLUICE_AMBIENT")]
    pub ambient: bool,
    /// Capture pods that have a sidecar, in place of istio-init and istio-cni: annotations as there.
    #[arg(long, env = "SLUICE_SIDECAR")]
    pub sidecar: bool,
    /// Hand the calls of pods to a proxy that listens on this port in the node's network namespace (a transparent listener).
    /// Whose: pods and namespaces labelled sluice.dev/capture=node, but for pods labelled none.
    #[arg(long, env = "SLUICE_NODE_PROXY", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub node_proxy: Option<u16>,
    /// The port of the node proxy's resolver; without it their DNS is left alone.
    #[arg(long, env = "SLUICE_NODE_PROXY_DNS", value_name = "PORT", requires = "node_proxy", value_parser = clap::value_parser!(u16).range(1..))]
    pub node_proxy_dns: Option<u16>,
    /// The cgroup (v2) of the node proxy. What runs in it is held to the policies as a subject is: it sends in the name of
    /// pods, and may not more than they.
    #[arg(
        long,
        env = "SLUICE_NODE_PROXY_CGROUP",
        value_name = "DIR",
        requires = "node_proxy"
    )]
    pub node_proxy_cgroup: Option<PathBuf>,
    /// A cgroup (v2) of the proxy in pods' network namespaces, as ztunnel's; it is needed where ztunnel is not told over
    /// ZDS; several with commas between.
    #[arg(
        long = "proxy-cgroup",
        env = "SLUICE_PROXY_CGROUP",
        value_delimiter = ',',
        value_name = "DIR"
    )]
    pub proxy_cgroups: Vec<PathBuf>,
    /// A namespace whose pods are never captured, whatever their labels say; several with commas between.
    #[arg(long = "capture-exclude-namespace", env = "SLUICE_CAPTURE_EXCLUDE_NAMESPACE", value_delimiter = ',', value_name = "NAME", default_value = EXCLUDED_NAMESPACE)]
    pub excluded_namespaces: Vec<String>,
    /// The namespace of ztunnel, whose own pods (app=ztunnel) are never captured.
    #[arg(long, env = "SLUICE_ISTIO_NAMESPACE", value_name = "NAME", default_value = ISTIO_NAMESPACE)]
    pub istio_namespace: String,
    /// A YAML list of {podSelector, namespaceSelector} that says which pods are ambient, instead of the labels: Istio's
    /// AMBIENT_ENABLEMENT_SELECTOR. One that selects a pod is enough.
    #[arg(long, env = "SLUICE_AMBIENT_SELECTORS", value_name = "FILE", value_parser = read_selectors)]
    pub ambient_selectors: Option<AmbientSelectors>,
    /// Leave DNS alone in ambient mode, but for pods annotated ambient.istio.io/dns-capture: "true" (Istio's
    /// AMBIENT_DNS_CAPTURE=false).
    #[arg(long, env = "SLUICE_NO_DNS_CAPTURE")]
    pub no_dns_capture: bool,
    /// Take processes of this user inside a captured pod for the proxy. Any process that can become this user is then
    /// exempt; the proxy's cgroup is the safe way to tell.
    #[arg(long, env = "SLUICE_PROXY_UID", value_name = "UID")]
    pub proxy_uid: Option<u32>,
    /// The same for a group.
    #[arg(long, env = "SLUICE_PROXY_GID", value_name = "GID")]
    pub proxy_gid: Option<u32>,
    /// The cgroup (v2) of the kubelet. Its calls to captured pods are probes, and not captured. Unless it is given: that of
    /// the process kubelet, kubelite or k3s outside of every container, if it is seen when the agent starts.
    #[arg(long, env = "SLUICE_KUBELET_CGROUP", value_name = "DIR")]
    pub kubelet_cgroup: Option<PathBuf>,
    /// Where to listen for ztunnel.
    #[arg(long, env = "SLUICE_ZDS_SOCKET", value_name = "PATH", default_value = ZDS_SOCKET)]
    pub zds_socket: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ambient: false,
            sidecar: false,
            node_proxy: None,
            node_proxy_dns: None,
            node_proxy_cgroup: None,
            proxy_cgroups: Vec::new(),
            excluded_namespaces: vec![EXCLUDED_NAMESPACE.to_owned()],
            istio_namespace: ISTIO_NAMESPACE.to_owned(),
            ambient_selectors: None,
            no_dns_capture: false,
            proxy_uid: None,
            proxy_gid: None,
            kubelet_cgroup: None,
            zds_socket: PathBuf::from(ZDS_SOCKET),
        }
    }
}

impl Settings {
    /// Which pods are ambient.
    pub(super) fn ambient_selectors(&self) -> Vec<Enablement> {
        match &self.ambient_selectors {
            Some(AmbientSelectors(selectors)) => selectors.clone(),
            None => Enablement::by_label(AMBIENT_LABEL, "ambient"),
        }
    }

    /// Whether labels and annotations can have a pod captured.
    pub const fn is_off(&self) -> bool {
        !self.ambient && !self.sidecar && self.node_proxy.is_none()
    }

    /// The cgroups that it names.
    pub fn cgroups(&self) -> impl Iterator<Item = &PathBuf> {
        self.proxy_cgroups
            .iter()
            .chain(&self.node_proxy_cgroup)
            .chain(&self.kubelet_cgroup)
    }
}

/// Which pods are ambient, as a file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AmbientSelectors(pub Vec<Enablement>);

/// Why that file cannot be read.
#[derive(Debug, thiserror::Error)]
enum SelectorsError {
    #[error("cannot read it: {0}")]
    Read(#[from] std::io::Error),
    #[error(transparent)]
    Form(#[from] EnablementError),
}

fn read_selectors(path: &str) -> Result<AmbientSelectors, SelectorsError> {
    Ok(AmbientSelectors(Enablement::read(&fs::read_to_string(path)?)?))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        settings: Settings,
    }

    #[test]
    fn nothing_said_is_the_default() {
        let line = Line::try_parse_from(["sluice"]).expect("nothing");
        assert_eq!(line.settings, Settings::default());
        assert!(line.settings.is_off());
    }

    #[test]
    fn the_node_proxys_resolver_needs_the_node_proxy() {
        assert!(Line::try_parse_from(["sluice", "--node-proxy-dns", "5353"]).is_err());
        assert!(Line::try_parse_from(["sluice", "--node-proxy", "0"]).is_err());
        let line = Line::try_parse_from(["sluice", "--node-proxy", "9001", "--node-proxy-dns", "5353"]);
        assert_eq!(line.expect("both").settings.node_proxy_dns, Some(5353));
    }

    #[test]
    fn selectors_come_from_a_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("selectors.yaml");
        fs::write(&path, "- podSelector: {matchLabels: {mesh: yes-please}}").expect("written");
        let path = path.to_str().expect("UTF-8");
        let line = Line::try_parse_from(["sluice", "--ambient-selectors", path]).expect("a list");
        assert_eq!(line.settings.ambient_selectors().len(), 1);
        assert!(Line::try_parse_from(["sluice", "--ambient-selectors", "/nowhere"]).is_err());
    }
}
