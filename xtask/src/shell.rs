//! Running other programs, so that a failure always names the exact command and shows what it said.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{IsTerminal as _, Write as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// How much of a log is worth reading after a failure.
const TAIL_LINES: usize = 40;

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    // The xtask binary is always built from the tree that it works on.
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("xtask lies inside the workspace")
}

/// A path under the workspace's target folder, whatever `CARGO_TARGET_DIR` says: other parts of the
/// build look for the products of xtask at fixed places.
pub(crate) fn target(relative: impl AsRef<Path>) -> PathBuf {
    root().join("target").join(relative)
}

/// Announces a step that may take a while.
pub(crate) fn step(text: &str) {
    eprintln!("==> {text}");
}

/// Whether this process may do what only root may.
pub(crate) fn is_root() -> bool {
    // Its own /proc entry belongs to the effective user; asking libc would need unsafe code.
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata("/proc/self").is_ok_and(|entry| entry.uid() == 0)
}

/// Looks a program up in `PATH` and in the folders of system programs, which an ordinary user's `PATH` lacks.
/// A name with a slash is a path and only has to exist.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        let path = PathBuf::from(name);
        return path.exists().then_some(path);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|candidate| candidate.is_file())
}

/// The cargo that the user called us with.
pub(crate) fn cargo() -> Cmd {
    Cmd::new("cargo").without_run_env()
}

/// The compiler of [`cargo`].
pub(crate) fn rustc() -> Cmd {
    Cmd::new("rustc").without_run_env()
}

/// A command that is run from the root of the workspace.
#[derive(Debug)]
pub(crate) struct Cmd {
    inner: Command,
    shown_env: Vec<(OsString, OsString)>,
}

impl Cmd {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut inner = Command::new(program);
        inner.current_dir(root());
        Self {
            inner,
            shown_env: Vec::new(),
        }
    }

    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Runs it there instead of in the workspace's root.
    pub(crate) fn in_folder(mut self, folder: &Path) -> Self {
        self.inner.current_dir(folder);
        self
    }

    pub(crate) fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(&name, &value);
        self.shown_env.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// Removes what an outer cargo, rustup or developer's shell leaves in the environment, so that the command
    /// builds the same wherever it is started from. Settings of the network and the registry stay.
    pub(crate) fn without_cargo_env(mut self) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_build_setting) {
                self.inner.env_remove(name);
            }
        }
        self
    }

    /// Removes only what `cargo run` has set for us: inherited by another cargo it would make build scripts run again,
    /// each time from the other side. The user's own settings stay.
    pub(crate) fn without_run_env(mut self) -> Self {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(is_set_by_cargo_run) {
                self.inner.env_remove(name);
            }
        }
        self
    }

    /// The command as one could paste it into a shell.
    pub(crate) fn line(&self) -> String {
        let env = self.shown_env.iter().map(|(name, value)| {
            format!(
                "{}={}",
                name.to_string_lossy(),
                quote(&value.to_string_lossy().replace('\x1f', " "))
            )
        });
        let words = std::iter::once(self.inner.get_program()).chain(self.inner.get_args());
        env.chain(words.map(|word| quote(&word.to_string_lossy())))
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Runs it with our own terminal: for compilers, whose diagnostics are the point.
    pub(crate) fn run(mut self) -> Result<()> {
        let line = self.line();
        let status = self
            .inner
            .status()
            .with_context(|| format!("cannot start `{line}`"))?;
        check(status, &line)
    }

    /// Runs it and returns what it printed; the rest of what it said is shown only if it fails.
    pub(crate) fn read(mut self) -> Result<String> {
        let line = self.line();
        let output = self
            .inner
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot start `{line}`"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` failed ({})\n{}", output.status, said.trim_end());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{line}` printed something that is not UTF-8"))
    }

    /// Runs it as a step of its own: announced, timed, its output kept in `target/logs/<name>.log` and shown if it fails.
    pub(crate) fn run_logged(mut self, name: &str, what: &str) -> Result<()> {
        let line = self.line();
        let log = target("logs").join(format!("{name}.log"));
        create_parent(&log)?;
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let errors = file
            .try_clone()
            .context("cannot share the log between two streams")?;
        step(what);
        let started = Instant::now();
        let mut child = self
            .inner
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .with_context(|| format!("cannot start `{line}`"))?;
        let on_terminal = std::io::stderr().is_terminal();
        let status = loop {
            if let Some(status) = child
                .try_wait()
                .with_context(|| format!("cannot wait for `{line}`"))?
            {
                break status;
            }
            if on_terminal {
                show_progress(started, &log);
            }
            thread::sleep(Duration::from_millis(200));
        };
        if on_terminal {
            eprint!("\r\x1b[K");
        }
        if let Err(error) = check(status, &line) {
            eprintln!("{}", tail(&log));
            return Err(error.context(format!(
                "{what}: failed, all of its output is in {}",
                log.display()
            )));
        }
        eprintln!("    done in {} s", started.elapsed().as_secs());
        Ok(())
    }
}

/// Creates the folder that a file is to be written to.
pub(crate) fn create_parent(file: &Path) -> Result<()> {
    let folder = file
        .parent()
        .with_context(|| format!("{} has no folder", file.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))
}

fn check(status: ExitStatus, line: &str) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{line}` failed ({status})")
}

fn is_set_by_cargo_run(name: &str) -> bool {
    // LD_LIBRARY_PATH then has the library folders of cargo's own compiler, which another must not load from.
    ["CARGO", "LD_LIBRARY_PATH"].contains(&name)
        || ["CARGO_BIN_", "CARGO_MANIFEST_", "CARGO_PKG_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
}

fn is_build_setting(name: &str) -> bool {
    const EXACT: [&str; 9] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTC",
        "RUSTC_BOOTSTRAP",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTC_WRAPPER",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
    ];
    const PREFIXES: [&str; 3] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"];
    is_set_by_cargo_run(name)
        || EXACT.contains(&name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// Rewrites one line of the terminal with the time so far and what the child said last.
fn show_progress(started: Instant, log: &Path) {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last: String = text
        .lines()
        .last()
        .unwrap_or_default()
        .trim()
        .chars()
        .take(70)
        .collect();
    eprint!("\r\x1b[K    {:>3} s  {last}", started.elapsed().as_secs());
    // Progress that cannot be shown is not worth failing for.
    drop(std::io::stderr().flush());
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}
