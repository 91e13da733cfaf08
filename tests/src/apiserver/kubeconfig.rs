//! What a client reads to find the server.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A kubeconfig and the file of its token, gone when it is dropped.
#[derive(Debug)]
pub struct Kubeconfig {
    directory: TempDir,
}

impl Kubeconfig {
    /// Of a cluster as kubeconfigs describe one, and the namespace to work in unless another is named.
    pub(super) fn write(cluster: &Value, namespace: &str, token: &str) -> Result<Self> {
        let directory = TempDir::with_prefix("sluice-kubeconfig-").context("making a directory")?;
        let config = Self { directory };
        config.write_token(token)?;
        let content = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"tokenFile": config.token_file()}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        });
        let path = config.path();
        fs::write(&path, content.to_string()).with_context(|| format!("writing {}", path.display()))?;
        Ok(config)
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.folder().join("config")
    }

    /// Where its token is.
    pub fn token_file(&self) -> PathBuf {
        self.folder().join("token")
    }

    fn folder(&self) -> &Path {
        self.directory.path()
    }

    /// Puts another token in place of the old one, at once.
    pub(super) fn write_token(&self, token: &str) -> Result<()> {
        let new = self.folder().join("token.new");
        fs::write(&new, token).with_context(|| format!("writing {}", new.display()))?;
        fs::rename(&new, self.token_file()).context("putting a token in place")
    }
}
