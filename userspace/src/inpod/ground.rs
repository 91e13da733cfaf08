//! Where the keeper stands, and how it goes into a namespace and comes back.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use super::Error;
use crate::{facts::NetnsCookie, sys};

/// The namespace of the agent, to which a thread returns.
#[derive(Debug)]
pub(super) struct Home {
    file: File,
    cookie: NetnsCookie,
}

impl Home {
    /// The calling thread's namespace.
    pub(super) fn here() -> Result<Self, Error> {
        Ok(Self {
            file: File::open("/proc/thread-self/ns/net").map_err(Error::Home)?,
            cookie: sys::cookie().map_err(Error::Home)?,
        })
    }

    pub(super) const fn cookie(&self) -> NetnsCookie {
        self.cookie
    }

    /// Returns there.
    pub(super) fn go(&self) -> Result<(), Error> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Home(errno.into()))
    }
}

/// An open namespace that is not the agent's own.
#[derive(Debug)]
pub(super) struct Place {
    path: PathBuf,
    file: File,
    /// Device and inode: what the path has to lead to.
    identity: (u64, u64),
}

impl Place {
    /// Opens the namespace at `path`, which has to be the one with this cookie. The calling thread is at home before and
    /// after.
    pub(super) fn open(home: &Home, path: &Path, cookie: NetnsCookie) -> Result<Self, Error> {
        let opened = OpenOptions::new()
            .read(true)
            // A path that leads to a pipe must not hold us up.
            .custom_flags(libc::O_NONBLOCK)
            .open(path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if is_gone(&error) => {
                return Err(Error::Gone {
                    path: path.to_owned(),
                });
            }
            Err(source) => return Err(enter_error(path, source)),
        };
        // A file that a namespace was mounted on.
        if fstatfs(&file).is_ok_and(|stat| stat.filesystem_type() != NSFS_MAGIC) {
            return Err(Error::Gone {
                path: path.to_owned(),
            });
        }
        let place = Self {
            path: path.to_owned(),
            identity: identity(&file.metadata().map_err(|source| enter_error(path, source))?),
            file,
        };
        let found = place
            .inside(home, sys::cookie)?
            .map_err(|source| enter_error(path, source))?;
        if found == home.cookie {
            return Err(Error::Own {
                path: path.to_owned(),
            });
        }
        if found != cookie {
            return Err(Error::Another {
                path: path.to_owned(),
                found,
                wanted: cookie,
            });
        }
        Ok(place)
    }

    /// Whether the path still leads here.
    pub(super) fn is_there(&self) -> bool {
        fs::metadata(&self.path).is_ok_and(|metadata| identity(&metadata) == self.identity)
    }

    /// Goes there. Somebody has to go home again.
    pub(super) fn enter(&self) -> Result<(), Error> {
        setns(&self.file, CloneFlags::CLONE_NEWNET).map_err(|errno| enter_error(&self.path, errno.into()))
    }

    /// Calls `f` there.
    pub(super) fn inside<T>(&self, home: &Home, f: impl FnOnce() -> T) -> Result<T, Error> {
        self.enter()?;
        let result = f();
        home.go()?;
        Ok(result)
    }
}

/// The file of a process that has ended says `ESRCH`.
fn is_gone(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::ENOTDIR | libc::ESRCH)
    )
}

fn identity(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn enter_error(path: &Path, source: io::Error) -> Error {
    Error::Enter {
        path: path.to_owned(),
        source,
    }
}
