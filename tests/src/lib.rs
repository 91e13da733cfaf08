//! The test bench: a node, pods and an outside, made of network namespaces and a child cgroup, and the real agent
//! on it.
//!
//! ```text
//!  pod (eth0) ---- p0 | node | up0 ---- eth0 | outside: 203.0.113.10, 198.51.100.20, 169.254.169.254, ...
//!  pod (eth0) ---- p1 |      |
//! ```
//!
//! Everything has a name of its own and is taken down when it is dropped, so tests run side by side. Nothing is
//! attached to the machine's own network or to its root cgroup.
//!
//! A test that cannot run where it stands fails and says why.

pub mod agent;
pub mod apiserver;
pub mod bench;
pub mod capture;
pub mod cgroup;
pub mod cni;
pub mod command;
pub mod echo;
pub mod events;
pub mod example;
pub mod frame;
pub mod http;
pub mod installation;
pub mod kubelet;
pub mod manifest;
pub mod netns;
pub mod newcomer;
pub mod proxy;
pub mod rendered;
pub mod rig;
pub mod server;
pub mod sys;
pub mod wire;
pub mod ztunnel;

pub use agent::Agent;
pub use apiserver::ApiServer;
pub use bench::{Bench, Pod};
pub use capture::Capture;
pub use events::{Event, Events};
pub use frame::{Cookie, Frame};
pub use newcomer::Newcomer;
pub use proxy::Proxy;
pub use rig::Rig;
pub use wire::Wire;

use std::time::Duration;

/// How long a test waits for what must come. Generous, for virtual machines without acceleration: only a failing
/// test waits that long.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Whether this is a virtual machine that `cargo xtask test` has started: tests of generated cases make fewer there.
pub fn in_guest() -> bool {
    std::env::var_os("SLUICE_GUEST").is_some()
}
