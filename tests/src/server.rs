//! Real programs that run in the namespaces of a bench: proxies, DNS servers.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Pod,
    cgroup::Cgroup,
    netns::{Netns, on_thread},
};
use anyhow::{Context as _, Result, bail, ensure};

/// How long a program may take to listen; an emulated machine needs most of it.
const PATIENCE: Duration = Duration::from_mins(1);

/// Where a program runs.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// In a network namespace.
    Netns(&'a Netns),
    /// In the namespace and the cgroup of a pod.
    Pod(&'a Pod),
    /// In a namespace, in a cgroup of its own.
    Cgroup(&'a Netns, &'a Cgroup),
}

/// A program that runs until this is dropped.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it; what it says goes to `<name>.log` in `folder`.
    pub fn start(place: Place<'_>, name: &str, mut command: Command, folder: &Path) -> Result<Self> {
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
    pub fn wait_for(&mut self, port: u16) -> Result<()> {
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
    pub fn log(&self) -> &Path {
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

/// An Envoy with this configuration.
pub fn envoy(binary: &Path, config: &Path) -> Command {
    let mut command = Command::new(binary);
    command.args([
        "--disable-hot-restart",
        "--concurrency",
        "1",
        "--log-level",
        "warning",
        "-c",
    ]);
    command.arg(config);
    command
}

/// A DNS server that knows `hosts`, asks `upstream` for all others, and remembers nothing.
pub fn dnsmasq(listen: [&str; 2], port: u16, hosts: &[(&str, [&str; 2])], upstream: Option<&str>) -> Command {
    let mut command = Command::new("dnsmasq");
    // No file of this machine, and no user of it: an emulated machine has none.
    command.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-hosts",
        "--no-resolv",
        "--user=",
    ]);
    command.args([
        "--pid-file=",
        "--log-facility=-",
        "--log-queries",
        "--cache-size=0",
        "--local-ttl=60",
    ]);
    command.args(["--bind-interfaces", "--no-negcache"]);
    command.arg(format!("--port={port}"));
    for address in listen {
        command.arg(format!("--listen-address={address}"));
    }
    for (host, addresses) in hosts {
        for address in addresses {
            command.arg(format!("--address=/{host}/{address}"));
        }
    }
    if let Some(upstream) = upstream {
        command.arg(format!("--server={upstream}"));
    }
    command
}
