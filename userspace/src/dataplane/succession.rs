//! Taking over from another version, older or newer: its programs go on judging by its rules until ours know theirs, and
//! then each of its hooks gets our program in place.
//!
//! A version is told by its ABI number and has a directory of its own, so upgrade and rollback are the same thing:
//!
//! 1. Tables that live connections need are pinned in our directory, too, if their layout is ours: both versions' programs
//!    work on the same ones, and it does not matter whose has seen which packet.
//! 2. Ours are loaded, onto rules of their own, and attached to nothing ([`Succession::waits`]).
//! 3. When they have their first rules, the pins of hooks move into our directory ([`Dataplane::inherit`]), and are
//!    adopted there like those of an earlier agent of our own version: the program is replaced, the link stays.
//! 4. When that has worked everywhere, the other directory goes ([`Dataplane::succeed`]).
//!
//! An agent that ends in between leaves hooks with one program or the other, each with its rules, and the next one goes on.
//!
//! Rules of our own version of which somebody has removed a map's pin are no better than another version's: our programs
//! would find the rest of them and an empty map, and wait in the same way. So do those that find hooks and no rules at all.

use std::fs;

use aya::maps::{Array, Map, MapData};
use ebpf::rules::{Bank, Enforcement, Header};
use tracing::{info, warn};

use super::{
    Dataplane, Device, Error, cgroups, detach,
    devices::Hook,
    maps::{PINNED, read_header},
    pins::{self, Pins},
    programs::CGROUP_PROGRAMS,
    qdisc,
};
use crate::sys::Shared;

/// The tables that programs fill and live connections need, and what it means to lose one. Name and layout say what is in
/// a table: when an entry comes to mean something else and keeps its size, the table gets another name.
const SHARED: [(&str, &str); 7] = [
    (
        "HALF_OPEN",
        "calls from outside that are being made have to be made again",
    ),
    (
        "ESTABLISHED",
        "what pods answer to calls from outside is dropped until they are made again",
    ),
    (
        "OURS",
        "datagrams that come in from outside count as calls until pods send some",
    ),
    ("FRAGMENTS", "packets in parts that are on their way are dropped"),
    (
        "HANDSHAKES",
        "calls that are being made to proxies are refused, and have to be made again",
    ),
    (
        "PROBES",
        "probes of the kubelet that are being made have to be made again",
    ),
    (
        "ORIGINALS",
        "connections that a proxy has not accepted yet are refused, and have to be made again",
    ),
];

/// What other versions have left here.
pub(super) struct Succession {
    /// Their directories, the newest first.
    others: Vec<Pins>,
    waits: bool,
    /// What the programs do by whose rules it is judged meanwhile.
    enforcement: Enforcement,
}

impl Succession {
    /// Looks for them, and shares their tables.
    pub(super) fn begin(pins: &Pins) -> Result<Self, Error> {
        let others = pins.others()?;
        let maimed = has_hooks(pins)? && PINNED.iter().any(|layout| !pins.map(layout.name).exists());
        // What cannot be read is enforced.
        let mut enforcement = if maimed {
            Enforcement::Enforce
        } else {
            Enforcement::Off
        };
        let mut waits = maimed;
        for other in &others {
            if has_hooks(other)? {
                waits = true;
                enforcement = enforcement.max(enforcement_of(other).unwrap_or(Enforcement::Enforce));
            }
            share_tables(pins, other)?;
        }
        Ok(Self {
            others,
            waits,
            enforcement,
        })
    }

    /// There are no rules yet: what is on hooks of ours may judge by others, of maps whose pins are lost.
    pub(super) fn wait_without_rules(&mut self, pins: &Pins) -> Result<(), Error> {
        self.waits |= has_hooks(pins)?;
        Ok(())
    }

    /// Whether programs judge whose rules are not ours: ours are not to be attached to anything before they have some.
    pub(super) const fn waits(&self) -> bool {
        self.waits
    }

    /// What the programs that judge do to senders of whom nothing is known, while their rules are not ours.
    pub(super) fn enforcement(&self) -> Option<Enforcement> {
        self.waits.then_some(self.enforcement)
    }
}

/// Whether programs of this version are on devices or cgroups of the node.
fn has_hooks(pins: &Pins) -> Result<bool, Error> {
    let links = pins::names(&pins.links())?;
    Ok(links.iter().any(|name| !pins::is_pod_link(name)))
}

