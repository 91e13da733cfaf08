//! Real programs that run in a namespace of the demonstration.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    Pod,
    cgroup::Cgroup,
    netns::{Netns, on_thread},
};

/// How long a program may take to listen; an emulated machine needs most of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place<'a> {
    /// In a network namespace.
    Netns(&'a Netns),
    /// In the namespace and the cgroup of a pod.
    Pod(&'a Pod),
    /// In a namespace, in a cgroup of its own.
    Cgroup(&'a Netns, &'a Cgroup),
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it says goes to `<name>.log` in `folder`.
    pub(crate) fn start(place: Place<'_>, name: &str, mut command: Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let spawned = match place {
            Place::Netns(netns) => netns.run(|| command.spawn()),
            Place::Pod(pod) => pod.run(|| command.spawn()),
            Place::Cgroup(netns, cgroup) => on_thread(|| {
                cgroup.join()?;
                netns.enter()?;
                Ok(command.spawn())
            }),
        }?;
        let program = command.get_program().to_string_lossy();
        let child = spawned.with_context(|| format!("cannot run {program} for {name}: is it installed?"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log,
        })
    }

    /// Waits until it listens on a TCP port.
    pub(crate) fn wait_for(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !self.listens(port) {
            if let Some(status) = self.child.try_wait()? {
                bail!(
                    "{} has ended ({status}):\n{}",
                    self.name,
                    fs::read_to_string(&self.log)?.trim_end()
                );
            }
            ensure!(
                Instant::now() < deadline,
                "{} does not listen on port {port}, see {}",
                self.name,
                self.log.display()
            );
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where its log is.
    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    fn listens(&self, port: u16) -> bool {
        let suffix = format!(":{port:04X}");
        ["tcp", "tcp6"].iter().any(|table| {
            let path = format!("/proc/{}/net/{table}", self.child.id());
            fs::read_to_string(path).unwrap_or_default().lines().any(|line| {
                let mut fields = line.split_whitespace();
                // Place, own address, peer, state; 0A is LISTEN.
                fields.nth(1).is_some_and(|own| own.ends_with(&suffix)) && fields.nth(1) == Some("0A")
            })
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, or with us by a signal from the terminal.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
