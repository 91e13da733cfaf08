//! `sluice`: the command. What each verb does is in `cli/`.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice::cli::run()
}
