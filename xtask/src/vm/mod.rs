//! A machine of its own for every run: a Debian kernel, a root file system made for the occasion, QEMU, a verdict.
//!
//! ```text
//! kernels   which kernels, where from            (apt: packages without installing them)
//! initramfs what the guest consists of           (image, cpio; modules, modinfo; closure, elf)
//! qemu      the machine from start to verdict    (console: what its lines mean; accel: KVM or not)
//! ```
//!
//! There is no disk and no network, so a guest can neither harm anything nor depend on anything. Machines run one
//! after the other: figures measured beside another one would mean nothing.

mod accel;
mod apt;
mod closure;
mod console;
mod cpio;
mod elf;
mod image;
mod initramfs;
pub(crate) mod kernels;
mod lock;
mod modinfo;
mod modules;
mod qemu;
mod verb;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, ensure};

pub(crate) use apt::Apt;
pub(crate) use kernels::Kernel;
pub(crate) use lock::Lock;
pub(crate) use verb::Vm;

use crate::shell::{self, Cmd};
use console::Tag;
use qemu::{Accelerator, Machine};

/// What is to be run, and on what.
pub(crate) struct Job<'a> {
    /// A short word for files and messages: logs are `target/vm/logs/<name>-<kernel>.log`.
    pub(crate) name: &'a str,
    /// From [`kernels::all`] or [`kernels::find`].
    pub(crate) kernel: &'a Kernel,
    /// Executables of this machine, copied with their shared libraries to `/usr/local/bin` under their own names.
    pub(crate) programs: &'a [PathBuf],
    /// Tools of this machine by name, as `nft` or `ip`; what is missing is installed. Busybox is always there.
    pub(crate) tools: &'a [&'a str],
    /// Files or folders, and where in the guest they go.
    pub(crate) files: &'a [(PathBuf, PathBuf)],
    /// The payload: a program and its arguments.
    pub(crate) command: &'a [&'a str],
    /// Its environment, beside `PATH`, `HOME`, `TERM` and `LANG`.
    pub(crate) env: &'a [(&'a str, &'a str)],
    /// From the emulator's start to the verdict.
    pub(crate) timeout: Duration,
    /// For the payload; what the root file system takes is added.
    pub(crate) memory_mib: u64,
    /// Shows the payload's output as it comes, each line behind this.
    pub(crate) prefix: Option<&'a str>,
}

impl Job<'_> {
    /// The name of its machine: nobody else's files have it.
    fn machine(&self) -> String {
        format!("{}-{}", self.name, self.kernel.label)
    }
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// The payload's exit code; 128 and the signal's number if a signal ended it, as a shell says it.
    pub(crate) exit_code: i32,
    /// What the payload printed, together with warnings that the kernel printed meanwhile.
    pub(crate) output: String,
    /// The whole console.
    pub(crate) console: PathBuf,
    /// What the payload left in `/out`, and `kernel.log`.
    pub(crate) out_dir: PathBuf,
    /// From the emulator's start to the payload's.
    pub(crate) boot: Duration,
    /// From the emulator's start to its end.
    pub(crate) duration: Duration,
}

/// Boots the kernel, runs the command, and returns when the machine is gone. An exit code other than 0 is an outcome;
/// a panic, a hang or a machine that ends without a verdict is an error that shows the end of the console.
pub(crate) fn run(job: &Job<'_>) -> Result<Outcome> {
    let _lock = lock::Lock::take(&job.machine())?;
    ensure_qemu()?;
    let accelerator = accel::choose(job.kernel)?;
    let Kernel { release, version, .. } = job.kernel;
    let how = match accelerator {
        Accelerator::Kvm => "with KVM",
        Accelerator::Tcg => "emulated",
    };
    shell::step(&format!(
        "{}: on kernel {release} (Debian's {version}), {how}",
        job.name
    ));
    boot(job, accelerator)
}

fn ensure_qemu() -> Result<()> {
    // The BIOS and the boot ROMs are packages of their own, which only a full installation would bring along.
    crate::packages::ensure(
        &[
            ("qemu-system-x86_64", "qemu-system-x86"),
            ("/usr/share/seabios/bios-256k.bin", "seabios"),
        ],
        "tests run in virtual machines",
    )
}

fn boot(job: &Job<'_>, accelerator: Accelerator) -> Result<Outcome> {
    let name = job.machine();
    let context = || format!("{} on kernel {}", job.name, job.kernel.release);
    let initramfs = shell::target("vm/run").join(format!("{name}.cpio"));
    let results = shell::target("vm/run").join(format!("{name}.tar"));
    let log = shell::target("vm/logs").join(format!("{name}.log"));
    shell::create_parent(&initramfs)?;
    let tag = Tag::new(unique());
    let size = initramfs::build(job, &tag, &initramfs).with_context(context)?;

    let started = Instant::now();
    let machine = Machine {
        accelerator,
        vmlinuz: &job.kernel.vmlinuz,
        initramfs: &initramfs,
        memory_mib: memory(job.memory_mib, size),
        timeout: job.timeout,
        tag: &tag,
        log: &log,
        results: &results,
        prefix: job.prefix,
    };
    let ended = machine.run().with_context(context)?;
    let duration = started.elapsed();

    let out_dir = shell::target("vm/out").join(&name);
    unpack(&results, &out_dir).with_context(context)?;
    fs::remove_file(&initramfs).with_context(|| initramfs.display().to_string())?;
    Ok(Outcome {
        exit_code: ended.exit_code,
        output: ended.output,
        console: log,
        out_dir,
        boot: ended.boot,
        duration,
    })
}

/// The archive lies in memory beside what is unpacked from it, and the kernel gives a root file system at most half
/// of the memory.
const fn memory(payload_mib: u64, image_bytes: u64) -> u64 {
    payload_mib + 3 * image_bytes.div_ceil(1 << 20)
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| folder.display().to_string())?;
    }
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    // An archive ends with blocks of zeros; a cut one would unpack without complaint.
    let bytes = fs::read(archive).with_context(|| archive.display().to_string())?;
    ensure!(
        bytes.ends_with(&[0; 1024]),
        "what the guest sent back from /out is incomplete: {}",
        archive.display()
    );
    Cmd::new("tar")
        .args(["--no-same-owner", "-xf"])
        .arg(archive)
        .arg("-C")
        .arg(folder)
        .read()?;
    fs::remove_file(archive).with_context(|| archive.display().to_string())
}

/// A number that no other run has: the time and the process.
fn unique() -> u128 {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    now.as_nanos() << 32 | u128::from(std::process::id())
}
