//! `sluice check`

use std::process::ExitCode;

use clap::Args;

use super::{
    Common, FAILED, Format,
    output::{self, Table},
};
use crate::check::{self, State};

/// Say what this kernel and this node offer, and what sluice would do about it.
///
/// Needs no running agent. Exit code 1 if something that sluice cannot do without is missing.
#[derive(Debug, Args)]
pub(super) struct Check {}

impl Check {
    pub(super) fn run(&self, common: &Common) -> anyhow::Result<ExitCode> {
        let Self {} = self;
        let findings = check::run();
        match common.output {
            Format::Json => output::json(&findings)?,
            Format::Table => {
                let mut table = Table::new(["", "WHAT", "FOUND", "MEANS"]);
                for finding in &findings {
                    table.row([
                        finding.state.to_string(),
                        finding.what.to_owned(),
                        finding.found.clone(),
                        finding.means.to_owned(),
                    ]);
                }
                table.print()?;
            }
        }
        let missing = findings.iter().any(|finding| finding.state == State::Missing);
        Ok(if missing {
            ExitCode::from(FAILED)
        } else {
            ExitCode::SUCCESS
        })
    }
}
