//! What went wrong, as runtimes read it.

use std::io;

use super::{NAME, VERSIONS};
use crate::api::client;

/// Why a verb of CNI failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A version that is not spoken, or in which there is no such verb.
    #[error("cniVersion {version:?}: {NAME} speaks {} ({verb} is of {since} and later)", VERSIONS.join(", "))]
    Version {
        /// What the configuration says.
        version: String,
        /// What was asked for.
        verb: &'static str,
        /// The first version that has it.
        since: &'static str,
    },
    /// The environment lacks something, or it makes no sense.
    #[error("{0} (this is a CNI plugin: a container runtime runs it, with its arguments in the environment)")]
    Environment(String),
    /// Standard input cannot be read.
    #[error("cannot read the configuration from standard input: {0}")]
    Input(#[source] io::Error),
    /// Standard input is not what was expected.
    #[error("cannot read the configuration on standard input: {0}")]
    Json(#[from] serde_json::Error),
    /// The configuration makes no sense.
    #[error("network {network}: {message}")]
    Config {
        /// The network's name.
        network: String,
        /// What is wrong.
        message: String,
    },
    /// The agent does not admit the pod (yet), or is not there.
    #[error("{what}: {source}")]
    Agent {
        /// What was wanted.
        what: String,
        /// What it said.
        source: client::Error,
    },
    /// `CHECK`: something is missing.
    #[error("{what}: {source}")]
    Check {
        /// What was wanted.
        what: String,
        /// What the agent said.
        source: client::Error,
    },
    /// `STATUS`: no pod could be admitted now.
    #[error("no pod can be admitted now: {0}")]
    Status(#[source] client::Error),
}

impl Error {
    /// The specification's number for it.
    pub const fn code(&self) -> u32 {
        match self {
            Self::Version { .. } => 1,
            Self::Environment(_) => 4,
            Self::Input(_) => 5,
            Self::Json(_) => 6,
            Self::Config { .. } => 7,
            // "Try again later".
            Self::Agent { .. } => 11,
            Self::Status(_) => 50,
            // From 100 on they are the plugin's own.
            Self::Check { .. } => 100,
        }
    }

    /// As the specification has it.
    pub fn json(&self, version: &str) -> String {
        let details = match self {
            Self::Agent { .. } | Self::Check { .. } | Self::Status(_) => {
                "`sluice status` and `sluice list endpoints` on this node tell more"
            }
            Self::Version { .. }
            | Self::Environment(_)
            | Self::Input(_)
            | Self::Json(_)
            | Self::Config { .. } => "",
        };
        serde_json::json!({
            "cniVersion": version,
            "code": self.code(),
            "msg": format!("{NAME}: {self}"),
            "details": details,
        })
        .to_string()
    }
}
