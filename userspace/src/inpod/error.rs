//! What can go wrong inside a pod, and why it probably did.

use std::{io, path::PathBuf};

use crate::facts::{IfIndex, NetnsCookie};

/// Why a namespace is not as it should be.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The namespace cannot be opened or entered.
    #[error("{path}: {source} (is it a network namespace? entering it needs CAP_SYS_ADMIN)", path = path.display())]
    Enter {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Nothing is there any more.
    #[error("{path}: there is no network namespace (any more)", path = path.display())]
    Gone {
        /// Where it was.
        path: PathBuf,
    },
    /// Another namespace is there by now.
    #[error("{path} is network namespace {found} and should be {wanted}: was the pod made anew?", path = path.display(), found = found.0, wanted = wanted.0)]
    Another {
        /// Where.
        path: PathBuf,
        /// What is there.
        found: NetnsCookie,
        /// What should be.
        wanted: NetnsCookie,
    },
    /// The agent's own namespace: what goes into a pod would cut the node off.
    #[error("{path} is the agent's own network namespace: nothing of a pod goes there (is it a pod with hostNetwork?)", path = path.display())]
    Own {
        /// The path.
        path: PathBuf,
    },
    /// The agent's own namespace cannot be told or returned to.
    #[error("/proc/thread-self/ns/net: {0} (is /proc mounted here?)")]
    Home(#[source] io::Error),
    /// Netlink.
    #[error("cannot ask for {what}: {source} (is this kernel older than 5.10?)")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A rule or a route.
    #[error("{command}: {source} ({hint})")]
    Routing {
        /// What somebody would type for it.
        command: String,
        /// What the kernel said.
        source: io::Error,
        /// The likely cause.
        hint: &'static str,
    },
    /// A variable of `/proc/sys`.
    #[error("{path}: {source} ({hint})", path = path.display())]
    Sysctl {
        /// Its file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// The likely cause.
        hint: &'static str,
    },
    /// A program cannot be put on a device.
    #[error("{program} on {device} (index {index}): {source} ({hint})", index = index.0)]
    Attach {
        /// The program.
        program: &'static str,
        /// The device's name.
        device: String,
        /// The device's index.
        index: IfIndex,
        /// What the kernel said.
        source: io::Error,
        /// The likely cause.
        hint: &'static str,
    },
    /// A program that was handed over.
    #[error("program {program}: {source} (was it unloaded?)")]
    Program {
        /// The program.
        program: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pin.
    #[error("{path}: {source} (does it lie on a bpffs that may be written to?)", path = path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A note of what was there before.
    #[error("{path}: {source} (it says what to restore in a pod; if it is damaged, remove it)", path = path.display())]
    Record {
        /// The note.
        path: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// The keeper's thread.
    #[error(
        "the keeper of the pods' namespaces cannot run: {0} (has the process reached its limit of threads?)"
    )]
    Thread(#[source] io::Error),
}
