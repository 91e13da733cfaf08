//! The kernel: programs, maps, links. The last step of the way, and the only one that touches it.
//!
//! Everything is pinned, so that the rules outlive the agent; see `pins` for where. [`Dataplane::open`] takes over what
//! it finds, [`detach()`] takes it away.

mod banks;
mod cgroups;
mod depth;
mod detach;
mod devices;
mod diff;
mod entries;
mod error;
mod events;
pub(crate) mod filters;
mod inspect;
mod links;
mod live;
mod maps;
mod occupancy;
mod pins;
mod programs;
pub(crate) mod qdisc;
mod succession;

use std::{collections::BTreeSet, fmt, path::PathBuf, time::Duration};

use aya::Ebpf;
use ebpf::rules::Enforcement;
use tracing::{debug, info};

pub use cgroups::ProxyCgroup;
pub use detach::detach;
pub use devices::{AttachMode, Device, Role};
pub use error::Error;
pub use events::Events;
pub use inspect::{Counters, MapInfo, ProgramInfo};
pub use live::Live;
pub use occupancy::Occupancy;

use self::{
    banks::Banks,
    devices::Hook,
    filters::Filters,
    links::{Done, Links},
    maps::{FlowMaps, Maps, ReportMaps},
    pins::Pins,
    succession::Succession,
};
use crate::{
    desired::Desired,
    facts::IfIndex,
    inpod,
    sys::bpf::{AttachType, programs_on_device},
};

/// Where things go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A directory for pins. A bpffs is mounted on it unless it lies on one.
    pub bpffs: PathBuf,
    /// The cgroup that bounds the hooks of sockets; none are attached without.
    pub cgroup_root: Option<PathBuf>,
}

impl Options {
    /// The directory of the links' pins.
    pub fn links(&self) -> PathBuf {
        Pins::new(&self.bpffs).links()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            bpffs: "/sys/fs/bpf/sluice".into(),
            cgroup_root: None,
        }
    }
}

/// Number of a complete, consistent set of rules in the kernel. 0 is none yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(pub u64);

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A change that the kernel has taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The generation that is active now.
    pub generation: Generation,
    /// How many entries were written or removed.
    pub changes: usize,
    /// How long it took until it was active.
    pub duration: Duration,
}

/// Our part of the kernel.
pub struct Dataplane {
    pins: Pins,
    ebpf: Ebpf,
    banks: Banks,
    flows: FlowMaps,
    reports: ReportMaps,
    attached: Attached,
    repairs: u64,
    cgroup_root: Option<PathBuf>,
    succession: Succession,
}

/// Programs on devices, in one of the two ways.
enum Attached {
    Tcx(Links),
    Clsact(Filters),
}

impl Dataplane {
    /// Loads the programs, or takes over from the last agent: its rules stay active, its links get the new programs
    /// without a packet in between. If that was another version's, nothing is attached before the first rules; see
    /// [`Dataplane::has_predecessor`].
    ///
    /// To be called in the node's network namespace, by one process at a time.
    pub fn open(options: &Options) -> Result<Self, Error> {
        Self::open_as(options, attach_mode())
    }

    /// The same with a say in how programs are attached to devices.
    pub fn open_as(options: &Options, mode: AttachMode) -> Result<Self, Error> {
        let Options { bpffs, cgroup_root } = options;
        let pins = Pins::new(bpffs);
        pins.prepare()?;
        let mut succession = Succession::begin(&pins)?;
        let mut ebpf = programs::open_object(&pins)?;
        for name in programs::all() {
            programs::load(&mut ebpf, name)?;
        }
        for name in programs::all() {
            programs::pin(&mut ebpf, name, &pins)?;
        }
        let Maps {
            rules,
            flows,
            reports,
        } = Maps::take(&mut ebpf)?;
        let banks = Banks::open(rules)?;
        if banks.generation() == Generation(0) {
            succession.wait_without_rules(&pins)?;
        }
        if !succession.waits() {
            cgroups::sync(&ebpf, &pins, cgroup_root.as_deref())?;
        }
        info!(bpffs = %bpffs.display(), ?mode, generation = banks.generation().0, "programs are loaded");
        let attached = match mode {
            AttachMode::Tcx => Attached::Tcx(Links::default()),
            AttachMode::Clsact => Attached::Clsact(Filters::default()),
        };
        Ok(Self {
            pins,
            ebpf,
            banks,
            flows,
            reports,
            attached,
            repairs: 0,
            cgroup_root: cgroup_root.clone(),
            succession,
        })
    }

