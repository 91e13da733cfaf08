//! One pod's namespace: what is in place there, whether it still is, and bringing it there.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use tracing::{debug, warn};

use super::{
    Error, Wanted, clsact,
    devices::{self, Device},
    ground::{Home, Place},
    monitor::Monitor,
    programs::{Loaded, Program},
    record::{Record, Records},
    repairs::{Item, Repairs},
    routing::{Piece, Routing},
    sysctls::{self, Watch},
    tcx,
    virtuals::VirtualRule,
};
use crate::{dataplane::AttachMode, facts::NetnsCookie, netlink::Talk};

/// What the keeper works with, in every namespace.
#[derive(Debug)]
pub(super) struct Tools {
    pub(super) home: Home,
    pub(super) mode: AttachMode,
    /// Where links are pinned.
    pub(super) links: PathBuf,
    pub(super) records: Records,
    pub(super) programs: [Loaded; 5],
}

/// An open namespace.
#[derive(Debug)]
pub(super) struct Namespace {
    place: Place,
    monitor: Monitor,
    watches: Vec<Watch>,
    record: Record,
    /// What is in place.
    settled: BTreeSet<Item>,
    /// Whether what an earlier agent left has been looked through.
    swept: bool,
}

/// How closely it is looked, each depth including those before: what is cheap often, what is dear seldom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Depth {
    /// Whether the kernel has told of changes.
    News,
    /// And at what it does not tell of.
    Unheard,
    /// And whether the namespace is still there.
    Path,
    /// Everything is asked for and compared.
    All,
}

/// What a look at a namespace says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Nothing has changed.
    Fine,
    /// Something has, perhaps for the worse.
    Changed,
    /// It is not there any more.
    Gone,
}

impl Namespace {
    /// Opens it. Nothing is changed yet.
    pub(super) fn open(tools: &Tools, cookie: NetnsCookie, wanted: &Wanted) -> Result<Self, Error> {
        let place = Place::open(&tools.home, &wanted.netns, cookie)?;
        let monitor = place.inside(&tools.home, Monitor::open)??;
        let mut record = match tools.records.find(cookie)? {
            Some(record) => record,
            None => tools.records.blank(cookie, &wanted.name, Routing::POD),
        };
        record.name.clone_from(&wanted.name);
        record.netns = Some(wanted.netns.clone());
        Ok(Self {
            place,
            monitor,
            watches: Vec::new(),
            record,
            settled: BTreeSet::new(),
            swept: false,
        })
    }

    /// A look that changes nothing. Leaves the thread anywhere: somebody has to go home afterwards.
    pub(super) fn look(&self, tools: &Tools, depth: Depth) -> Look {
        let news = self.monitor.has_news();
        if (news || depth >= Depth::Path) && !self.place.is_there() {
            return Look::Gone;
        }
        // Of routing, devices and filters the monitor tells; of variables and links nobody does.
        let unheard = depth >= Depth::Unheard
            && !(self.watches.iter().all(Watch::is_on)
                && (tools.mode == AttachMode::Clsact || self.programs_are_first(tools)));
        if news || unheard || depth >= Depth::All {
            Look::Changed
        } else {
            Look::Fine
        }
    }

    fn programs_are_first(&self, tools: &Tools) -> bool {
        let is_first = |item: &Item| match item {
            Item::Program(device, program) => tcx::is_first(*device, tools.program(*program)),
            Item::Piece(_) | Item::VirtualRule(_) | Item::Sysctl(_) => true,
        };
        self.place.enter().is_ok() && self.settled.iter().all(is_first)
    }

    /// Brings everything into place. What had been there and was missing is counted.
    pub(super) fn bring(&mut self, tools: &Tools, wanted: &Wanted, repairs: &mut Repairs) -> Vec<Error> {
        let entered = self.place.enter();
        let mut errors = match entered.and_then(|()| Step::open(tools, wanted)) {
            Ok(step) => self.bring_inside(&step, repairs),
            Err(error) => vec![error],
        };
        errors.extend(tools.home.go().err());
        errors
    }

