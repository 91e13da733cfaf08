//! One at a time: downloads because they share a folder, machines because they would slow each other down and measure
//! it.

use std::fs::{self, File, TryLockError};

use anyhow::{Context as _, Result};

use crate::shell;

/// Held until it is dropped, and released by the system if we die.
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits until no other process that works on this tree holds the lock of this name.
    pub(crate) fn take(name: &str) -> Result<Self> {
        let path = shell::target("vm").join(format!("{name}.lock"));
        shell::create_parent(&path)?;
        let file = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => return Ok(Self { _file: file }),
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
        shell::step(&format!("waiting for another run that holds {}", path.display()));
        file.lock()
            .with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self { _file: file })
    }
}