    /// The generation that is active.
    pub fn generation(&self) -> Generation {
        self.banks.generation()
    }

    /// What the active generation does to senders of whom nothing is known; another version's, while that one judges.
    pub fn enforcement(&self) -> Enforcement {
        let judges = self.succession.enforcement();
        judges.unwrap_or_else(|| self.banks.enforcement())
    }

    /// Brings the rules to `desired` in one step. `None` if they are so already.
    ///
    /// After an error the last good generation is active as before.
    pub fn apply(&mut self, desired: &Desired) -> Result<Option<Applied>, Error> {
        self.banks.apply(desired)
    }

    /// Prepares the next change: waits until nobody reads the previous generation and brings its bank up to date.
    ///
    /// To be called after [`Dataplane::apply`] when there is nothing more urgent. It blocks for a grace period, some
    /// ten milliseconds; without it the next change takes that time.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.banks.settle()
    }

    /// The active generation, to judge packets by on the host.
    pub fn lookup(&self) -> Result<Live<'_>, Error> {
        Live::new(&self.banks.maps, &self.flows)
    }

    /// What the programs tell. To be called inside a tokio runtime, once.
    pub fn events(&self) -> Result<Events, Error> {
        Events::open(&self.pins)
    }

    /// Handles to count by, on a thread of its own, what the programs have filled maps with.
    pub fn occupancy(&self) -> Result<Occupancy, Error> {
        Occupancy::open(&self.pins)
    }

    /// How often a program had to be put back in its place.
    pub fn repairs(&self) -> u64 {
        self.repairs
    }

    /// Brings the programs onto these devices and off all others; returns what did not work.
    ///
    /// A program that was taken away or put behind another is put back. While another version's programs judge, nothing
    /// is done: without rules ours would let out what those do not.
    pub fn sync_devices(&mut self, devices: &[Device]) -> Vec<Error> {
        let mut errors = Vec::new();
        if self.succession.waits() {
            return errors;
        }
        // A link takes the kernel a grace period, so what enforces comes first on all of them.
        for place in 0..2 {
            for device in devices {
                if let Some(&hook) = device.hooks().get(place) {
                    errors.extend(self.ensure(device, hook).err());
                }
            }
        }
        let wanted: BTreeSet<(IfIndex, &str)> = devices
            .iter()
            .flat_map(|device| device.hooks().iter().map(|hook| (device.index, hook.program)))
            .collect();
        errors.extend(self.detach_others(&wanted).err());
        errors
    }

    /// Puts back programs that somebody has taken off the cgroup.
    pub fn mend_cgroup(&mut self) -> Result<(), Error> {
        let Some(root) = self.cgroup_root.as_deref().filter(|_| !self.succession.waits()) else {
            return Ok(());
        };
        self.repairs += cgroups::mend(&self.ebpf, &self.pins, root)?;
        Ok(())
    }

    /// The programs that go inside pods.
    pub fn pod_programs(&self) -> Result<inpod::Programs, Error> {
        let handle = |name| {
            let fd = programs::fd(&self.ebpf, name)?;
            fd.try_clone_to_owned()
                .map_err(|source| Error::Handle { name, source })
        };
        let [
            capture_in,
            capture_in_ip,
            capture_virtual,
            capture_virtual_ip,
            capture_lo,
        ] = programs::POD_PROGRAMS;
        Ok(inpod::Programs {
            capture_in: handle(capture_in)?,
            capture_in_ip: handle(capture_in_ip)?,
            capture_virtual: handle(capture_virtual)?,
            capture_virtual_ip: handle(capture_virtual_ip)?,
            capture_lo: handle(capture_lo)?,
        })
    }

    /// The directory of the links' pins.
    pub fn links(&self) -> PathBuf {
        self.pins.links()
    }

    /// Has the proxies' question for the original destination answered, in these cgroups and no others; returns what did
    /// not work.
    pub fn sync_proxies(&self, proxies: &BTreeSet<ProxyCgroup>) -> Vec<Error> {
        cgroups::sync_proxies(&self.ebpf, &self.pins, proxies)
    }

    /// Brings the programs onto one device, at once and whatever else is to do; returns what did not work.
    pub fn attach(&mut self, device: &Device) -> Vec<Error> {
        if self.succession.waits() {
            return Vec::new();
        }
        device
            .hooks()
            .iter()
            .filter_map(|&hook| self.ensure(device, hook).err())
            .collect()
    }

    /// Whether what a pod sends by this device is judged there.
    pub fn is_attached(&self, device: IfIndex) -> bool {
        self.attached.devices_of(devices::POD_OUT).contains(&device)
    }

    fn ensure(&mut self, device: &Device, hook: Hook) -> Result<(), Error> {
        let Self {
            pins,
            ebpf,
            attached,
            repairs,
            ..
        } = self;
        let done = match attached {
            Attached::Tcx(links) => links.ensure(ebpf, pins, device, hook),
            Attached::Clsact(filters) => filters.ensure(ebpf, pins, device, hook),
        };
        match done {
            Ok(Done::Nothing | Done::Attached) => Ok(()),
            Ok(Done::Repaired) => {
                *repairs += 1;
                Ok(())
            }
            Err(error) if is_gone(&error) => {
                debug!(device = device.name, "the device has gone");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    fn detach_others(&mut self, wanted: &BTreeSet<(IfIndex, &str)>) -> Result<(), Error> {
        // A list of devices that was read while one of them went may lack others: what is there and not in the list is
        // left as it is.
        let listed: BTreeSet<IfIndex> = wanted.iter().map(|(device, _)| *device).collect();
        let there = detach::devices();
        let unlisted = |device: IfIndex| there.contains(&device) && !listed.contains(&device);
        for name in detach::in_order(pins::names(&self.pins.links())?) {
            match pins::parse_device_link(&name) {
                Some((device, _)) if unlisted(device) => {}
                Some((device, qdisc::NOTE)) if wanted.iter().any(|(wanted, _)| *wanted == device) => {}
                Some((device, program)) if !wanted.contains(&(device, program)) => {
                    detach::take_off(&self.pins.links().join(&name), device, program)?;
                }
                Some(_) | None => {}
            }
        }
        let is_wanted =
            |device: IfIndex, program: &str| unlisted(device) || wanted.contains(&(device, program));
        match &mut self.attached {
            Attached::Tcx(links) => links.retain(is_wanted),
            Attached::Clsact(filters) => filters.retain(is_wanted),
        }
        Ok(())
    }
}

impl Attached {
    fn devices_of(&self, program: &str) -> Vec<IfIndex> {
        match self {
            Self::Tcx(links) => links.devices_of(program),
            Self::Clsact(filters) => filters.devices_of(program),
        }
    }
}

/// What this kernel offers: TCX since 6.6.
pub fn attach_mode() -> AttachMode {
    /// `lo` has this index in every network namespace.
    const LOOPBACK: u32 = 1;
    match programs_on_device(LOOPBACK, AttachType::TcxIngress) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => AttachMode::Clsact,
        Ok(_) | Err(_) => AttachMode::Tcx,
    }
}

fn is_gone(error: &Error) -> bool {
    error::raw_os_error(error) == Some(libc::ENODEV)
}
