//! One virtual machine from its start to its end.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use super::console::{self, Line, Tag};
use crate::shell;

/// How long a guest may take between its last word and the end of the emulator.
const GRACE: Duration = Duration::from_secs(10);

/// Lines of the console in an error message.
const TAIL: usize = 40;

/// Who executes the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    /// The processor itself.
    Kvm,
    /// QEMU's translator, ten to thirty times slower, but it works everywhere.
    Tcg,
}

/// What a machine is made of.
pub(crate) struct Machine<'a> {
    pub(crate) accelerator: Accelerator,
    pub(crate) vmlinuz: &'a Path,
    pub(crate) initramfs: &'a Path,
    pub(crate) memory_mib: u64,
    pub(crate) timeout: Duration,
    pub(crate) tag: &'a Tag,
    /// Everything that the console prints is written here.
    pub(crate) log: &'a Path,
    /// What the guest sends back, a tar archive, is written here.
    pub(crate) results: &'a Path,
    /// Shows the payload's output as it comes, each line behind this.
    pub(crate) prefix: Option<&'a str>,
}

/// How a machine that came to a verdict ended.
pub(crate) struct Ended {
    pub(crate) exit_code: i32,
    /// What the payload printed (and what the kernel printed meanwhile).
    pub(crate) output: String,
    /// From the emulator's start to the payload's.
    pub(crate) boot: Duration,
}

