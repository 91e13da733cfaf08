//! Commands that the bench is made with: `ip` and `nft`.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// Runs `program` with `input` on its standard input, in the network namespace of this thread.
pub fn run(program: &str, arguments: &[&str], input: &str) -> Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run `{}`: is it installed?", shown()))?;
    let mut stdin = child.stdin.take().context("no standard input")?;
    stdin
        .write_all(input.as_bytes())
        .with_context(|| format!("writing to `{}`", shown()))?;
    drop(stdin);
    let output = child
        .wait_with_output()
        .with_context(|| format!("waiting for `{}`", shown()))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}\nits input was:\n{input}",
            shown(),
            output.status,
            error.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Several `ip` commands in one process.
pub fn ip(batch: &str) -> Result<()> {
    run("ip", &["-batch", "-"], batch).map(drop)
}

/// Rules for `nft -f`.
pub fn nft(rules: &str) -> Result<()> {
    run("nft", &["-f", "-"], rules).map(drop)
}