    fn bring_inside(&mut self, step: &Step<'_>, repairs: &mut Repairs) -> Vec<Error> {
        let there = match self.note(step) {
            Ok(there) => there,
            // What cannot be undone is not done.
            Err(error) => return vec![error],
        };
        let mut settled = BTreeSet::new();
        let mut errors = Vec::new();
        let mut settle = |item, done: Result<bool, Error>| match done {
            Ok(changed) => {
                if changed && self.settled.contains(&item) {
                    warn!(
                        pod = step.wanted.name,
                        ?item,
                        "was changed by somebody, and mended"
                    );
                    repairs.count(&item);
                }
                settled.insert(item);
            }
            Err(error) => errors.push(error),
        };
        // The way back first: once a program is there, it is needed.
        for name in sysctls::wanted(step.ipv6) {
            settle(Item::Sysctl(name), switch_on(name));
        }
        for &piece in Piece::all(step.ipv6) {
            let item = Item::Piece(piece);
            let missing = !there.contains(&item);
            let replace = self.settled.contains(&item);
            let add = || self.record.routing.add(&step.talk, piece, replace);
            settle(item, if missing { add().map(|()| true) } else { Ok(false) });
        }
        for rule in &step.virtual_rules {
            let item = Item::VirtualRule(rule.clone());
            let missing = !there.contains(&item);
            let add = || rule.add(&step.talk);
            settle(item, if missing { add().map(|()| true) } else { Ok(false) });
        }
        for (device, program) in &step.devices {
            if let Some(program) = *program {
                let item = Item::Program(device.index, program);
                settle(item, step.attach(self.record.cookie, device, program));
            }
        }
        errors.extend(self.take_off_others(step, &settled));
        errors.extend(self.remove_other_rules(step));
        self.settled = settled;
        errors.extend(self.watch(step).err());
        errors
    }

    /// Writes down what is there before it is changed. Returns the rules and routes that are.
    fn note(&mut self, step: &Step<'_>) -> Result<BTreeSet<Item>, Error> {
        let mut record = self.record.clone();
        let there = record.routing.look(&step.talk, step.ipv6)?;
        for &piece in Piece::all(step.ipv6) {
            record
                .pieces
                .entry(piece)
                .or_insert_with(|| there.contains(&piece));
        }
        let virtuals = VirtualRule::look(&step.talk, &step.virtual_rules)?;
        let missing = step.virtual_rules.difference(&virtuals);
        record.virtual_rules.extend(missing.cloned());
        for name in sysctls::wanted(step.ipv6) {
            if !record.sysctls.contains_key(name) {
                record.sysctls.insert(name.to_owned(), sysctls::read(name)?);
            }
        }
        match step.tools.mode {
            AttachMode::Tcx => match &record.links {
                // Of another version's agent. What is there is adopted; the record follows when all has been looked through.
                Some(links) if *links != step.tools.links => {
                    tcx::move_pins(links, &step.tools.links, record.cookie)?;
                }
                Some(_) => {}
                None => record.links = Some(step.tools.links.clone()),
            },
            AttachMode::Clsact => {
                let carriers = clsact::carriers(&step.talk)?;
                let will = step.devices.iter().filter(|(_, program)| program.is_some());
                let new = will.filter(|(device, _)| !carriers.contains(&device.index));
                record.qdiscs.extend(new.map(|(device, _)| device.index));
            }
        }
        if !self.swept || record != self.record {
            step.tools.records.save(&record)?;
            self.record = record;
        }
        let pieces = there.into_iter().map(Item::Piece);
        Ok(pieces
            .chain(virtuals.into_iter().map(Item::VirtualRule))
            .collect())
    }

    /// Takes off what was there for another wish, or for an earlier agent.
    fn take_off_others(&mut self, step: &Step<'_>, settled: &BTreeSet<Item>) -> Vec<Error> {
        let mut errors = Vec::new();
        let cookie = self.record.cookie;
        let links = &step.tools.links;
        let pin = |item: &Item| match *item {
            Item::Program(device, program) => Some(tcx::pin(links, cookie, device, program)),
            Item::Piece(_) | Item::VirtualRule(_) | Item::Sysctl(_) => None,
        };
        match step.tools.mode {
            AttachMode::Clsact => {
                for (device, program) in &step.devices {
                    errors.extend(clsact::take_off_others(&step.talk, device, *program).err());
                }
            }
            AttachMode::Tcx if self.swept => {
                // Those that are wanted and could not be looked at stay as they are.
                let unwanted = self.settled.difference(settled).filter(|item| !step.wants(item));
                for pin in unwanted.filter_map(pin) {
                    errors.extend(tcx::take_off(&pin).err());
                }
            }
            AttachMode::Tcx => {
                let wanted: BTreeSet<PathBuf> = step
                    .devices
                    .iter()
                    .filter_map(|(device, program)| Some(tcx::pin(links, cookie, device.index, (*program)?)))
                    .collect();
                let before = self.record.links.iter().filter(|before| *before != links);
                for directory in before.chain([links]) {
                    errors.extend(take_off_pins(directory, cookie, &wanted));
                }
                if errors.is_empty() && self.record.links.as_ref() != Some(links) {
                    self.record.links = Some(links.clone());
                    errors.extend(step.tools.records.save(&self.record).err());
                }
            }
        }
        self.swept |= errors.is_empty();
        errors
    }

