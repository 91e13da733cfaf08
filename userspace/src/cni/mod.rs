//! The CNI plugin `sluice-cni`: this binary by another name, chained behind the plugins that make a pod's network.
//!
//! A container runtime runs it before it starts anything in the pod. It tells the agent of the pod, and ends when the rules
//! know the pod and its connections go where they shall, so that nothing of the pod runs before that. It fails when the
//! agent is not there: then the runtime tries again later, and pods wait.
//!
//! What the agent depends on does not wait for it: the agent's own pod is in the node's network namespace, as those of the
//! cluster's control plane are, and for such pods no plugin is run.
//!
//! Contract: <https://www.cni.dev/docs/spec/>, versions 0.3.0 (the first with chains) to 1.1.0.

mod config;
mod conflist;
mod environment;
mod error;
mod file;
mod install;
mod outcome;
mod plugin;
mod spans;

use std::{
    env,
    ffi::OsStr,
    io::{self, Read as _, Write as _},
    path::Path,
    process::ExitCode,
};

pub use self::{
    error::Error,
    install::{InstallError, Installation, Settings, State, uninstall},
};

/// The plugin's name: of its file, and as configurations have it.
pub const NAME: &str = "sluice-cni";
/// The versions of the protocol that are spoken, oldest first.
pub const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Whether a process with this first argument was started as the plugin.
pub fn is_meant(argument: Option<&OsStr>) -> bool {
    let name = argument.and_then(|argument| Path::new(argument).file_name());
    name == Some(OsStr::new(NAME))
}

/// Does what the runtime asks by environment and standard input, and answers on standard output.
pub fn run() -> ExitCode {
    let mut input = String::new();
    let answer = io::stdin()
        .read_to_string(&mut input)
        .map_err(Error::Input)
        .and_then(|_| plugin::answer(&|name| env::var(name).ok(), &input));
    let (text, code) = match answer {
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => (error.json(&config::version(&input)), ExitCode::FAILURE),
    };
    if !text.is_empty() {
        // A runtime that does not listen any more has given up.
        let _ = writeln!(io::stdout(), "{text}");
    }
    code
}
