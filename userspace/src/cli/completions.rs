//! `sluice completions`

use std::{io::Write as _, process::ExitCode};

use anyhow::Context as _;
use clap::Args;
use clap_complete::Shell;

/// Print a script that completes this command line in a shell.
///
/// Example, for the shell that reads it:
///
///     source <(sluice completions bash)
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub(super) struct Completions {
    /// Whose script.
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        std::io::stdout()
            .write_all(&script(self.shell))
            .context("cannot print")?;
        Ok(ExitCode::SUCCESS)
    }
}

/// In memory: the generator panics where it cannot write.
fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::command(), "sluice", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::cli;

    #[test]
    fn every_shell_completes_every_verb() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(script(*shell)).expect("text");
            for verb in cli::command()
                .get_subcommands()
                .filter(|verb| !verb.is_hide_set())
            {
                assert!(script.contains(verb.get_name()), "{shell}: {}", verb.get_name());
            }
        }
    }
}
