//! What the kernel says of what is ours.

use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Zeroable as _;
use ebpf::{
    Hook,
    event::{Outcome, counter, replay},
};
use serde::Serialize;

use super::{
    Dataplane, Error, Generation,
    banks::count_destinations,
    maps::PINNED,
    programs::{self, CGROUP_PROGRAMS, classifier},
};
use crate::facts::IfIndex;

/// Everything that was counted since the programs were first loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets and calls by hook and outcome, only those that happened.
    pub packets: Vec<(Hook, Outcome, u64)>,
    /// Events that found the ring full.
    pub lost_events: u64,
    /// Flows that found their table full of live ones.
    pub lost_flows: u64,
}

/// A program in the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProgramInfo {
    /// Its name.
    pub name: &'static str,
    /// The kernel's number for it.
    pub id: u32,
    /// Instructions that the verifier looked at; Linux 5.16 and later.
    pub verified_instructions: Option<u32>,
    /// How often it ran while the kernel counted that.
    pub runs: u64,
    /// How long that took.
    pub run_time: Duration,
    /// The devices that it is attached to.
    pub devices: Vec<IfIndex>,
    /// Whether it is attached to the cgroup.
    pub cgroup: bool,
}

/// A map in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MapInfo {
    /// Its name.
    pub name: &'static str,
    /// Entries in it, both banks together, where that is known without counting. `None`, too, for what is always full.
    pub entries: Option<usize>,
    /// How many it holds; octets for the ring of events.
    pub capacity: u32,
}

impl MapInfo {
    /// How full it is, from 0 to 1, if the entries are known.
    pub fn pressure(&self) -> Option<f64> {
        let entries = u32::try_from(self.entries?).unwrap_or(u32::MAX);
        Some(f64::from(entries) / f64::from(self.capacity.max(1)))
    }
}

impl Dataplane {
    /// Reads all counters.
    pub fn counters(&self) -> Result<Counters, Error> {
        let mut counters = Counters::default();
        for index in 0..counter::COUNT {
            // Most places stand for nothing, and each costs a system call.
            if index < counter::LOST_EVENTS && counter::meaning(index).is_none() {
                continue;
            }
            let values = self
                .reports
                .counters
                .get(&index, 0)
                .map_err(|source| Error::map("COUNTERS", source))?;
            let sum: u64 = values.iter().sum();
            match (index, counter::meaning(index)) {
                (counter::LOST_EVENTS, _) => counters.lost_events = sum,
                (counter::LOST_FLOWS, _) => counters.lost_flows = sum,
                (_, Some((hook, outcome))) if sum > 0 => counters.packets.push((hook, outcome, sum)),
                (_, Some(_) | None) => {}
            }
        }
        Ok(counters)
    }

    /// Whether events tell of what is allowed, too.
    pub fn set_observe(&mut self, observe: bool) -> Result<(), Error> {
        self.reports
            .observe
            .set(0, u32::from(observe), 0)
            .map_err(|source| Error::map("OBSERVE", source))
    }

    /// The programs that this agent has loaded.
    pub fn programs(&self) -> Result<Vec<ProgramInfo>, Error> {
        programs::all()
            .map(|name| {
                let program = self.ebpf.program(name).ok_or(Error::Missing {
                    kind: "program",
                    name,
                })?;
                let info = program.info().map_err(|source| Error::program(name, source))?;
                let on_cgroup = CGROUP_PROGRAMS.iter().any(|(program, _)| *program == name);
                Ok(ProgramInfo {
                    name,
                    id: info.id(),
                    verified_instructions: info.verified_instruction_count(),
                    runs: info.run_count(),
                    run_time: info.run_time(),
                    devices: self.attached.devices_of(name),
                    cgroup: on_cgroup && self.cgroup_root.is_some(),
                })
            })
            .collect()
    }

    /// The maps, and how full those are whose content is known here.
    pub fn maps(&self) -> Vec<MapInfo> {
        let (mut endpoints, mut hosts, mut networks, mut rules) = (0, 0, 0, 0);
        let (mut captures, mut owners, mut ranges, mut ports) = (0, 0, 0, 0);
        for held in self.banks.held() {
            let (single, others) = count_destinations(held);
            endpoints += held.endpoints.len();
            hosts += single;
            networks += others;
            rules += held.rules.len();
            captures += held.captures.len();
            owners += held.owners.len();
            ranges += held.ranges.len();
            ports += held.ports.len();
        }
        let entries = |name| match name {
            "ENDPOINTS" => Some(endpoints),
            "HOSTS" => Some(hosts),
            "NETWORKS" => Some(networks),
            "RULES" => Some(rules),
            "CAPTURES" => Some(captures),
            "OWNERS" => Some(owners),
            "RANGES" => Some(ranges),
            "PORTS" => Some(ports),
            _ => None,
        };
        PINNED
            .iter()
            .map(|layout| MapInfo {
                name: layout.name,
                entries: entries(layout.name),
                capacity: layout.capacity,
            })
            .collect()
    }

    /// Asks the live `pod_out` what becomes of a frame that comes in by a pod device, and by which generation.
    ///
    /// Nothing is counted, told or remembered. The device must be one of the network namespace that the caller is in.
    pub fn replay(&self, device: IfIndex, frame: &[u8]) -> Result<(Outcome, Generation), Error> {
        let context = SkBuff {
            mark: replay::MARK,
            ifindex: device.0,
            ..SkBuff::zeroed()
        };
        let mut answer = SkBuff::zeroed();
        let options = TestRunOptions {
            data_in: Some(frame),
            ctx_in: Some(bytemuck::bytes_of(&context)),
            ctx_out: Some(bytemuck::bytes_of_mut(&mut answer)),
            ..TestRunOptions::default()
        };
        classifier(&self.ebpf, "pod_out")?
            .test_run(options)
            .map_err(|source| Error::Replay {
                device,
                source: Box::new(source),
            })?;
        let [word, low, high, ..] = answer.cb;
        match replay::read([word, low, high]) {
            Some((outcome, generation)) => Ok((outcome, Generation(generation))),
            None => Err(Error::NoAnswer { device }),
        }
    }
}

/// `struct __sk_buff` (`include/uapi/linux/bpf.h`), and more than it has: what is behind it must be zero in a question,
/// and there must be room for all of it in an answer.
#[repr(C)]
#[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
pub(super) struct SkBuff {
    len: u32,
    pkt_type: u32,
    mark: u32,
    queue_mapping: u32,
    protocol: u32,
    vlan_present: u32,
    vlan_tci: u32,
    vlan_proto: u32,
    priority: u32,
    ingress_ifindex: u32,
    ifindex: u32,
    tc_index: u32,
    pub(super) cb: [u32; 5],
    rest: [u32; 47],
}
