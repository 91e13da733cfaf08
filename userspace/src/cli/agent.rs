//! `sluice agent`

use std::process::ExitCode;

use clap::Args;
use tracing::warn;
use tracing_subscriber::EnvFilter;

use super::Common;
use crate::{
    agent::{self, Settings},
    node, privileges,
};

/// Run on a node: watch the state, keep the kernel's rules, answer questions.
///
/// The network namespace that the agent runs in *is* the node. When it ends, the rules stay in the
/// kernel and go on being enforced; only `sluice detach` removes them.
///
/// Example, from a directory of manifests:
///
///     sluice agent --state /etc/sluice --node worker-1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Agent {
    #[command(flatten)]
    settings: Settings,
    /// What to log, as `info` or `sluice=debug`.
    #[arg(long, env = "SLUICE_LOG", default_value = "info", value_name = "FILTER")]
    log: String,
    /// Log one JSON object per line.
    #[arg(long, env = "SLUICE_LOG_JSON")]
    log_json: bool,
}

impl Agent {
    pub(super) fn run(self, common: Common) -> anyhow::Result<ExitCode> {
        let filter =
            EnvFilter::try_new(&self.log).map_err(|error| anyhow::anyhow!("--log {}: {error}", self.log))?;
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr);
        if self.log_json {
            log.json().init();
        } else {
            log.init();
        }
        // Before there are other threads.
        if let Err(error) = node::enter_cgroup_namespace(&self.settings.proc_root) {
            warn!(
                "cannot enter the cgroup namespace of process 1 in {} ({error}): pods may not be found",
                self.settings.proc_root.display()
            );
        }
        privileges::give_up()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        runtime.block_on(agent::run(self.settings, common.run_dir))?;
        Ok(ExitCode::SUCCESS)
    }
}
