//! Network namespaces, entered by a thread at a time.

use std::{
    fs::{self, File},
    panic,
    path::{Path, PathBuf},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, setns, unshare},
    unistd::Uid,
};

/// Where `ip netns` looks for names.
const DIRECTORY: &str = "/run/netns";

/// A network namespace with a name, gone when it is dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
    path: PathBuf,
    handle: File,
}

impl Netns {
    /// Makes one. `name` must not be taken.
    pub fn create(name: &str) -> Result<Self> {
        ensure!(
            Uid::effective().is_root(),
            "this test makes network namespaces: it must run as root"
        );
        let _prepared = prepare_directory().with_context(|| format!("preparing {DIRECTORY}"))?;
        let path = Path::new(DIRECTORY).join(name);
        File::create_new(&path).with_context(|| format!("making {}", path.display()))?;
        let handle = on_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("unshare(CLONE_NEWNET)")?;
            let none: Option<&str> = None;
            mount(
                Some("/proc/thread-self/ns/net"),
                &path,
                none,
                MsFlags::MS_BIND,
                none,
            )
            .with_context(|| format!("mounting a network namespace at {}", path.display()))?;
            File::open(&path).with_context(|| format!("opening {}", path.display()))
        })?;
        Ok(Self {
            name: name.to_owned(),
            path,
            handle,
        })
    }

    /// Its name, as `ip -n` knows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A file that stands for it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Moves this thread into it, for good.
    pub fn enter(&self) -> Result<()> {
        setns(&self.handle, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("setns({})", self.path.display()))
    }

    /// Calls `f` on a thread of its own inside. Sockets and processes made there stay there.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.enter()?;
            Ok(f())
        })
    }

    /// Sets a variable of `/proc/sys/net`, which every namespace has for itself.
    pub fn sysctls(&self, values: &[(&str, &str)]) -> Result<()> {
        self.run(|| {
            for (name, value) in values {
                let path = format!("/proc/sys/net/{}", name.replace('.', "/"));
                fs::write(&path, value).with_context(|| format!("writing {value} to {path}"))?;
            }
            Ok(())
        })?
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Whoever made it may have taken it away by hand; there is nobody to tell.
        let _ = umount2(&self.path, MntFlags::MNT_DETACH);
        let _ = fs::remove_file(&self.path);
    }
}

/// Makes the directory a mount of its own that is shared, as `ip netns` does before it makes its first namespace: if
/// that came later, its mount would lie over ours, and they could not be taken away. The lock is the one that `ip netns`
/// takes, and is to be held until the namespace is there.
fn prepare_directory() -> Result<Flock<File>> {
    fs::create_dir_all(DIRECTORY)?;
    let lock = Flock::lock(File::open(DIRECTORY)?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
    let none: Option<&str> = None;
    let share = || mount(none, DIRECTORY, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none);
    // It is no mount yet.
    if share() == Err(Errno::EINVAL) {
        mount(
            Some(DIRECTORY),
            DIRECTORY,
            none,
            MsFlags::MS_BIND | MsFlags::MS_REC,
            none,
        )?;
        share()?;
    }
    Ok(lock)
}

/// Calls `f` on a thread of its own and passes on its result or its panic.
pub fn on_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(f).join()).unwrap_or_else(|panic| panic::resume_unwind(panic))
}
