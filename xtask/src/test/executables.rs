//! The test programs of the workspace.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::tally::{self, Counts};
use crate::shell;

/// Test programs about the cluster's side of the agent (its API server, its pods' processes, what is installed on a node) and
/// about what it stands on, in which no kernel differs from another. They run on this machine only: emulated, they would take longer than all others.
const CLUSTER: [&str; 9] = [
    "browser",
    "cni",
    "deploy",
    "examples",
    "faults",
    "finding",
    "kubernetes",
    "leak",
    "observability",
];

/// Test programs about what differs between the newer kernels: proving and attaching programs, taking over from another agent,
/// and how kernel and model agree.
const NEWER: [&str; 4] = ["agreement", "dataplane", "neveroff", "verifier"];

/// What a test program touches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Nothing but itself.
    Pure,
    /// Network namespaces and cgroups: needs root.
    Node,
    /// The kernel's programs as well: needs root, and differs between kernels.
    Kernel,
}

/// A test program.
#[derive(Clone, Debug)]
pub(super) struct Executable {
    /// Package and target, for people.
    pub(super) name: String,
    /// Where it is.
    pub(super) path: PathBuf,
    /// The folder that it expects to be run in.
    directory: PathBuf,
    /// What it touches.
    pub(super) scope: Scope,
}

/// The agent that the tests run.
pub(super) fn agent() -> PathBuf {
    shell::target("debug/sluice")
}

/// Builds the agent and all tests.
pub(super) fn build() -> Result<Vec<Executable>> {
    shell::step("building the agent and the tests");
    // The fixed place, so that the tests find the agent whatever CARGO_TARGET_DIR says.
    let target = shell::target("");
    // In one go: by itself the agent would be built of crates with other features, and all of them twice.
    let build = [
        "build",
        "--workspace",
        "--tests",
        "--bin",
        "sluice",
        "--message-format",
        "json-render-diagnostics",
    ];
    let messages = shell::cargo()
        .env("CARGO_TARGET_DIR", &target)
        .args(build)
        .read()?;
    let executables: Vec<Executable> = messages
        .lines()
        .filter_map(|line| read(line).transpose())
        .collect::<Result<_>>()?;
    if executables.is_empty() {
        bail!("cargo built no test program");
    }
    Ok(executables)
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    executable: Option<PathBuf>,
    manifest_path: Option<PathBuf>,
    target: Option<Target>,
    profile: Option<Profile>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    kind: Vec<String>,
}

#[derive(Deserialize)]
struct Profile {
    test: bool,
}

fn read(line: &str) -> Result<Option<Executable>> {
    let message: Message = serde_json::from_str(line).context("cargo's message")?;
    let Message {
        reason,
        executable: Some(path),
        manifest_path: Some(manifest),
        target: Some(target),
        profile: Some(profile),
    } = message
    else {
        return Ok(None);
    };
    if reason != "compiler-artifact" || !profile.test {
        return Ok(None);
    }
    let directory = manifest.parent().map(Path::to_owned).unwrap_or_default();
    let package = directory
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    // Integration tests of the agent and of the bench make namespaces; everything else is pure.
    let integration = target.kind.iter().any(|kind| kind == "test");
    let scope = if !integration || package == "ebpf" || target.name.starts_with("pure") {
        Scope::Pure
    } else if CLUSTER.contains(&target.name.as_str()) {
        Scope::Node
    } else {
        Scope::Kernel
    };
    Ok(Some(Executable {
        name: format!("{package}/{}", target.name),
        path,
        directory,
        scope,
    }))
}

impl Executable {
    /// Whether it runs on each of the kernels, or on the oldest only.
    pub(super) fn differs_between_newer_kernels(&self) -> bool {
        self.name
            .rsplit('/')
            .next()
            .is_some_and(|name| NEWER.contains(&name))
    }

    /// Whether it tries the image of the agent, and has a test that would run.
    pub(super) fn needs_image(&self, filter: Option<&str>) -> Result<bool> {
        if self.name != "tests/deploy" {
            return Ok(false);
        }
        let output = Command::new(&self.path)
            .current_dir(&self.directory)
            .arg("--list")
            .args(filter)
            .output()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let listed = String::from_utf8_lossy(&output.stdout);
        Ok(listed.lines().any(|line| line.ends_with(": test")))
    }

    /// Runs it here, with more in its environment; its output is shown as it comes.
    pub(super) fn run(&self, filter: Option<&str>, env: &[(&str, PathBuf)]) -> Result<Counts> {
        let mut command = Command::new(&self.path);
        command
            .current_dir(&self.directory)
            .env("SLUICE_BIN", agent())
            .envs(env.iter().map(|(name, value)| (name, value)))
            .args(filter)
            .stdin(Stdio::null());
        let output = command
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        match tally::read_all(&text).as_slice() {
            [counts] => Ok(*counts),
            // It crashed before it could say how it ended.
            _ => Ok(Counts {
                failed: 1,
                ..Counts::default()
            }),
        }
    }
}
