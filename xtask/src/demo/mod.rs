//! `cargo xtask demo`: see it with your own eyes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use serde::Deserialize;

use crate::{build_ebpf, certificates, envoy, packages, shell, vm};

/// What the demonstration calls.
const TOOLS: [(&str, &str); 4] = [
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("dnsmasq", "dnsmasq-base"),
    ("haproxy", "haproxy"),
];
const EXAMPLES: &str = "deploy/examples";
/// Most of it for machines that are emulated.
const VM_TIMEOUT: Duration = Duration::from_mins(12);
const VM_MEMORY_MIB: u64 = 1536;

/// Watch a pod fail to reach the outside except through the egress gateway.
///
/// A whole cluster of one node is made of network namespaces on this machine: two client pods, an egress gateway (a
/// real Envoy that originates TLS), a resolver, and an "internet" with HTTP and HTTPS servers, IPv4 and IPv6. The agent
/// reads the manifests of deploy/examples/egress-gateway. On a second node pods are captured: by an Envoy and by another proxy
/// on the node, by an Envoy inside the pod, by a sidecar (deploy/examples/sidecar-excluded-range). Nothing of the machine
/// itself is touched, and everything is gone afterwards. Without root the same happens in a virtual machine.
///
/// Each line of the table shows what a pod tried, the verdicts that its packets got on their way, and what came of it.
/// The exit code is 0 if every line is as expected.
#[derive(Args)]
pub(crate) struct Demo {
    /// Leave everything standing afterwards, and say how to look around.
    #[arg(long, conflicts_with = "vm")]
    keep: bool,
    /// In a virtual machine, even as root.
    #[arg(long)]
    vm: bool,
    /// In a virtual machine with this kernel: 6.1, 6.12 or latest.
    #[arg(long, value_name = "KERNEL", conflicts_with = "keep")]
    kernel: Option<String>,
    /// Only take down what an earlier run has left standing.
    #[arg(long, conflicts_with_all = ["keep", "vm", "kernel"])]
    clean: bool,
}

/// The note that the demonstration leaves while it stands.
#[derive(Deserialize)]
struct Record {
    pid: u32,
    as_expected: Option<bool>,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let Self {
            keep,
            vm,
            kernel,
            clean,
        } = self;
        if clean {
            return clean_up();
        }
        let in_vm = vm || kernel.is_some() || !shell::is_root();
        if keep && in_vm {
            bail!("--keep leaves network namespaces on this machine, which takes root");
        }
        let started = Instant::now();
        packages::ensure(
            &TOOLS,
            "the demonstration is made of network namespaces, nftables rules, a real DNS server and real proxies",
        )?;
        let certificates = certificates::ensure()?;
        let envoy = envoy::ensure()?;
        build_ebpf::build()?;
        shell::step("building the agent and the demonstration");
        shell::cargo()
            // A fixed place, whatever the environment says.
            .env("CARGO_TARGET_DIR", shell::target(""))
            .args([
                "build",
                "--package",
                "sluice",
                "--package",
                "sluice-tests",
                "--bin",
                "sluice",
                "--bin",
                "sluice-demo",
            ])
            .run()?;
        eprintln!("    prepared in {} s", started.elapsed().as_secs());
        if in_vm {
            return in_machine(kernel.as_deref().unwrap_or("latest"), &envoy, &certificates);
        }
        on_this_machine(&envoy, &certificates, keep)
    }
}

fn on_this_machine(envoy: &Path, certificates: &Path, keep: bool) -> Result<ExitCode> {
    shell::step("the demonstration, in network namespaces of this machine");
    let started = Instant::now();
    let record = record();
    shell::create_parent(&record)?;
    let mut command = Command::new(demonstration());
    command.args([envoy, certificates, &shell::root().join(EXAMPLES), &record]);
    command
        .args(keep.then_some("--keep"))
        .env("SLUICE_BIN", shell::target("debug/sluice"))
        .stdin(Stdio::null());
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", demonstration().display()))?;
    let as_expected = wait(&mut child, &record)?;
    eprintln!("    shown in {} s", started.elapsed().as_secs());
    Ok(if as_expected {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Waits until it has ended, or says that it stays.
fn wait(child: &mut Child, record: &Path) -> Result<bool> {
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for the demonstration")? {
            return Ok(status.success());
        }
        // Written in one piece; until then there is the note of one that has not come so far.
        if let Ok(text) = fs::read_to_string(record)
            && let Ok(Record {
                pid,
                as_expected: Some(as_expected),
            }) = serde_json::from_str(&text)
            && pid == child.id()
        {
            return Ok(as_expected);
        }
        thread::sleep(Duration::from_millis(50));
    }
}

fn in_machine(kernel: &str, envoy: &Path, certificates: &Path) -> Result<ExitCode> {
    let kernel = vm::kernels::find(kernel)?;
    let programs = [demonstration(), shell::target("debug/sluice"), envoy.to_owned()];
    let files = [
        (certificates.to_owned(), PathBuf::from("/demo/certificates")),
        (shell::root().join(EXAMPLES), PathBuf::from("/demo/examples")),
    ];
    let outcome = vm::run(&vm::Job {
        name: "demo",
        kernel: &kernel,
        programs: &programs,
        tools: &TOOLS.map(|(tool, _)| tool),
        files: &files,
        command: &[
            "sluice-demo",
            "/usr/local/bin/envoy",
            "/demo/certificates",
            "/demo/examples",
            "/tmp/standing.json",
        ],
        env: &[("SLUICE_BIN", "/usr/local/bin/sluice")],
        timeout: VM_TIMEOUT,
        memory_mib: VM_MEMORY_MIB,
        prefix: Some(""),
    })?;
    eprintln!(
        "    shown in {} s, of which {} s to boot",
        outcome.duration.as_secs(),
        outcome.boot.as_secs()
    );
    Ok(if outcome.exit_code == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn clean_up() -> Result<ExitCode> {
    let record = record();
    if !record.exists() {
        eprintln!("nothing stands here");
        return Ok(ExitCode::SUCCESS);
    }
    let program = demonstration();
    let status = Command::new(&program)
        .arg("--clean")
        .arg(&record)
        .status()
        .with_context(|| format!("cannot start {}", program.display()))?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn demonstration() -> PathBuf {
    shell::target("debug/sluice-demo")
}

fn record() -> PathBuf {
    shell::target("demo/standing.json")
}
