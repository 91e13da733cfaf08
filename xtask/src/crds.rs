//! `cargo xtask crds`: from the types of the API to `deploy/base/crds.yaml`.

use std::fs;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::shell;

/// Where the definitions stand, from the top of the repository.
const FILE: &str = "deploy/base/crds.yaml";
const HEADER: &str =
    "# Made by `cargo xtask crds` from userspace/src/objects/egress_policy; a test fails when it is stale.\n";

/// Write the CustomResourceDefinitions to deploy/base/crds.yaml.
#[derive(Args)]
pub(crate) struct Crds {}

impl Crds {
    pub(crate) fn run(self) -> Result<()> {
        let Self {} = self;
        let definitions = shell::cargo()
            .args(["run", "--quiet", "--package", "sluice", "--example", "crds"])
            .in_folder(shell::root())
            .read()?;
        let file = shell::root().join(FILE);
        shell::create_parent(&file)?;
        fs::write(&file, format!("{HEADER}{definitions}\n"))
            .with_context(|| format!("cannot write {}", file.display()))?;
        eprintln!("    {}", file.display());
        Ok(())
    }
}
