//! `cargo xtask test`: every test there is, and how many of them ran where.

mod executables;
mod fuzz;
mod tally;

use std::{
    fs, panic,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use self::{
    executables::{Executable, Scope},
    tally::{Counts, Tally},
};
use crate::{build_ebpf, certificates, envoy, image, kubectl, packages, shell, vm};

/// How long the tests may take in an emulated machine.
const VM_TIMEOUT: Duration = Duration::from_hours(1);
const VM_MEMORY_MIB: u64 = 1536;
/// What the tests with real proxies call besides.
const PROXY_TOOLS: [(&str, &str); 2] = [("curl", "curl"), ("dnsmasq", "dnsmasq-base")];
/// What the tests call inside their namespaces.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("tc", "iproute2")];

/// What the tests of the CNI plugin chain it to.
const PLUGINS: [(&str, &str); 1] = [("/usr/lib/cni/ptp", "containernetworking-plugins")];
/// What the page is looked at with.
const BROWSER: [(&str, &str); 1] = [("chromium", "chromium")];

/// Run every test: on this machine, and the tests that send packets in virtual machines over several kernels, too.
///
/// Tests that send packets make network namespaces and a cgroup of their own, which takes root; without it those
/// that are about the kernel run in the virtual machines alone, and those about the cluster do not.
///
/// An emulated machine is slow: the oldest kernel, which differs most from this machine's, gets all of these tests, a newer one those of
/// loading, attaching and life cycle. --thorough, --kernel and NAME ask for all of them on each.
#[derive(Args)]
pub(crate) struct Test {
    /// Do not start virtual machines.
    #[arg(long, conflicts_with = "kernel")]
    no_vm: bool,
    /// Only in virtual machines.
    #[arg(long, conflicts_with = "no_vm")]
    no_host: bool,
    /// Only this kernel: 6.1, 6.12 or latest. May be given more than once.
    #[arg(long, value_name = "KERNEL")]
    kernel: Vec<String>,
    /// All tests that send packets on every kernel: an hour and more without KVM.
    #[arg(long, conflicts_with = "no_vm")]
    thorough: bool,
    /// Only tests whose names contain this.
    #[arg(value_name = "NAME")]
    filter: Option<String>,
}

impl Test {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let started = Instant::now();
        packages::ensure(&TOOLS, "the tests that send packets make networks of their own")?;
        packages::ensure(&PLUGINS, "the CNI plugin is tested behind real ones")?;
        build_ebpf::build()?;
        let executables = executables::build()?;
        let mut tally = Tally::default();
        if !self.no_host {
            self.on_host(&executables, &mut tally)?;
        }
        if !self.no_host && self.filter.is_none() {
            fuzz::run(&mut tally)?;
        }
        if !self.no_vm {
            self.in_machines(&executables, &mut tally)?;
        }
        tally.print(started.elapsed());
        Ok(if tally.failed() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }

    fn on_host(&self, executables: &[Executable], tally: &mut Tally) -> Result<()> {
        let mut env = vec![("SLUICE_KUBECTL", kubectl::ensure()?)];
        if shell::is_root() {
            packages::ensure(&PROXY_TOOLS, "the examples are tried with real proxies")?;
            packages::ensure(&BROWSER, "the agent's page is tested in a browser")?;
            certificates::ensure()?;
            envoy::ensure()?;
        }
        for executable in executables {
            if executable.scope != Scope::Pure && !shell::is_root() {
                let elsewhere = match executable.scope {
                    Scope::Kernel => ", runs in the virtual machines only",
                    Scope::Node | Scope::Pure => " and does not run",
                };
                eprintln!("==> {}: needs root{elsewhere}", executable.name);
                continue;
            }
            if executable.needs_image(self.filter.as_deref())? {
                packages::ensure(
                    &[("crun", "crun")],
                    "the image is tried in a container as a node would make it",
                )?;
                env.push(("SLUICE_IMAGE", image::build()?));
            }
            shell::step(&format!("{} (this machine)", executable.name));
            let counts = executable.run(self.filter.as_deref(), &env)?;
            tally.add("this machine", &executable.name, counts);
        }
        Ok(())
    }

    fn in_machines(&self, executables: &[Executable], tally: &mut Tally) -> Result<()> {
        let kernels = match self.kernel.as_slice() {
            [] => vm::kernels::all()?,
            labels => labels
                .iter()
                .map(|label| vm::kernels::find(label))
                .collect::<Result<_>>()?,
        };
        let all = self.thorough || !self.kernel.is_empty() || self.filter.is_some();
        let machines: Vec<Machine> = kernels
            .iter()
            .enumerate()
            .map(|(index, kernel)| {
                let about = executables
                    .iter()
                    .filter(|executable| executable.scope == Scope::Kernel)
                    .filter(|executable| all || index == 0 || executable.differs_between_newer_kernels())
                    .collect();
                Machine { kernel, about }
            })
            .collect();
        let outcomes = side_by_side(&machines, |Machine { kernel, about }| {
            shell::step(&format!(
                "the tests that send packets, on Linux {}",
                kernel.release
            ));
            let mut programs: Vec<PathBuf> = about.iter().map(|executable| executable.path.clone()).collect();
            programs.push(executables::agent());
            let script = script(kernel, about, self.filter.as_deref())?;
            vm::run(&vm::Job {
                name: "test",
                kernel,
                programs: &programs,
                tools: &TOOLS.map(|(tool, _)| tool),
                files: &[(script, PathBuf::from("/run-tests"))],
                command: &["/bin/sh", "/run-tests"],
                env: &[
                    ("SLUICE_BIN", "/usr/local/bin/sluice"),
                    ("SLUICE_GUEST", "1"),
                    ("CI", "true"),
                ],
                timeout: VM_TIMEOUT,
                memory_mib: VM_MEMORY_MIB,
                prefix: Some(&format!("{:>6} | ", kernel.label)),
            })
        });
        for (Machine { kernel, about }, outcome) in machines.iter().zip(outcomes) {
            let outcome = outcome?;
            let place = format!("Linux {}", kernel.release);
            let counts = tally::read_all(&outcome.output);
            ensure!(
                counts.len() == about.len() || outcome.exit_code != 0,
                "{} of {} test programs said how they ended on {place}, see {}",
                counts.len(),
                about.len(),
                outcome.console.display()
            );
            for (executable, counts) in about.iter().zip(counts) {
                tally.add(&place, &executable.name, counts);
            }
            if outcome.exit_code != 0 {
                tally.add(
                    &place,
                    "a test program",
                    Counts {
                        failed: 1,
                        ..Counts::default()
                    },
                );
            }
        }
        Ok(())
    }
}

/// A virtual machine, and the test programs that run in it.
struct Machine<'a> {
    kernel: &'a vm::Kernel,
    about: Vec<&'a Executable>,
}

