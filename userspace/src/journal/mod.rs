//! Verdicts for a log collector: one JSON object per line, to a file that is rotated, or to standard output.

mod rotated;

use std::{io::Write as _, path::PathBuf, sync::Arc};

use clap::Args;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tracing::warn;

pub use self::rotated::{OpenError, Rotated};
use crate::{agent::verdicts::Verdicts, api::VerdictEvent};

/// Where verdicts are written down.
#[derive(Clone, Debug, Default, Args)]
#[group(id = "journal")]
pub struct Settings {
    /// Write verdicts to this file, one JSON object per line.
    #[arg(long, env = "SLUICE_EVENTS_FILE", value_name = "FILE")]
    pub events_file: Option<PathBuf>,
    /// How large that file becomes before it is put aside, in MiB.
    #[arg(
        long,
        env = "SLUICE_EVENTS_FILE_SIZE",
        default_value_t = 64,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "MIB"
    )]
    pub events_file_size: u64,
    /// How many files that were put aside are kept, as FILE.1, FILE.2, and so on.
    #[arg(
        long,
        env = "SLUICE_EVENTS_FILE_COUNT",
        default_value_t = 3,
        value_name = "NUMBER"
    )]
    pub events_file_count: u32,
    /// Write verdicts to standard output, too; the log goes to standard error.
    #[arg(long, env = "SLUICE_EVENTS_STDOUT")]
    pub events_stdout: bool,
}

/// What is written to.
#[derive(Debug)]
pub struct Journal {
    file: Option<Rotated>,
    stdout: bool,
    /// The last line could not be written: said once, not once a line.
    is_failing: bool,
}

impl Journal {
    /// Opens what the settings name; `None` if they name nothing.
    pub fn open(settings: &Settings) -> Result<Option<Self>, OpenError> {
        let Settings {
            events_file,
            events_file_size,
            events_file_count,
            events_stdout,
        } = settings;
        let file = events_file
            .as_ref()
            .map(|path| Rotated::open(path, events_file_size.saturating_mul(1 << 20), *events_file_count))
            .transpose()?;
        Ok((file.is_some() || *events_stdout).then_some(Self {
            file,
            stdout: *events_stdout,
            is_failing: false,
        }))
    }

    /// Writes what is told from now on, on a thread of its own: a disk may take its time.
    pub fn keep(mut self, verdicts: &Verdicts) {
        let (_, coming) = verdicts.subscribe();
        tokio::task::spawn_blocking(move || self.write_all(coming));
    }

    fn write_all(&mut self, mut coming: Receiver<Arc<VerdictEvent>>) {
        loop {
            match coming.blocking_recv() {
                Ok(verdict) => self.write(&verdict),
                Err(RecvError::Lagged(lost)) => warn!(lost, "verdicts came too fast to be written down"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn write(&mut self, verdict: &VerdictEvent) {
        let Ok(mut line) = serde_json::to_vec(verdict) else {
            return;
        };
        line.push(b'\n');
        let to_file = self.file.as_mut().map_or(Ok(()), |file| file.write(&line));
        let to_stdout = if self.stdout {
            std::io::stdout().lock().write_all(&line)
        } else {
            Ok(())
        };
        match to_file.and(to_stdout) {
            Ok(()) => self.is_failing = false,
            Err(error) if !self.is_failing => {
                warn!(%error, "verdicts cannot be written down (is the disk full?)");
                self.is_failing = true;
            }
            Err(_) => {}
        }
    }
}
