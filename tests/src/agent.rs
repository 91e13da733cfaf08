//! The real agent, as a process in the node's network namespace.

use std::{
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{self, Signal},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::{Bench, PATIENCE, Pod, bench::UPLINK, cgroup, events::Events, manifest::NODE, netns::Netns};

/// Path of the agent to test.
const BINARY: &str = "SLUICE_BIN";
/// Makes namespaces' own views of processes and of cgroups where they are looked for, then runs the rest.
const OWN_VIEWS: &str =
    "mount -t proc proc /proc && umount -l \"$0\" && mount -t cgroup2 none \"$0\" && exec \"$@\"";
/// Lines of the agent's log that a failed test shows.
const LOG_LINES: usize = 60;

/// An agent with directories of its own; what it has attached is gone when it is dropped.
#[derive(Debug)]
pub struct Agent {
    binary: PathBuf,
    netns: Arc<Netns>,
    /// Where the agent learns of the cluster: `--state DIR` or `--kubeconfig FILE`.
    source: [OsString; 2],
    cgroup: Option<PathBuf>,
    /// What is done in a shell before the agent is started in its place.
    before: String,
    arguments: Vec<String>,
    is_nested: bool,
    shows_log: bool,
    directory: TempDir,
    child: Option<Child>,
}

impl Agent {
    /// Starts one on the bench's node and waits until it is ready.
    pub fn start(bench: &Bench) -> Result<Self> {
        let mut agent = Self::prepare(bench)?;
        agent.restart()?;
        Ok(agent)
    }

    /// Everything but the process.
    pub fn prepare(bench: &Bench) -> Result<Self> {
        let directory = TempDir::with_prefix("sluice-agent-").context("making a directory for the agent")?;
        let agent = Self {
            binary: binary()?,
            netns: Arc::clone(bench.node()),
            source: ["--state".into(), bench.state().path().into()],
            cgroup: Some(bench.cgroup().path().to_owned()),
            before: String::new(),
            arguments: Vec::new(),
            is_nested: false,
            shows_log: true,
            directory,
            child: None,
        };
        let bpffs = agent.bpffs();
        fs::create_dir(&bpffs).with_context(|| format!("making {}", bpffs.display()))?;
        let none: Option<&str> = None;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), none)
            .with_context(|| format!("mounting bpffs at {}", bpffs.display()))?;
        Ok(agent)
    }

    /// With further arguments on its command line.
    #[must_use]
    pub fn with_arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// With an API server instead of the bench's manifests.
    #[must_use]
    pub fn with_kubeconfig(mut self, kubeconfig: &Path) -> Self {
        self.source = ["--kubeconfig".into(), kubeconfig.into()];
        self
    }

    /// On a node that is a container: in a cgroup namespace and a PID namespace of its own.
    pub fn nested(mut self, bench: &Bench) -> Result<Self> {
        self.is_nested = true;
        self.cgroup = Some(bench.cgroup().path_in_namespace()?);
        Ok(self)
    }

    /// Without the end of its log on standard error when it is dropped.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.shows_log = false;
        self
    }

    /// From its next start on: without hooks on cgroups.
    pub fn without_cgroups(&mut self) {
        self.cgroup = None;
    }

    /// From its next start on: by a shell that does this before, as for `ulimit`.
    pub fn started_after(&mut self, commands: &str) {
        commands.clone_into(&mut self.before);
    }

    /// Path of the agent's binary.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Where it pins.
    pub fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpf")
    }

    /// Where it answers.
    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// Where it logs to.
    pub fn log(&self) -> PathBuf {
        self.directory.path().join("log")
    }

    /// Starts the process, unless it runs, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.settle().map(drop)
    }

    /// Starts the process, unless it runs.
    pub fn spawn(&mut self) -> Result<()> {
        if self.child.is_none() {
            let log = File::options()
                .create(true)
                .append(true)
                .open(self.log())
                .context("opening the agent's log")?;
            let mut command = self.agent_command(&self.run_dir());
            if self.is_nested {
                command = nest(&command)?;
            }
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
            let child = self.netns.run(|| command.spawn())?;
            self.child = Some(child.with_context(|| format!("running {}", self.binary.display()))?);
        }
        Ok(())
    }

    fn agent_command(&self, run_dir: &Path) -> Command {
        let mut command = Command::new("/bin/sh");
        let script = format!("{}\nexec \"$0\" \"$@\"", self.before);
        command.arg("-c").arg(script).arg(&self.binary);
        command.arg("agent").arg("--node").arg(NODE).args(&self.source);
        command
            .arg("--run-dir")
            .arg(run_dir)
            .arg("--bpffs")
            .arg(self.bpffs());
        if let Some(cgroup) = &self.cgroup {
            command.arg("--cgroup-root").arg(cgroup);
        }
        // The bench's uplink is a veth, which looks like a pod's device.
        command.args(["--uplink", UPLINK, "--log", "info,sluice=debug"]);
        command.args(&self.arguments);
        command
    }

    /// Runs a second agent on the same node to its end.
    pub fn run_second(&self, run_dir: Option<&Path>) -> Result<Output> {
        let own = self.run_dir();
        let mut command = self.agent_command(run_dir.unwrap_or(&own));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = self
            .netns
            .run(|| command.spawn())?
            .context("running a second agent")?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                child.wait()?;
                bail!("a second agent on the same node did not refuse to run");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(child.wait_with_output()?)
    }

    /// Waits until the kernel holds what the manifests say now. Returns the status.
    pub fn settle(&mut self) -> Result<serde_json::Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let output = self.command(&["status", "--wait", "10s", "-o", "json"])?;
            if output.status.success() {
                return serde_json::from_slice(&output.stdout)
                    .context("`sluice status -o json` printed no JSON");
            }
            if let Some(child) = &mut self.child {
                ensure!(
                    child.try_wait()?.is_none(),
                    "the agent has ended:\n{}",
                    self.log_tail()
                );
            }
            if Instant::now() > deadline {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                bail!("the agent is not ready: {said}{error}\n{}", self.log_tail());
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// The status as it is.
    pub fn status(&self) -> Result<serde_json::Value> {
        let output = self.command(&["status", "-o", "json"])?;
        serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`sluice status -o json` printed no JSON: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })
    }

    /// The process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Kills the process: SIGKILL, no time for anything.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().context("killing the agent")?;
            child.wait().context("waiting for the agent")?;
        }
        Ok(())
    }

    /// Ends the process as a container runtime does: SIGTERM, and it may take its time.
    pub fn terminate(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(child.id().try_into()?);
            signal::kill(pid, Signal::SIGTERM).context("terminating the agent")?;
            let status = child.wait().context("waiting for the agent")?;
            ensure!(
                status.success(),
                "the agent ended with {status}:\n{}",
                self.log_tail()
            );
        }
        Ok(())
    }

    /// Runs `sluice` with the agent's directories.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = self.client(arguments);
        self.netns
            .run(|| command.output())?
            .with_context(|| format!("running {} {}", self.binary.display(), arguments.join(" ")))
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(arguments)
            .arg("--run-dir")
            .arg(self.run_dir())
            .stdin(Stdio::null());
        command
    }

    /// `sluice enroll`, with what it answers.
    pub fn enroll(&self, netns: &Path, more: &[&str]) -> Result<serde_json::Value> {
        self.capturing("enroll", netns, more)
    }

    /// `sluice unenroll`, with what it answers.
    pub fn unenroll(&self, netns: &Path) -> Result<serde_json::Value> {
        self.capturing("unenroll", netns, &[])
    }

    fn capturing(&self, verb: &str, netns: &Path, more: &[&str]) -> Result<serde_json::Value> {
        let netns = netns.display().to_string();
        let output = self.command(&[&[verb, "--netns", &netns, "-o", "json"], more].concat())?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "`sluice {verb}` failed: {error}");
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("`sluice {verb} -o json` printed no JSON: {error}"))
    }

    /// `sluice list endpoints`, the entry of this pod.
    pub fn endpoint(&self, pod: &Pod) -> Result<serde_json::Value> {
        let output = self.command(&["list", "endpoints", "-o", "json"])?;
        let listed: serde_json::Value = serde_json::from_slice(&output.stdout)
            .context("`sluice list endpoints -o json` printed no JSON")?;
        let is_it = |entry: &&serde_json::Value| {
            entry["pod"]["namespace"] == pod.namespace() && entry["pod"]["name"] == pod.name()
        };
        let entries = listed.as_array().context("no list of endpoints")?;
        let entry = entries.iter().find(is_it);
        Ok(entry.cloned().unwrap_or_default())
    }

    /// `sluice detach`.
    pub fn detach(&self) -> Result<Output> {
        let bpffs = self.bpffs().display().to_string();
        self.command(&["detach", "--bpffs", &bpffs])
    }

    /// Verdicts from now on: refusals, and with `allowed` those that let something through.
    pub fn observe(&self, allowed: bool) -> Result<Events> {
        let arguments: &[&str] = if allowed {
            &["observe", "--follow", "-o", "json"]
        } else {
            &["observe", "--follow", "-o", "json", "--verdict", "deny"]
        };
        let mut command = self.client(arguments);
        command.stdout(Stdio::piped());
        let child = self
            .netns
            .run(|| command.spawn())?
            .context("running `sluice observe`")?;
        Events::of(child)
    }

    fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.log()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        if self.shows_log {
            // Shown by the test harness if the test has failed.
            eprintln!("the agent's log:\n{}", self.log_tail());
        }
        let killed = self.kill();
        let detached = self.detach();
        if let (Err(error), _) | (_, Err(error)) = (killed, detached) {
            eprintln!("taking the agent down: {error:#}");
        }
        if let Err(error) = umount2(&self.bpffs(), MntFlags::MNT_DETACH) {
            eprintln!("unmounting {}: {error}", self.bpffs().display());
        }
    }
}

/// The same command, as on a node that is a container.
fn nest(command: &Command) -> Result<Command> {
    let mut nested = Command::new("unshare");
    nested.args([
        "--cgroup",
        "--mount",
        "--propagation",
        "slave",
        "--pid",
        "--fork",
        "--kill-child",
    ]);
    nested.args(["sh", "-c", OWN_VIEWS]).arg(cgroup::root()?);
    nested.arg(command.get_program()).args(command.get_args());
    Ok(nested)
}

/// The agent's binary: named by the environment, or what cargo has built beside this test.
fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(BINARY) {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "{BINARY} is {}, which is no file", path.display());
        return Ok(path);
    }
    let test = std::env::current_exe().context("where is this test?")?;
    // target/PROFILE/deps/TEST
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("this test is not in a target folder")?;
    let path = profile.join("sluice");
    ensure!(
        path.is_file(),
        "there is no agent to test at {}: build it (`cargo xtask build-ebpf && cargo build`), or name one with {BINARY}",
        path.display()
    );
    Ok(path)
}