    /// Removes the rules of interfaces that are virtual no longer, once their programs are off.
    fn remove_other_rules(&mut self, step: &Step<'_>) -> Vec<Error> {
        let mut record = self.record.clone();
        let mut errors = Vec::new();
        for rule in self.record.virtual_rules.difference(&step.virtual_rules) {
            match rule.remove(&step.talk) {
                Ok(_) => drop(record.virtual_rules.remove(rule)),
                Err(error) => errors.push(error),
            }
        }
        if record != self.record {
            match step.tools.records.save(&record) {
                Ok(()) => self.record = record,
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    fn watch(&mut self, step: &Step<'_>) -> Result<(), Error> {
        if self.watches.len() == sysctls::wanted(step.ipv6).count() {
            return Ok(());
        }
        self.watches = sysctls::wanted(step.ipv6)
            .map(Watch::open)
            .collect::<Result<_, _>>()?;
        Ok(())
    }
}

/// Sets a variable. `true` if that had to be done.
fn switch_on(name: &str) -> Result<bool, Error> {
    if sysctls::read(name)? == sysctls::ON {
        return Ok(false);
    }
    sysctls::write(name, sysctls::ON).map(|()| true)
}

/// Takes off all links that are pinned for a namespace, but those.
fn take_off_pins(links: &Path, cookie: NetnsCookie, stay: &BTreeSet<PathBuf>) -> Vec<Error> {
    match tcx::pins(links, cookie) {
        Ok(pins) => {
            let others = pins.iter().filter(|pin| !stay.contains(*pin));
            others.filter_map(|pin| tcx::take_off(pin).err()).collect()
        }
        Err(error) => vec![error],
    }
}

impl Tools {
    fn program(&self, program: Program) -> &Loaded {
        let [lo, inbound, inbound_ip, virtuals, virtuals_ip] = &self.programs;
        match program {
            Program::Lo => lo,
            Program::Inbound => inbound,
            Program::InboundIp => inbound_ip,
            Program::Virtual => virtuals,
            Program::VirtualIp => virtuals_ip,
        }
    }
}

/// One time of going through a namespace: what is wanted, and what was found.
struct Step<'a> {
    tools: &'a Tools,
    wanted: &'a Wanted,
    talk: Talk,
    ipv6: bool,
    devices: Vec<(Device, Option<Program>)>,
    virtual_rules: BTreeSet<VirtualRule>,
}

impl<'a> Step<'a> {
    /// Asks in the calling thread's namespace.
    fn open(tools: &'a Tools, wanted: &'a Wanted) -> Result<Self, Error> {
        let talk = Talk::open().map_err(|source| Error::Netlink {
            what: "anything",
            source,
        })?;
        let ipv6 = sysctls::lo_has_ipv6();
        let devices: Vec<_> = devices::dump(&talk)?
            .into_iter()
            .map(|device| {
                let program = Program::wanted(wanted, &device);
                (device, program)
            })
            .collect();
        Ok(Self {
            tools,
            wanted,
            talk,
            ipv6,
            virtual_rules: VirtualRule::wanted(&devices, ipv6),
            devices,
        })
    }

    fn wants(&self, item: &Item) -> bool {
        match item {
            Item::Program(index, program) => self
                .devices
                .iter()
                .any(|(device, wanted)| device.index == *index && *wanted == Some(*program)),
            Item::VirtualRule(rule) => self.virtual_rules.contains(rule),
            Item::Piece(_) | Item::Sysctl(_) => true,
        }
    }

    fn attach(&self, cookie: NetnsCookie, device: &Device, program: Program) -> Result<bool, Error> {
        let loaded = self.tools.program(program);
        let done = match self.tools.mode {
            AttachMode::Tcx => {
                let pin = tcx::pin(&self.tools.links, cookie, device.index, program);
                tcx::ensure(&pin, device, loaded)
            }
            AttachMode::Clsact => clsact::ensure(&self.talk, device, loaded),
        };
        match done {
            // It went while we were at it.
            Err(Error::Attach { source, .. }) if source.raw_os_error() == Some(libc::ENODEV) => {
                debug!(
                    pod = self.wanted.name,
                    device = device.name,
                    "the device has gone"
                );
                Ok(false)
            }
            done => done,
        }
    }
}
