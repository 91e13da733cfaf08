//! `sluice detach`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use super::{Common, Format, output};
use crate::{
    agent::lock,
    dataplane,
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
}

impl Detach {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let _lock = lock::acquire(&common.run_dir, "detach")?;
        let options = dataplane::Options {
            bpffs: self.bpffs.clone(),
            cgroup_root: None,
        };
        // Pods first: what is in them is found by its pins as well.
        let Undone { names, errors } = inpod::undo_all(&inpod::records(&common.run_dir));
        let mut removed: Vec<String> = names.iter().map(|name| format!("capture from {name}")).collect();
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
        Ok(ExitCode::SUCCESS)
    }
}
