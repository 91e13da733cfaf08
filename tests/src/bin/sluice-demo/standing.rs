//! What is left on the machine while the demonstration stands, and how it goes away.
//!
//! The process that built it holds it, and takes it down when it gets SIGTERM. If that process was killed, whoever
//! comes next does it.

use std::{
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::{Pid, dup2_stderr, dup2_stdin, dup2_stdout},
};
use serde::{Deserialize, Serialize};
use sluice_tests::cgroup;

use crate::stage::{GATEWAY_SERVICE, REGISTERED_HOST, Stage};

const PATIENCE: Duration = Duration::from_secs(30);

/// A note for those who come later.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    pid: i32,
    /// Of this process: another one may get its number.
    started: String,
    /// Folders of its own; a file system may be mounted in them.
    #[serde(default)]
    folders: Vec<PathBuf>,
    /// Set when the table is complete and everything stays.
    as_expected: Option<bool>,
}

/// That this process has something standing.
#[derive(Debug)]
pub(crate) struct Standing {
    path: PathBuf,
    record: Record,
    /// Where this process came from.
    cgroup: PathBuf,
}

impl Standing {
    /// From now on.
    pub(crate) fn begin(path: &Path) -> Result<Self> {
        let pid = i32::try_from(process::id()).context("a process number")?;
        let started = start_time(pid).context("this process is not in /proc")?;
        let own = fs::read_to_string("/proc/self/cgroup").context("reading /proc/self/cgroup")?;
        let own = own
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))
            .unwrap_or_default();
        let standing = Self {
            path: path.to_owned(),
            record: Record {
                pid,
                started,
                folders: Vec::new(),
                as_expected: None,
            },
            cgroup: cgroup::root()?.join(own),
        };
        standing.write()?;
        Ok(standing)
    }

    /// With these folders, too.
    pub(crate) fn remember(&mut self, folders: Vec<PathBuf>) -> Result<()> {
        self.record.folders.extend(folders);
        self.write()
    }

    /// It is complete and stays; nobody reads what this process prints any more.
    pub(crate) fn announce(&mut self, as_expected: bool) -> Result<()> {
        let null = fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .context("opening /dev/null")?;
        dup2_stdin(null.as_fd()).context("closing the standard input")?;
        dup2_stdout(null.as_fd()).context("closing the standard output")?;
        dup2_stderr(null.as_fd()).context("closing the standard error")?;
        self.record.as_expected = Some(as_expected);
        self.write()
    }

    /// Everything is gone: so is the note, and the cgroup that held it all.
    pub(crate) fn end(self) -> Result<()> {
        let procs = self.cgroup.join("cgroup.procs");
        fs::write(&procs, process::id().to_string())
            .with_context(|| format!("writing to {}", procs.display()))?;
        let home = home(self.record.pid)?;
        // What a dying thread still holds a later run sweeps.
        let _ = fs::remove_dir(home);
        fs::remove_file(&self.path).with_context(|| format!("removing {}", self.path.display()))
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.record)?;
        // Whole or not at all: somebody may be waiting for it.
        let partial = self.path.with_extension("partial");
        fs::write(&partial, text).with_context(|| format!("writing {}", partial.display()))?;
        fs::rename(&partial, &self.path).with_context(|| format!("writing {}", self.path.display()))
    }
}

/// Takes down what an earlier run has left standing.
pub(crate) fn clear(path: &Path) -> Result<()> {
    let Ok(text) = fs::read_to_string(path) else {
        return Ok(());
    };
    let Record {
        pid,
        started,
        folders,
        as_expected: _,
    } = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let lives = || start_time(pid).is_some_and(|now| now == started);
    if lives() {
        eprintln!("taking down the demonstration that stands (process {pid})");
        kill(Pid::from_raw(pid), Signal::SIGTERM).with_context(|| format!("ending process {pid}"))?;
        let deadline = Instant::now() + PATIENCE;
        while lives() {
            ensure!(Instant::now() < deadline, "process {pid} does not end");
            thread::sleep(Duration::from_millis(20));
        }
    }
    clear_remains(pid, &folders)?;
    if path.exists() {
        fs::remove_file(path).with_context(|| format!("removing {}", path.display()))?;
    }
    Ok(())
}

/// What a process leaves that was killed: children in its cgroup, namespaces by their names, a mounted bpffs.
fn clear_remains(pid: i32, folders: &[PathBuf]) -> Result<()> {
    let home = home(pid)?;
    if home.exists() {
        let switch = home.join("cgroup.kill");
        fs::write(&switch, "1").with_context(|| format!("writing to {}", switch.display()))?;
        remove_tree(&home);
    }
    let prefix = format!("slt{pid}-");
    for entry in fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = umount2(&entry.path(), MntFlags::MNT_DETACH);
            let _ = fs::remove_file(entry.path());
        }
    }
    for folder in folders.iter().filter(|folder| folder.exists()) {
        // The agent's; what it has pinned goes with the last mount.
        let _ = umount2(&folder.join("bpf"), MntFlags::MNT_DETACH);
        fs::remove_dir_all(folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    Ok(())
}

fn remove_tree(path: &Path) {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    let deadline = Instant::now() + PATIENCE;
    // Those who were killed are on their way out.
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}

/// The cgroup that the bench of a process is in.
fn home(pid: i32) -> Result<PathBuf> {
    Ok(cgroup::root()?.join(format!("sluice-tests-{pid}")))
}

/// When a process was started, in the kernel's ticks.
fn start_time(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The second field is the program's name in parentheses, which may have anything in it.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(19).map(str::to_owned)
}

/// How to look around.
pub(crate) fn print_guide(stage: &Stage) {
    let sluice = stage.agent.binary().display();
    let run = stage.agent.run_dir();
    let run = run.display();
    let client = stage.client.netns().path().display();
    let node = stage.bench.node().path().display();
    println!("\nIt stands until `cargo xtask demo --clean`, or the next run. As root:");
    println!("\n  # a client, the way that is meant and the other one");
    println!(
        "  nsenter --net={client} curl --resolve {REGISTERED_HOST}:80:{} http://{REGISTERED_HOST}/",
        GATEWAY_SERVICE[0]
    );
    println!("  nsenter --net={client} curl --max-time 3 http://203.0.113.10/");
    println!("\n  # the three questions: is it on, why was this dropped, would this one be");
    println!("  {sluice} status --run-dir {run}");
    println!("  {sluice} observe --verdict deny --follow --run-dir {run}");
    println!("  {sluice} explain app/client-a 203.0.113.10:443 --run-dir {run}");
    println!("\n  # change the policy: the agent follows");
    println!(
        "  $EDITOR {}/egresspolicy.yaml",
        stage.bench.state().path().display()
    );
    println!("\n  # the node");
    println!("  nsenter --net={node} ip address");
    println!("\n  # logs of Envoy, of the resolvers and of the agent");
    for log in stage.logs() {
        println!("  {}", log.display());
    }
    println!("  {}", stage.agent.log().display());
}
