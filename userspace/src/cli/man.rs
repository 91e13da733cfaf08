//! `sluice man`

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

/// Write the manual pages, one for each verb.
///
/// Example:
///
///     sluice man /usr/local/share/man/man1
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Man {
    /// The directory; made if it is not there.
    #[arg(value_name = "DIR")]
    directory: PathBuf,
}

impl Man {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let path = self.directory.display();
        fs::create_dir_all(&self.directory).with_context(|| format!("cannot make {path}"))?;
        clap_mangen::generate_to(super::command(), &self.directory)
            .with_context(|| format!("cannot write the manual pages to {path}"))?;
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli;

    #[test]
    fn every_verb_has_a_page() {
        let folder = tempfile::TempDir::new().expect("a directory");
        let directory = folder.path().join("man1");
        let verb = Man {
            directory: directory.clone(),
        };
        verb.run().expect("pages");
        for verb in cli::command()
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set())
        {
            let page = directory.join(format!("sluice-{}.1", verb.get_name()));
            let text = fs::read_to_string(&page).expect("a page");
            assert!(text.contains(".SH NAME"), "{}", page.display());
        }
    }
}
