//! The plugin in its place: the binary among the other plugins, the entry in the configuration that the runtime reads.
//!
//! It stays when the agent ends: then new pods wait for the next one.

use std::{
    ffi::OsStr,
    fs::{self, File, Permissions},
    io,
    os::{fd::AsFd as _, unix::fs::PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::info;

use super::{
    NAME,
    config::{DEFAULT_WAIT_SECONDS, Own},
    conflist::{self, Invalid},
    file,
};

/// How files are called that runtimes read; of the first, by name, the network is made.
const READ: [&str; 3] = ["conf", "conflist", "json"];
/// Those of them that are of one plugin.
const SINGLE: [&str; 2] = ["conf", "json"];
/// What is added to the name of a configuration of one plugin that was made a list.
const SAVED: &str = "sluice-saved";
/// How long events are gathered: a plugin that writes its file does so in several steps.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// How often is looked where notices cannot be had.
const RETRY: Duration = Duration::from_secs(1);

/// Where the plugin goes.
#[derive(Clone, Debug, Args)]
#[group(skip)]
pub struct Settings {
    /// The directory from which the container runtime takes the network's configuration, as /etc/cni/net.d: the agent chains
    /// its plugin to the first file there, and keeps it there. Then nothing runs in a pod before its rules hold.
    #[arg(
        long,
        env = "SLUICE_CNI_CONF_DIR",
        value_name = "DIR",
        requires = "cni_bin_dir"
    )]
    pub cni_conf_dir: Option<PathBuf>,
    /// The directory of the runtime's plugins, as /opt/cni/bin: the agent puts its own there.
    #[arg(
        long,
        env = "SLUICE_CNI_BIN_DIR",
        value_name = "DIR",
        requires = "cni_conf_dir"
    )]
    pub cni_bin_dir: Option<PathBuf>,
    /// How long a pod's start waits, in seconds, until it is tried again.
    #[arg(long, env = "SLUICE_CNI_WAIT", value_name = "SECONDS", default_value_t = DEFAULT_WAIT_SECONDS)]
    pub cni_wait: u64,
    /// A Kubernetes namespace whose pods do not wait; may be given more than once. The rules hold for them as well, but what
    /// they call before capture is ready does not go to the proxy.
    #[arg(
        long = "cni-no-wait-namespace",
        env = "SLUICE_CNI_NO_WAIT_NAMESPACES",
        value_delimiter = ',',
        value_name = "NAMESPACE"
    )]
    pub cni_no_wait_namespaces: Vec<String>,
}

/// Why the plugin is not in its place.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A file or directory of the runtime's.
    #[error("cannot {what} {path}: {source} (is the runtime's directory mounted, and writable?)")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// There are no inotify instances left.
    #[error("cannot watch files (inotify); is fs.inotify.max_user_instances exhausted?")]
    Inotify(#[source] nix::Error),
    /// The configuration is not one that the plugin can be chained to.
    #[error("{path}: {source}; {NAME} is not chained to it")]
    Conflist {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<Invalid>,
    },
}

/// How things stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The file that the plugin is chained in; absent while there is none.
    pub file: Option<PathBuf>,
    /// How often somebody has written it without the plugin, which was then put back.
    pub restored: u64,
}

/// The plugin, and what keeps it in its place.
pub struct Installation {
    conf_dir: PathBuf,
    bin_dir: PathBuf,
    entry: Value,
    inotify: Inotify,
    state: State,
}

