//! The configuration that the runtime passes on standard input: the network's, and the plugin's own.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{NAME, VERSIONS, environment::Verb, error::Error, outcome::Outcome};

/// How long `ADD` waits, unless the configuration says otherwise. The kubelet gives a sandbox four minutes.
pub(super) const DEFAULT_WAIT_SECONDS: u64 = 30;

/// The plugin's own part.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Own {
    /// The agent's socket.
    #[serde(default = "default_socket")]
    pub(super) socket: PathBuf,
    /// How long `ADD` waits for a pod to be admitted.
    #[serde(default = "default_wait")]
    pub(super) wait_seconds: u64,
    /// Kubernetes namespaces whose pods are announced, but not waited for. They are under the same rules: what is not
    /// known yet is dropped; but calls that a pod makes before its capture is ready do not go to the proxy.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) no_wait_namespaces: Vec<String>,
}

impl Own {
    /// As an entry of a list of plugins.
    pub(super) fn entry(&self) -> Value {
        let mut entry = serde_json::json!({
            "type": NAME,
            "socket": self.socket,
            "waitSeconds": self.wait_seconds,
        });
        if !self.no_wait_namespaces.is_empty() {
            entry["noWaitNamespaces"] = self.no_wait_namespaces.clone().into();
        }
        entry
    }
}

fn default_socket() -> PathBuf {
    "/run/sluice/agent.sock".into()
}

const fn default_wait() -> u64 {
    DEFAULT_WAIT_SECONDS
}

/// What is on standard input.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Config {
    #[serde(default)]
    pub(super) name: String,
    #[serde(flatten)]
    pub(super) own: Own,
    #[serde(rename = "prevResult")]
    pub(super) outcome: Option<Outcome>,
    #[serde(rename = "cni.dev/valid-attachments")]
    pub(super) valid: Option<Vec<Valid>>,
}

/// What a runtime still knows of.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Valid {
    #[serde(rename = "containerID")]
    pub(super) container_id: String,
    pub(super) ifname: String,
}

fn before_versions() -> String {
    "0.1.0".to_owned()
}

impl Config {
    pub(super) fn read(text: &str, verb: Verb) -> Result<Self, Error> {
        // The version first: another one may have other shapes.
        let version = serde_json::from_str::<Versioned>(text)?.version;
        let place = |version: &str| VERSIONS.iter().position(|known| *known == version);
        if place(&version).is_none_or(|known| Some(known) < place(verb.since())) {
            return Err(Error::Version {
                version,
                verb: verb.word(),
                since: verb.since(),
            });
        }
        let config: Self = serde_json::from_str(text)?;
        if config.name.is_empty() {
            return Err(config.error("it has no name"));
        }
        Ok(config)
    }

    pub(super) fn error(&self, message: impl Into<String>) -> Error {
        Error::Config {
            network: self.name.clone(),
            message: message.into(),
        }
    }
}

#[derive(Deserialize)]
struct Versioned {
    /// A configuration without is of a version before this key.
    #[serde(rename = "cniVersion", default = "before_versions")]
    version: String,
}

/// The version to answer in: the configuration's, or the newest if it says none.
pub(super) fn version(text: &str) -> String {
    let said = serde_json::from_str::<Value>(text).ok();
    let said = said.as_ref().and_then(|config| config["cniVersion"].as_str());
    said.or_else(|| VERSIONS.last().copied())
        .unwrap_or_default()
        .to_owned()
}
