//! What an installation brings to a cluster: the kind, and what the agent may do.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{ApiServer, apiserver::User, rendered::deploy};

/// The kind and the rights of every installation.
pub const BASE: [&str; 2] = ["base/crds.yaml", "base/rbac.yaml"];
/// What capture for Istio's ambient mode needs beyond that.
pub const AMBIENT: &str = "overlays/ambient/rbac.yaml";
/// What it takes to remove the taint.
pub const TAINT: &str = "components/taint/rbac.yaml";

/// The namespace that kustomize puts things into.
const NAMESPACE: &str = "sluice-system";

/// Whom agents are.
pub fn account() -> User {
    User::ServiceAccount(NAMESPACE.to_owned(), "sluice".to_owned())
}

/// Applies files of `deploy`, as kustomize would.
pub fn install(server: &ApiServer, files: &[&str]) -> Result<()> {
    for file in files {
        let path = deploy().join(file);
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        for mut object in serde_saphyr::from_multiple::<Value>(&text)? {
            if matches!(
                object["kind"].as_str(),
                Some("Role" | "RoleBinding" | "ServiceAccount")
            ) {
                object["metadata"]["namespace"] = NAMESPACE.into();
            }
            server.apply_object(&object)?;
        }
    }
    Ok(())
}