impl Machine<'_> {
    /// Boots, waits for the verdict and for the end. A panic, a hang and an early end are errors with the console's
    /// last lines.
    pub(crate) fn run(&self) -> Result<Ended> {
        shell::create_parent(self.log)?;
        shell::create_parent(self.results)?;
        let started = Instant::now();
        let mut child = self.spawn()?;
        let lines = read_lines(&mut child)?;
        let watched = self.watch(&lines, started);
        // Whatever happened, nothing of it may outlive this function; the child is ended by its own handle.
        let end = if watched.is_ok() {
            wait(&mut child, GRACE)
        } else {
            Ok(false)
        };
        if !matches!(end, Ok(true)) {
            child.kill().context("cannot end the emulator")?;
            child.wait().context("cannot end the emulator")?;
        }
        watched
    }

    fn spawn(&self) -> Result<Child> {
        let (accelerator, cpu) = match self.accelerator {
            Accelerator::Kvm => ("kvm", "host"),
            // Two faults of the translator (seen with QEMU 7.2) made one boot in five to twenty crash, none of 65
            // since they are avoided. Its cmpxchg16b leaves rubbish in EFLAGS, which the kernel's allocator trips
            // over: without cx16 the kernel takes another path. With a thread for each processor, one may still run
            // an int3 that the other has already patched away: so one thread runs both, which boots no slower.
            Accelerator::Tcg => ("tcg,thread=single", "max,-cx16"),
        };
        // panic=-1 with -no-reboot: a panic ends the emulator at once instead of leaving a dead machine. Without cx16
        // kmalloc_nolock() has memory in caches that are checked only, and the storage of sockets has no other since
        // Linux 7.0: so those are checked.
        let kernel_line = "console=ttyS0 loglevel=5 panic=-1 oops=panic mitigations=off no_timer_check nokaslr \
                           slub_debug=F,kmalloc-*";
        let mut command = if shell::find_program("setpriv").is_some() {
            // Nobody else would end the machine if this process were killed.
            let mut command = Command::new("setpriv");
            command.args(["--pdeathsig", "KILL", "--", "qemu-system-x86_64"]);
            command
        } else {
            Command::new("qemu-system-x86_64")
        };
        command
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"])
            .args(["-machine", "pc", "-accel", accelerator, "-cpu", cpu, "-smp", "2"])
            .args(["-m", &format!("{}M", self.memory_mib)])
            .args([
                "-chardev",
                "stdio,id=console,signal=off",
                "-serial",
                "chardev:console",
            ])
            .args([
                "-chardev",
                &format!("file,id=results,path={}", escape(self.results)),
                "-serial",
                "chardev:results",
            ])
            .arg("-kernel")
            .arg(self.vmlinuz)
            .arg("-initrd")
            .arg(self.initramfs)
            .args(["-append", kernel_line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        let errors = File::create(self.log.with_extension("qemu.log"))
            .with_context(|| format!("cannot write beside {}", self.log.display()))?;
        command
            .stderr(errors)
            .spawn()
            .context("cannot start qemu-system-x86_64")
    }

    fn watch(&self, lines: &Receiver<Vec<u8>>, started: Instant) -> Result<Ended> {
        let mut log =
            File::create(self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut console = String::new();
        let mut output = String::new();
        let mut blank = 0;
        let mut boot = None;
        let mut panic = None;
        let mut deadline = started + self.timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let raw = match lines.recv_timeout(left) {
                Ok(raw) => raw,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) if panic.is_some() => {
                    return Err(self.failure(
                        &format!("the kernel panicked: {}", panic.unwrap_or_default()),
                        &console,
                    ));
                }
                Err(RecvTimeoutError::Timeout) => {
                    let where_ = if boot.is_some() {
                        "the payload was still running"
                    } else {
                        "it had not booted"
                    };
                    let text = format!("no verdict after {} s: {where_}", self.timeout.as_secs());
                    return Err(self.failure(&text, &console));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let said = fs::read_to_string(self.log.with_extension("qemu.log")).unwrap_or_default();
                    return Err(self.failure(
                        &format!("the machine ended without a verdict {}", said.trim()),
                        &console,
                    ));
                }
            };
            log.write_all(&raw)
                .with_context(|| format!("cannot write {}", self.log.display()))?;
            let line = console::clean(&raw);
            console.push_str(&line);
            console.push('\n');
            match self.tag.read(&line) {
                Line::Begin => boot = Some(started.elapsed()),
                Line::Verdict(exit_code) => {
                    return Ok(Ended {
                        exit_code,
                        output,
                        boot: boot.unwrap_or_default(),
                    });
                }
                Line::Panic(text) => {
                    panic = Some(text.to_owned());
                    // The trace follows the message.
                    deadline = Instant::now() + GRACE;
                }
                // The line end that init prints before the verdict is not the payload's: it is held back until more
                // comes.
                Line::Text("") if boot.is_some() => blank += 1,
                Line::Text(text) if boot.is_some() => {
                    for line in std::iter::repeat_n("", std::mem::take(&mut blank)).chain([text]) {
                        output.push_str(line);
                        output.push('\n');
                        if let Some(prefix) = self.prefix {
                            println!("{prefix}{line}");
                        }
                    }
                }
                Line::Text(_) => {}
            }
        }
    }

    fn failure(&self, text: &str, console: &str) -> anyhow::Error {
        anyhow::anyhow!(
            "{text}\n  the end of the console, which is in {}:\n{}",
            self.log.display(),
            console::tail(console, TAIL)
        )
    }
}

/// Reads the console in a thread of its own, because reading cannot be given a time limit.
fn read_lines(child: &mut Child) -> Result<Receiver<Vec<u8>>> {
    let mut reader = BufReader::new(child.stdout.take().context("the emulator has no output")?);
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut line = Vec::new();
        while reader.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            if sender.send(std::mem::take(&mut line)).is_err() {
                break;
            }
        }
    });
    Ok(receiver)
}

/// Whether the child ended by itself within the time given.
fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let deadline = Instant::now() + limit;
    while Instant::now() < deadline {
        if child
            .try_wait()
            .context("cannot wait for the emulator")?
            .is_some()
        {
            return Ok(true);
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(false)
}

/// A comma separates options of QEMU; two of them are one of the value.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commas_are_doubled() {
        assert_eq!(escape(Path::new("/a,b/c")), "/a,,b/c");
    }
}
