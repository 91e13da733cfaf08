//! One agent per node.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use nix::fcntl::{Flock, FlockArg};

/// Why this agent may not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Another one does.
    #[error("another agent holds {path}: {holder} (end it first, or give this one a --run-dir of its own for another node)")]
    Held {
        /// The lock.
        path: PathBuf,
        /// Who.
        holder: String,
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

/// Makes the run directory, for root alone, and locks it.
pub(crate) fn acquire(run_dir: &Path, node: &str) -> Result<Lock, Error> {
    let path = run_dir.join("lock");
    let io = |source| Error::Io { path: path.clone(), source };
    fs::DirBuilder::new().recursive(true).mode(0o700).create(run_dir).map_err(io)?;
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