fn io_error(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> InstallError {
    move |source| InstallError::Io {
        what,
        path: path.to_owned(),
        source,
    }
}

impl Installation {
    /// Installs the plugin; `None` if it is not wanted. `socket` is where the agent answers.
    pub fn start(settings: &Settings, socket: &Path) -> Result<Option<Self>, InstallError> {
        let (Some(conf_dir), Some(bin_dir)) = (&settings.cni_conf_dir, &settings.cni_bin_dir) else {
            return Ok(None);
        };
        put_binary(bin_dir)?;
        let own = Own {
            socket: std::path::absolute(socket).map_err(io_error("find", socket))?,
            wait_seconds: settings.cni_wait,
            no_wait_namespaces: settings.cni_no_wait_namespaces.clone(),
        };
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC);
        Ok(Some(Self {
            conf_dir: conf_dir.clone(),
            bin_dir: bin_dir.clone(),
            entry: own.entry(),
            inotify: inotify.map_err(InstallError::Inotify)?,
            state: State::default(),
        }))
    }

    /// Waits until somebody writes a configuration. Needs tokio.
    pub async fn changed(&mut self) {
        let descriptor = self.inotify.as_fd();
        #[expect(
            deprecated,
            reason = "its successor is unsafe for types whose as_raw_fd changes; a BorrowedFd's does not"
        )]
        let events = AsyncFd::with_interest(descriptor, Interest::READABLE);
        let heard = match &events {
            Ok(events) => events.readable().await.is_ok(),
            Err(_) => false,
        };
        drop(events);
        tokio::time::sleep(if heard { DEBOUNCE } else { RETRY }).await;
        // One look serves all of them.
        while self.inotify.read_events().is_ok_and(|events| !events.is_empty()) {}
    }

    /// Looks whether everything is in its place, and puts it there.
    pub fn keep(&mut self) -> Result<(), InstallError> {
        if !self.bin_dir.join(NAME).is_file() {
            put_binary(&self.bin_dir)?;
            info!(directory = %self.bin_dir.display(), "the CNI plugin is put back");
        }
        // Whatever is written after this line is heard of.
        let flags = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let watched = self.inotify.add_watch(&self.conf_dir, flags);
        watched.map_err(|errno| io_error("watch", &self.conf_dir)(errno.into()))?;
        let paths = configurations(&self.conf_dir)?;
        if paths.is_empty() {
            self.state.file = None;
        }
        // Runtimes differ in whether they stop at the first that is of no use.
        let mut unusable = None;
        for path in paths {
            match self.keep_in(&path) {
                Ok(()) => break,
                Err(error) => drop(unusable.get_or_insert(error)),
            }
        }
        unusable.map_or(Ok(()), Err)
    }

    /// Has the plugin chained in this configuration.
    fn keep_in(&mut self, path: &Path) -> Result<(), InstallError> {
        // One that is written anew after a list was made of it has its place behind that.
        let anew = path.with_extension("json");
        let written = if !is_list(path) {
            Some(make_list(path, &self.entry)?)
        } else if anew.exists() && may_replace(path, [&anew, &saved(&anew)]) {
            Some(make_list(&anew, &self.entry)?)
        } else {
            chain(path, &self.entry)?.then(|| path.to_owned())
        };
        if let Some(path) = written {
            info!(file = %path.display(), "the CNI plugin is chained");
            self.state.restored += u64::from(self.state.file.is_some());
            self.state.file = Some(path);
        } else {
            self.state.file = Some(path.to_owned());
        }
        Ok(())
    }

    /// How things stand.
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// Where configurations are looked for.
    pub fn conf_dir(&self) -> &Path {
        &self.conf_dir
    }
}

/// Takes the plugin out of every configuration, and its binary away. Returns what was there.
pub fn uninstall(conf_dir: &Path, bin_dir: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let mut removed = Vec::new();
    for path in configurations(conf_dir)?.into_iter().filter(|path| is_list(path)) {
        let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
        // What is no list cannot have an entry that a runtime would read.
        let Ok(Some(list)) = conflist::remove(&text) else {
            continue;
        };
        let mut singles = SINGLE.map(|extension| path.with_extension(extension)).into_iter();
        match singles.find(|single| saved(single).exists()) {
            Some(single) if is_made_of(&list, &saved(&single)) => {
                fs::rename(saved(&single), &single).map_err(io_error("rename", &single))?;
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
            }
            Some(single) => {
                replace(&path, &text, &list)?;
                // Somebody has gone on with the list: what it was made of is of the past.
                let _ = fs::remove_file(saved(&single));
            }
            None => replace(&path, &text, &list)?,
        }
        removed.push(path);
    }
    let binary = bin_dir.join(NAME);
    match fs::remove_file(&binary) {
        Ok(()) => removed.push(binary),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &binary)(error)),
    }
    Ok(removed)
}

