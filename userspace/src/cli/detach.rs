//! `sluice detach`

use std::{path::PathBuf, process::ExitCode, thread};

use anyhow::Context as _;
use clap::Args;

use super::{Common, Format, output};
use crate::{
    agent::lock,
    cni, dataplane,
    inpod::{self, Undone},
};

/// Take everything away that sluice has attached, and all of its rules: nothing is enforced from then on.
///
/// The agent must have ended; what it leaves in the kernel stays until this. To be run in the node's network
/// namespace, as the agent was.
#[derive(Debug, Args)]
pub(super) struct Detach {
    /// Where the agent pinned its programs, maps and links.
    #[arg(
        long,
        env = "SLUICE_BPFFS",
        default_value = "/sys/fs/bpf/sluice",
        value_name = "DIR"
    )]
    bpffs: PathBuf,
    /// Where the agent has chained its CNI plugin: it is taken out there.
    #[arg(
        long,
        env = "SLUICE_CNI_CONF_DIR",
        value_name = "DIR",
        requires = "cni_bin_dir"
    )]
    cni_conf_dir: Option<PathBuf>,
    /// Where the agent has put its CNI plugin.
    #[arg(
        long,
        env = "SLUICE_CNI_BIN_DIR",
        value_name = "DIR",
        requires = "cni_conf_dir"
    )]
    cni_bin_dir: Option<PathBuf>,
    /// When all is gone, do not end: for a DaemonSet, whose pods may not.
    #[arg(long)]
    stay: bool,
}

impl Detach {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let _lock = lock::acquire(&common.run_dir, "detach")?;
        let options = dataplane::Options {
            bpffs: self.bpffs.clone(),
            cgroup_root: None,
        };
        let mut removed = Vec::new();
        // First of all, so that no pod waits for an agent that will not come.
        if let (Some(conf_dir), Some(bin_dir)) = (&self.cni_conf_dir, &self.cni_bin_dir) {
            let gone = cni::uninstall(conf_dir, bin_dir)?;
            removed.extend(
                gone.iter()
                    .map(|path| format!("the CNI plugin from {}", path.display())),
            );
        }
        // Pods first: what is in them is found by its pins as well.
        let Undone { names, errors } = inpod::undo_all(&inpod::records(&common.run_dir));
        removed.extend(names.iter().map(|name| format!("capture from {name}")));
        removed.extend(dataplane::detach(&options)?);
        if let Some(error) = errors.into_iter().next() {
            return Err(error)
                .context("not everything could be taken out of the pods; do this again when it can be");
        }
        lock::release(&common.run_dir)?;
        match common.output {
            Format::Json => output::json(&removed)?,
            Format::Table if removed.is_empty() => println!("nothing was attached"),
            Format::Table => removed.iter().for_each(|line| println!("removed {line}")),
        }
        if self.stay {
            loop {
                thread::park();
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
