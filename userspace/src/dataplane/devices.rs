//! Which program belongs on which device.

use crate::{facts::IfIndex, sys::bpf::AttachType};

/// A device of the node, as far as programs are concerned.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Device {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// What it is to us.
    pub role: Role,
    /// Whether its frames begin with an Ethernet header (`ARPHRD_ETHER`, `ARPHRD_LOOPBACK`), or with the IP header.
    pub ethernet: bool,
}

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The host side of a pod's device.
    Pod,
    /// A device through which packets may leave the node.
    Uplink,
    /// A device between pods and uplinks, such as a bridge: what comes in by it is no call from outside.
    Passage,
}

/// How programs are attached to devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// Links, first in order; Linux 6.6 and later.
    Tcx,
    /// Filters of a clsact qdisc.
    Clsact,
}

/// A program and the direction in which it sees a device's packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hook {
    pub(super) program: &'static str,
    pub(super) place: AttachType,
}

impl Hook {
    const fn ingress(program: &'static str) -> Self {
        Self {
            program,
            place: AttachType::TcxIngress,
        }
    }

    const fn egress(program: &'static str) -> Self {
        Self {
            program,
            place: AttachType::TcxEgress,
        }
    }

    /// The hook that a program of ours has, whatever the device.
    pub(super) fn of(program: &str) -> Option<Self> {
        [POD, UPLINK, UPLINK_IP]
            .into_iter()
            .flatten()
            .find(|hook| hook.program == program)
    }
}

/// The program that judges what a pod sends.
pub(super) const POD_OUT: &str = "pod_out";
// What enforces comes first.
static POD: [Hook; 2] = [Hook::ingress(POD_OUT), Hook::egress("pod_in")];
static UPLINK: [Hook; 2] = [Hook::egress("node_out"), Hook::ingress("node_in")];
static UPLINK_IP: [Hook; 2] = [Hook::egress("node_out_ip"), Hook::ingress("node_in_ip")];

impl Device {
    pub(super) fn hooks(&self) -> &'static [Hook] {
        match (self.role, self.ethernet) {
            // A pod's device without link headers would not be understood; it drops everything, which is safe.
            (Role::Pod, _) => &POD,
            (Role::Uplink, true) => &UPLINK,
            (Role::Uplink, false) => &UPLINK_IP,
            (Role::Passage, true) => &UPLINK[..1],
            (Role::Passage, false) => &UPLINK_IP[..1],
        }
    }
}