/// The files that a runtime reads, in its order.
fn configurations(directory: &Path) -> Result<Vec<PathBuf>, InstallError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(directory)?;
        entries.map(|entry| entry.map(|entry| entry.path())).collect()
    };
    let mut paths = list().map_err(io_error("list", directory))?;
    paths.retain(|path| {
        let extension = path.extension().and_then(OsStr::to_str);
        extension.is_some_and(|extension| READ.contains(&extension)) && path.is_file()
    });
    paths.sort();
    Ok(paths)
}

fn is_list(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "conflist")
}

/// Has the entry in a list. `false` if it was there.
fn chain(path: &Path, entry: &Value) -> Result<bool, InstallError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    match conflist::insert(&text, entry).map_err(invalid(path))? {
        Some(list) => replace(path, &text, &list).map(|()| true),
        None => Ok(false),
    }
}

/// Makes a list of the configuration of one plugin, which is kept under a name that no runtime reads.
fn make_list(path: &Path, entry: &Value) -> Result<PathBuf, InstallError> {
    let text = fs::read_to_string(path).map_err(io_error("read", path))?;
    let list = conflist::from_single(&text, entry).map_err(invalid(path))?;
    let new = path.with_extension("conflist");
    let saved = saved(path);
    if !may_replace(&new, [path, &saved]) {
        let source = io::Error::new(io::ErrorKind::AlreadyExists, "somebody else's list has this name");
        return Err(io_error("write", &new)(source));
    }
    // Both for a moment, and after an agent that is killed here: without either the node would have no network.
    write(&new, &list, Permissions::from_mode(0o644))?;
    fs::rename(path, &saved).map_err(io_error("rename", path))?;
    Ok(new)
}

/// Whether there is no such list, or one that was made of the configuration of one plugin at one of these places.
fn may_replace(list: &Path, singles: [&Path; 2]) -> bool {
    let Ok(text) = fs::read_to_string(list) else {
        return !list.exists();
    };
    let rest = conflist::remove(&text).ok().flatten();
    rest.is_some_and(|rest| singles.into_iter().any(|single| is_made_of(&rest, single)))
}

/// Whether a list without our entry is no more than the configuration of one plugin in this file.
fn is_made_of(list: &str, single: &Path) -> bool {
    fs::read_to_string(single).is_ok_and(|single| conflist::is_only(list, &single))
}

fn saved(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(SAVED);
    name.into()
}

fn invalid(path: &Path) -> impl FnOnce(Invalid) -> InstallError {
    move |source| InstallError::Conflist {
        path: path.to_owned(),
        source: Box::new(source),
    }
}

/// Writes a file anew, unless somebody else has meanwhile: of that there is notice, and another look.
fn replace(path: &Path, before: &str, text: &str) -> Result<(), InstallError> {
    // The link stays where the file is one.
    let path = fs::canonicalize(path).map_err(io_error("find", path))?;
    let permissions = fs::metadata(&path).map_err(io_error("look at", &path))?;
    let now = fs::read_to_string(&path).map_err(io_error("read", &path))?;
    if now != before {
        let source = io::Error::other("somebody else is writing it");
        return Err(io_error("write", &path)(source));
    }
    write(&path, text, permissions.permissions())
}

/// Writes a file as a whole or not at all.
fn write(path: &Path, text: &str, permissions: Permissions) -> Result<(), InstallError> {
    file::put(path, permissions, &mut text.as_bytes()).map_err(io_error("write", path))
}

/// Puts this very program among the plugins, unless it is there.
fn put_binary(directory: &Path) -> Result<(), InstallError> {
    const OWN: &str = "/proc/self/exe";
    let path = directory.join(NAME);
    let mut own = File::open(OWN).map_err(io_error("read", Path::new(OWN)))?;
    if file::is_program(&path, &own).unwrap_or(false) {
        return Ok(());
    }
    io::Seek::rewind(&mut own).map_err(io_error("read", Path::new(OWN)))?;
    file::put(&path, Permissions::from_mode(0o755), &mut own).map_err(io_error("write", &path))
}

#[cfg(test)]
mod tests;