/// Calls `run` for each, as many at once as there are processors: an emulated machine keeps one busy. The answers are in the
/// order of the items.
fn side_by_side<T: Sync, A: Send>(items: &[T], run: impl Fn(&T) -> A + Sync) -> Vec<A> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(index) else {
                return done;
            };
            done.push((index, run(item)));
        }
    };
    let workers = thread::available_parallelism()
        .map_or(1, usize::from)
        .min(items.len());
    let mut answers: Vec<(usize, A)> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(thread::ScopedJoinHandle::join);
        joined
            .flat_map(|done| done.unwrap_or_else(|panic| panic::resume_unwind(panic)))
            .collect()
    });
    answers.sort_by_key(|(index, _)| *index);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The shell script that runs the tests in a guest.
fn script(kernel: &vm::Kernel, executables: &[&Executable], filter: Option<&str>) -> Result<PathBuf> {
    use std::fmt::Write as _;
    let mut text = String::from("status=0\n");
    for executable in executables {
        let file = executable.path.file_name().and_then(|name| name.to_str());
        let Some(file) = file else {
            bail!("{} has no name", executable.path.display())
        };
        writeln!(text, "echo '== {}'", executable.name)?;
        let filter = filter
            .map(|filter| format!(" '{}'", filter.replace('\'', "")))
            .unwrap_or_default();
        writeln!(text, "/usr/local/bin/{file}{filter} --color never || status=1")?;
    }
    text.push_str("exit $status\n");
    let path = shell::target(format!("vm/run-tests-{}.sh", kernel.label));
    write(&path, &text)?;
    Ok(path)
}

fn write(path: &Path, text: &str) -> Result<()> {
    shell::create_parent(path)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_come_in_the_order_of_the_questions() {
        let items: Vec<u64> = (0..20).collect();
        let answers = side_by_side(&items, |item| {
            thread::sleep(Duration::from_millis(20 - item));
            item * 2
        });
        assert_eq!(answers, items.iter().map(|item| item * 2).collect::<Vec<_>>());
        assert!(side_by_side(&[0u8; 0], |item| *item).is_empty());
    }
}
