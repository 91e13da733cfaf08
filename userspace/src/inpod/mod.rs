//! The pod's side: what the agent puts inside a pod's network namespace, keeps there, and takes away.
//!
//! ```text
//! eth0, ...   ingress  capture_in       what comes to the pod goes to the proxy
//! lo          egress   capture_lo       marks what the proxy sends in somebody else's name
//! virt0, ...  ingress  capture_virtual  what comes out of a virtual machine goes to the proxy
//! ip rule     fwmark 0x111/0xfff pref 32764 lookup 100       the answers find their way back to the proxy:
//! ip route    local default dev lo table 100                 for both families, unless lo has no IPv6
//! ip rule     iif virt0 fwmark 0x112/0xfff pref 32763 lookup 100   the same for virtual machines' packets
//! sysctls     net.ipv4.tcp_fwmark_accept, net.ipv4.fwmark_reflect, net.ipv6.fwmark_reflect
//! ```
//!
//! On devices without Ethernet headers, as tunnels are, the programs are `capture_in_ip` and `capture_virtual_ip`.
//!
//! One thread, the [`Keeper`], goes through the namespaces, again and again, and mends within a second what has changed. What was there
//! before is written down first, so that removal, by whichever process, leaves everything as it was.

mod clsact;
mod devices;
mod error;
mod ground;
mod keeper;
mod monitor;
mod namespace;
mod node;
mod programs;
mod record;
mod repairs;
mod routing;
mod rule;
mod slot;
mod sysctls;
mod tcx;
mod undo;
mod virtuals;

use std::{
    collections::BTreeSet,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

pub use self::{
    error::Error,
    keeper::{Keeper, Outcome},
    node::{node_problems, put_node_routing, take_node_routing},
    repairs::Repairs,
    routing::Routing,
    undo::{Undone, undo_all},
};

/// What is to be in a namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What people call it: the pod, or the path.
    pub name: String,
    /// A file that stands for the namespace.
    pub netns: PathBuf,
    /// Whether `capture_in` goes on every device but `lo`, those excluded and the virtual ones.
    pub inbound: bool,
    /// Devices of virtual machines and the like: they get `capture_virtual`.
    pub virtual_interfaces: BTreeSet<String>,
    /// Devices that get no program.
    pub excluded_interfaces: BTreeSet<String>,
}

/// The programs of traffic control that go into pods, loaded.
#[derive(Debug)]
pub struct Programs {
    /// At the ingress of the pod's own devices.
    pub capture_in: OwnedFd,
    /// The same without Ethernet headers.
    pub capture_in_ip: OwnedFd,
    /// At the ingress of its virtual interfaces.
    pub capture_virtual: OwnedFd,
    /// The same without Ethernet headers.
    pub capture_virtual_ip: OwnedFd,
    /// At the egress of `lo`.
    pub capture_lo: OwnedFd,
}

/// Where records are kept, of an agent with this run directory.
pub fn records(run_dir: &Path) -> PathBuf {
    run_dir.join("pods")
}
