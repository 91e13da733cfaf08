//! A container of the agent, on a bench.

use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use sluice_tests::{
    Bench, PATIENCE,
    bench::UPLINK,
    cgroup::{self, Cgroup},
    manifest::NODE,
    netns::Netns,
    rendered::Rendered,
};
use tempfile::TempDir;

use crate::{
    image::Image,
    runtime::{self, Surroundings, bind},
};

/// Runs the runtime where cgroups are of the second version alone, as on a cluster's node: what is mounted at the first
/// argument, if this machine has both.
const RUNTIME: &str = "mount --bind \"$0\" /sys/fs/cgroup && exec crun --cgroup-manager=disabled \"$@\"";
/// Where the container finds the manifests.
const STATE: &str = "/etc/sluice";
/// The port of the probes in `deploy/base`.
const PROBES: u16 = 9465;

/// A container that runs the agent as the DaemonSet has it, but for where its state comes from.
pub(crate) struct Container {
    id: String,
    directory: TempDir,
    netns: Arc<Netns>,
    /// Where cgroups of the second version are mounted.
    cgroups: PathBuf,
    child: Option<Child>,
}

impl Container {
    /// Starts the container of an overlay on the bench's node, `without` this capability if one is named.
    pub(crate) fn start(bench: &Bench, overlay: &str, without: Option<&str>) -> Result<Self> {
        let rendered = Rendered::of(overlay)?;
        let directory = TempDir::with_prefix("sluice-container-")?;
        let mut this = Self {
            id: format!("{}-agent", bench.id()),
            directory,
            netns: Arc::clone(bench.node()),
            cgroups: cgroup::root()?,
            child: None,
        };
        for name in ["rootfs", "bpf", "run", "ztunnel", "containers"] {
            fs::create_dir(this.path(name))?;
        }
        fs::write(this.path("resolv.conf"), "nameserver 127.0.0.1\n")?;
        let none: Option<&str> = None;
        mount(
            Some("bpf"),
            &this.path("bpf"),
            Some("bpf"),
            MsFlags::empty(),
            none,
        )
        .context("mounting a bpffs for the container")?;
        let image = Image::open()?;
        image.unpack(&this.path("rootfs"))?;
        let configuration = this.configuration(bench, &rendered, &image, without)?;
        fs::write(this.path("config.json"), serde_json::to_vec(&configuration)?)?;
        this.run()?;
        Ok(this)
    }

    fn configuration(
        &self,
        bench: &Bench,
        rendered: &Rendered,
        image: &Image,
        without: Option<&str>,
    ) -> Result<serde_json::Value> {
        let mut container = rendered.container()?;
        let security = container.security_context.as_mut();
        let capabilities = security.and_then(|security| security.capabilities.as_mut());
        if let (Some(without), Some(capabilities)) = (without, capabilities) {
            let added = capabilities.add.get_or_insert_default();
            added.retain(|name| name != without);
        }
        let mut command = image.entrypoint()?;
        command.extend(container.args.clone().unwrap_or_default());
        let mut environment = image.environment()?;
        let mut configured = rendered.configuration()?.data.unwrap_or_default();
        ensure!(
            configured.remove("SLUICE_KUBERNETES").is_some(),
            "where does its state come from?"
        );
        environment.extend(configured.iter().map(|(name, value)| format!("{name}={value}")));
        environment.extend([
            format!("NODE_NAME={NODE}"),
            format!("SLUICE_STATE={STATE}"),
            format!("SLUICE_UPLINK={UPLINK}"),
            format!("SLUICE_CGROUP_ROOT={}", self.inside(bench.cgroup())?.display()),
        ]);
        let surroundings = Surroundings {
            command,
            environment,
            netns: bench.node().path(),
            mounts: vec![
                bind(bench.state().path(), STATE, true),
                bind(&self.path("resolv.conf"), "/etc/resolv.conf", true),
                // By these the manifests say where pods are.
                bind(Path::new("/run/netns"), "/run/netns", true),
            ],
        };
        runtime::configuration(&rendered.pod()?, &container, surroundings, |path| {
            self.stand_in(path)
        })
    }

    /// Where the container sees a cgroup.
    pub(crate) fn inside(&self, cgroup: &Cgroup) -> Result<PathBuf> {
        let below = cgroup.path().strip_prefix(&self.cgroups)?;
        Ok(Path::new("/sys/fs/cgroup").join(below))
    }

    /// What stands for a path of the node.
    fn stand_in(&self, path: &str) -> Result<PathBuf> {
        Ok(match path {
            "/sys/fs/bpf" => self.path("bpf"),
            "/run/sluice" => self.path("run"),
            "/var/run/ztunnel" => self.path("ztunnel"),
            // The hooks are bound to the bench's cgroup, and the variables to the namespace of whoever opens them.
            "/sys/fs/cgroup" | "/proc/sys" => PathBuf::from(path),
            _ => bail!("{path}: what stands for it on the bench?"),
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn runtime(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", RUNTIME]);
        command.arg(&self.cgroups);
        command.arg("--root").arg(self.path("containers"));
        command
    }

    fn run(&mut self) -> Result<()> {
        let log = File::create(self.path("log"))?;
        let child = self
            .runtime()
            .arg("run")
            .arg("--bundle")
            .arg(self.directory.path())
            .arg(&self.id)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("running crun (Debian's package of that name)")?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until a probe says yes. Says why it does not.
    pub(crate) fn wait_for(&mut self, probe: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = match self.ask(probe) {
                Ok(answer) if answer.starts_with("HTTP/1.0 200") => return Ok(()),
                Ok(answer) => answer,
                Err(error) => format!("{error:#}"),
            };
            let ended = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || Instant::now() > deadline {
                bail!("{probe}: {said}; the container's log:\n{}", self.log());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// As the kubelet asks: from the node's network.
    fn ask(&self, probe: &str) -> Result<String> {
        self.netns.run(|| {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, PROBES))?;
            stream.set_read_timeout(Some(PATIENCE))?;
            write!(stream, "GET {probe} HTTP/1.0\r\n\r\n")?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer)?;
            Ok(answer)
        })?
    }

    /// What `kubectl exec` would print.
    pub(crate) fn exec(&self, arguments: &[&str]) -> Result<String> {
        let output = self
            .runtime()
            .arg("exec")
            .arg(&self.id)
            .args(arguments)
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "{arguments:?}: {said}{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(said)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// As the kubelet does it: a signal, which the runtime hands on, and no mercy after a while.
    fn end(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(Pid::from_raw(child.id().try_into()?), Signal::SIGTERM)?;
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait()?.is_none() {
            if Instant::now() > deadline {
                child.kill()?;
                bail!("the container does not end");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Takes out of the kernel what the agent has left there.
    fn detach(&self) -> Result<()> {
        let root = self.path("rootfs");
        let agent = root.join("usr/bin/sluice");
        let output = self.netns.run(|| {
            Command::new(&agent)
                .arg("detach")
                .arg("--run-dir")
                .arg(self.path("run"))
                .arg("--bpffs")
                .arg(self.path("bpf/sluice"))
                .output()
        })??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "detach: {said}");
        Ok(())
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Shown by the test harness if the test has failed.
        eprintln!("the container's log:\n{}", self.log());
        if let Err(error) = self.end().and_then(|()| self.detach()) {
            eprintln!("taking the container down: {error:#}");
        }
        if let Err(error) = umount2(&self.path("bpf"), MntFlags::MNT_DETACH) {
            eprintln!("unmounting the container's bpffs: {error}");
        }
    }
}
