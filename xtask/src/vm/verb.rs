//! `cargo xtask vm`: run a command on real kernels.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use super::{Job, Kernel, kernels, run};

/// Run a command in a virtual machine, on one kernel or on all that sluice is tested on.
///
/// The machine boots in a few seconds from memory, as root, without disk and without network, and is gone afterwards:
/// a good place for everything that could cut your own machine off. It has busybox, the programs and tools that you
/// name with their libraries, cgroup2 at /sys/fs/cgroup, bpffs at /sys/fs/bpf, and all of the kernel's networking
/// modules. What the command leaves in /out is brought back.
///
/// Kernels are Debian's, downloaded once without installing them. KVM is used where it works, emulation otherwise.
#[derive(Args)]
#[command(after_long_help = "\
Examples:
  cargo xtask vm -- uname -a
  cargo xtask vm --kernel all --tool ip -- sh -c 'ip link add a type veth peer name b && ip link'
  cargo xtask vm --tool nft --copy rules.nft:/rules.nft -- nft -f /rules.nft
  cargo xtask vm --kernel 6.1 --program target/debug/sluice -- sluice check
  cargo xtask vm -- sh -c 'cat /proc/modules > /out/modules'

Exit code: that of the command (of the first kernel on which it was not 0); 1 too if a kernel panicked, if there was no
verdict in time, or if the machine could not be made.")]
pub(crate) struct Vm {
    /// Which kernel: 6.1 (the oldest supported), 6.12, latest (the newest that Debian has), or all.
    #[arg(long, default_value = "latest", value_parser = ["6.1", "6.12", "latest", "all"])]
    kernel: String,

    /// An executable of this machine, copied to /usr/local/bin with the shared libraries it needs.
    #[arg(long, value_name = "PATH")]
    program: Vec<PathBuf>,

    /// A tool by name (ip, tc, nft, iptables, curl, nsenter …); if it is missing here, its Debian package is
    /// installed.
    #[arg(long, value_name = "NAME")]
    tool: Vec<String>,

    /// A file or folder to copy, and where to; without a colon, to the same path.
    #[arg(long, value_name = "HERE[:THERE]")]
    copy: Vec<String>,

    /// A variable of the command's environment.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,

    /// Seconds until a machine without a verdict counts as hanging.
    #[arg(long, default_value_t = 300)]
    timeout: u64,

    /// Memory in MiB, beside what the copied files take.
    #[arg(long, default_value_t = 1024)]
    memory: u64,

    /// Ask Debian again which kernels there are, instead of using those of the last time.
    #[arg(long)]
    refresh: bool,

    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Vm {
    /// Runs the command on the kernels chosen, and returns its exit code.
    pub(crate) fn run(self) -> Result<ExitCode> {
        if self.refresh {
            kernels::refresh()?;
        }
        let kernels = if self.kernel == "all" {
            kernels::all()?
        } else {
            vec![kernels::find(&self.kernel)?]
        };
        let mut exit_code = 0;
        let mut failed = Vec::new();
        for kernel in &kernels {
            match self.on(kernel) {
                Ok(code) => exit_code = if exit_code == 0 { code } else { exit_code },
                // The other kernels are still worth knowing about.
                Err(error) => failed.push(format!("{error:#}")),
            }
        }
        if failed.is_empty() {
            Ok(ExitCode::from(u8::try_from(exit_code).unwrap_or(1)))
        } else {
            bail!("{}", failed.join("\n"))
        }
    }

    fn on(&self, kernel: &Kernel) -> Result<i32> {
        let tools: Vec<_> = self.tool.iter().map(String::as_str).collect();
        let command: Vec<_> = self.command.iter().map(String::as_str).collect();
        let files: Vec<_> = self.copy.iter().map(|pair| here_and_there(pair)).collect();
        let env = self.env.iter().map(|pair| {
            pair.split_once('=')
                .with_context(|| format!("--env {pair}: expected NAME=VALUE"))
        });
        let env = env.collect::<Result<Vec<_>>>()?;
        let prefix = format!("{} | ", kernel.label);
        let outcome = run(&Job {
            name: "vm",
            kernel,
            programs: &self.program,
            tools: &tools,
            files: &files,
            command: &command,
            env: &env,
            timeout: Duration::from_secs(self.timeout),
            memory_mib: self.memory,
            prefix: Some(&prefix),
        })?;
        eprintln!(
            "    {}: exit code {} after {:.1} s, of which {:.1} s to boot; files in {}, console in {}",
            kernel.release,
            outcome.exit_code,
            outcome.duration.as_secs_f64(),
            outcome.boot.as_secs_f64(),
            outcome.out_dir.display(),
            outcome.console.display(),
        );
        Ok(outcome.exit_code)
    }
}

fn here_and_there(pair: &str) -> (PathBuf, PathBuf) {
    match pair.split_once(':') {
        Some((here, there)) => (here.into(), there.into()),
        None => (
            pair.into(),
            std::path::absolute(pair).unwrap_or_else(|_| pair.into()),
        ),
    }
}
