//! One agent per node.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

use crate::sys;

/// Why this agent may not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another one does.
    #[error(
        "another agent holds {path}: {holder} (end it first, or give this one a --run-dir of its own for another node)"
    )]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who.
        holder: String,
    },
    /// It was taken last in another network namespace: on another node.
    #[error(
        "{path} belongs to an agent in another network namespace; do this in that one (nsenter --net=…), or name \
         another --run-dir"
    )]
    OtherNode {
        /// The note of the namespace.
        path: PathBuf,
    },
    /// The lock cannot be had.
    #[error("cannot lock {path}: {source} (the run directory has to be writable; agents run as root)")]
    Io {
        /// The lock.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The lock of a run directory. It ends with the process, however that ends.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: Flock<File>,
}

/// Makes the run directory, for root alone, and locks it. A run directory belongs to one node for as long as something
/// of an agent is left in the kernel.
pub(crate) fn acquire(run_dir: &Path, node: &str) -> Result<Lock, Error> {
    let path = run_dir.join("lock");
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run_dir)
        .map_err(io)?;
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut file) => {
            file.set_len(0).map_err(io)?;
            file.rewind().map_err(io)?;
            write!(file, "process {} for node {node}", std::process::id()).map_err(io)?;
            check_node(run_dir)?;
            Ok(Lock { _file: file })
        }
        Err((mut file, nix::errno::Errno::EWOULDBLOCK)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder).map_err(io)?;
            Err(Error::Held { path, holder })
        }
        Err((_, errno)) => Err(io(errno.into())),
    }
}

/// Name of the note that says in which network namespace the agent ran.
const NETNS: &str = "netns";

fn check_node(run_dir: &Path) -> Result<(), Error> {
    let path = run_dir.join(NETNS);
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    let own = sys::cookie().map_err(io)?.0.to_string();
    match fs::read_to_string(&path) {
        Ok(noted) if noted != own => Err(Error::OtherNode { path }),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => fs::write(&path, own).map_err(io),
        Err(error) => Err(io(error)),
    }
}

/// Gives the run directory up, once nothing of an agent is left in the kernel.
pub(crate) fn release(run_dir: &Path) -> io::Result<()> {
    fs::remove_file(run_dir.join(NETNS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = acquire(dir.path(), "a").expect("the lock");
        let error = acquire(dir.path(), "b").expect_err("held");
        let expected = format!("process {} for node a", std::process::id());
        assert!(error.to_string().contains(&expected), "{error}");
        drop(lock);
        acquire(dir.path(), "b").expect("free again");
    }
}