fn share_tables(pins: &Pins, other: &Pins) -> Result<(), Error> {
    for (name, loss) in SHARED {
        let (theirs, ours) = (other.map(name), pins.map(name));
        if ours.exists() || !theirs.exists() {
            continue;
        }
        let layout = PINNED.iter().find(|layout| layout.name == name);
        match layout.map_or(Ok(()), |layout| layout.check(other)) {
            Ok(()) => fs::hard_link(&theirs, &ours).map_err(|source| Error::Pin { path: ours, source })?,
            Err(Error::Layout {
                path,
                field,
                found,
                wanted,
            }) => warn!(
                map = %path.display(),
                "the table of another version is not taken over: {field} is {found} and should be {wanted}; {loss}"
            ),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn enforcement_of(other: &Pins) -> Option<Enforcement> {
    for layout in PINNED
        .iter()
        .filter(|layout| ["ACTIVE", "HEADERS"].contains(&layout.name))
    {
        layout.check(other).ok()?;
    }
    let map = |name| Map::from_map_data(MapData::from_pin(other.map(name)).ok()?).ok();
    let active = Array::<_, Shared<Bank>>::try_from(map("ACTIVE")?).ok()?;
    let headers = Array::<_, Shared<Header>>::try_from(map("HEADERS")?).ok()?;
    let (_, header) = read_header(&active, &headers).ok()?;
    Some(header.enforcement())
}

impl Dataplane {
    /// Whether there is something that cannot be adopted as it is: hooks are to be taken over when there are rules.
    pub fn has_predecessor(&self) -> bool {
        self.succession.waits || !self.succession.others.is_empty()
    }

    /// Makes the hooks of other versions ours; their programs stay until [`Dataplane::succeed`]. To be called when the
    /// rules of this agent are in the kernel.
    pub fn inherit(&mut self) -> Vec<Error> {
        let moved = self
            .succession
            .others
            .iter()
            .map(|other| inherit(&self.pins, other));
        let errors: Vec<Error> = moved.filter_map(Result::err).collect();
        self.succession.waits = false;
        errors
    }

    /// Puts our programs on all hooks, and removes what is left of other versions if that has worked; returns what has
    /// not.
    ///
    /// What is in pods is theirs who put it there: while links of pods are in another version's directory, it stays.
    pub fn succeed(&mut self, devices: &[Device]) -> Vec<Error> {
        let mut errors = self.sync_devices(devices);
        errors.extend(cgroups::sync(&self.ebpf, &self.pins, self.cgroup_root.as_deref()).err());
        if !errors.is_empty() {
            return errors;
        }
        self.succession.others.retain(|other| match retire(other) {
            Ok(is_gone) => !is_gone,
            Err(error) => {
                errors.push(error);
                true
            }
        });
        errors
    }
}

/// Moves the pins of those hooks that we have a program for. Others stay, and are taken off in the end.
fn inherit(pins: &Pins, other: &Pins) -> Result<(), Error> {
    for name in pins::names(&other.links())?.iter().filter(|name| is_known(name)) {
        let to = pins.links().join(name);
        let moved = fs::rename(other.links().join(name), &to);
        moved.map_err(|source| Error::Pin { path: to, source })?;
    }
    Ok(())
}

fn is_known(name: &str) -> bool {
    if let Some((_, hook)) = pins::parse_device_link(name) {
        return Hook::of(hook).is_some() || hook == qdisc::NOTE;
    }
    let on_cgroup = pins::parse_cgroup_link(name);
    let is_hook = on_cgroup.is_some_and(|hook| CGROUP_PROGRAMS.iter().any(|(known, _)| *known == hook));
    is_hook || pins::parse_proxy_link(name).is_some()
}

/// Removes a directory of another version, and takes off what is pinned there. `false` if it is still needed.
fn retire(other: &Pins) -> Result<bool, Error> {
    if pins::names(&other.links())?
        .iter()
        .any(|name| pins::is_pod_link(name))
    {
        return Ok(false);
    }
    let removed = detach::detach_version(other)?;
    info!(path = %other.version().display(), pins = removed.len(), "another version's programs are replaced");
    Ok(true)
}
