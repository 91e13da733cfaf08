//! `cargo xtask lint`: everything that can be said about the source without running it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};

use crate::{
    build_ebpf, packages,
    shell::{self, Cmd, target},
    toolchain::{DEBIAN_SYSROOT, Toolchain},
};

const CARGO_DENY_VERSION: &str = "0.20.2";

/// Check formatting, lints on the host and on the BPF target, dependencies and documentation.
///
/// Every check runs, also after one has failed, and each failing one is named at the end. Nothing is changed:
/// `cargo fmt` and `cargo clippy --fix` are there for that.
#[derive(Args)]
pub(crate) struct Lint {
    /// Run only these checks [default: all of them]
    #[arg(value_enum)]
    checks: Vec<Check>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Check {
    /// rustfmt, changing nothing
    Fmt,
    /// clippy on the workspace as the host compiles it, tests included; warnings are errors
    Clippy,
    /// clippy on the eBPF programs as the BPF target compiles them; warnings are errors
    Bpf,
    /// cargo-deny: licences, banned crates, sources
    Deny,
    /// rustdoc on the workspace; warnings are errors
    Docs,
}

impl Lint {
    pub(crate) fn run(self) -> Result<()> {
        let checks = if self.checks.is_empty() {
            Check::value_variants()
        } else {
            &self.checks
        };
        let mut failed = Vec::new();
        for check in checks {
            if let Err(error) = check.run() {
                eprintln!("    {error:#}");
                failed.push(check.name());
            }
        }
        if failed.is_empty() {
            return Ok(());
        }
        bail!(
            "failed: {names}; again with `cargo xtask lint {names}`",
            names = failed.join(" ")
        )
    }
}

impl Check {
    fn run(self) -> Result<()> {
        match self {
            Self::Fmt => fmt(),
            Self::Clippy => clippy_host(),
            Self::Bpf => clippy_bpf(),
            Self::Deny => deny(),
            Self::Docs => docs(),
        }
    }

    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }
}

fn fmt() -> Result<()> {
    ensure_component("cargo-fmt", "rustfmt")?;
    shell::step("rustfmt");
    shell::cargo().args(["fmt", "--all", "--check"]).run()
}

fn clippy_host() -> Result<()> {
    ensure_component("cargo-clippy", "clippy")?;
    shell::step("clippy, host");
    shell::cargo()
        .args(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"])
        .run()
}

fn clippy_bpf() -> Result<()> {
    let toolchain = Toolchain::ensure()?;
    if toolchain.bin() == Path::new(DEBIAN_SYSROOT).join("bin") {
        let clippy = toolchain.bin().join("cargo-clippy");
        packages::ensure(
            &[(&clippy.to_string_lossy(), "rust-web-clippy")],
            "the eBPF programs are linted by the compiler that builds them",
        )?;
    } else {
        ensure_component("cargo-clippy", "clippy")?;
    }
    shell::step(&format!("clippy, {}, with {toolchain}", build_ebpf::TARGET));
    build_ebpf::for_bpf(toolchain.cargo_clippy(), "clippy")
        .args(["--", "-Dwarnings"])
        .run()
}

fn deny() -> Result<()> {
    let program = cargo_deny()?;
    shell::step("cargo-deny: bans, licences, sources");
    Cmd::new(program)
        .without_run_env()
        .args(["--locked", "check", "bans", "licenses", "sources"])
        .run()
}

fn docs() -> Result<()> {
    shell::step("documentation");
    shell::cargo()
        .env("RUSTDOCFLAGS", "-Dwarnings")
        .args(["doc", "--no-deps", "--workspace"])
        .run()
}

/// Returns cargo-deny, built if this is the first time.
fn cargo_deny() -> Result<PathBuf> {
    let home = target("tools/cargo-deny");
    let program = home.join("bin/cargo-deny");
    if Cmd::new(&program)
        .arg("--version")
        .read()
        .is_ok_and(|said| said.contains(CARGO_DENY_VERSION))
    {
        return Ok(program);
    }
    let scratch = target("tools/build-deny");
    shell::cargo()
        .env("CARGO_TARGET_DIR", &scratch)
        .args([
            "install",
            "cargo-deny",
            "--locked",
            "--force",
            "--version",
            CARGO_DENY_VERSION,
        ])
        .args(["--no-default-features", "--root"])
        .arg(&home)
        .run_logged(
            "cargo-deny",
            &format!("building cargo-deny {CARGO_DENY_VERSION} (once, about 2 minutes)"),
        )?;
    fs::remove_dir_all(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    Ok(program)
}

/// A toolchain installed with rustup's minimal profile lacks the linters.
fn ensure_component(program: &str, component: &str) -> Result<()> {
    let sysroot = shell::rustc().args(["--print", "sysroot"]).read()?;
    let beside_compiler = Path::new(sysroot.trim()).join("bin").join(program);
    if beside_compiler.exists() {
        return Ok(());
    }
    bail!("{program} is missing; install it with `rustup component add {component}`")
}
