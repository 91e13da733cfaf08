//! Taking everything out of a namespace again, by its record.

use std::{path::Path, thread};

use tracing::debug;

use super::{
    Error, clsact, devices,
    ground::{Home, Place},
    record::{Record, Records},
    routing::Piece,
    sysctls, tcx,
};
use crate::netlink::Talk;

/// What [`undo_all`] did.
#[derive(Debug, Default)]
pub struct Undone {
    /// The namespaces out of which everything was taken, as people call them.
    pub names: Vec<String>,
    /// What did not work: its record stays.
    pub errors: Vec<Error>,
}

/// Takes everything out of all namespaces that are recorded in this directory, without an agent; none may run.
///
/// To be called in the node's network namespace, before the pins of the links are removed.
pub fn undo_all(records: &Path) -> Undone {
    if !records.exists() {
        return Undone::default();
    }
    // A thread that has been elsewhere is not used again.
    let all = || -> Result<Undone, Error> {
        let home = Home::here()?;
        let records = Records::open(records)?;
        let (found, errors) = records.all();
        let names = Vec::new();
        let mut undone = Undone { names, errors };
        for record in found {
            let errors = undo(&home, &records, &record);
            if errors.is_empty() {
                undone.names.push(record.name);
            }
            undone.errors.extend(errors);
        }
        Ok(undone)
    };
    let done = thread::scope(|scope| scope.spawn(all).join());
    let panicked = |_| Err(Error::Thread(std::io::Error::other("it panicked")));
    done.unwrap_or_else(panicked).unwrap_or_else(|error| Undone {
        names: Vec::new(),
        errors: vec![error],
    })
}

/// Takes everything out of one namespace, and its record away if all of that worked.
pub(super) fn undo(home: &Home, records: &Records, record: &Record) -> Vec<Error> {
    // Links are taken off first, and wherever the namespace is: nothing is captured from then on.
    let mut errors = undo_links(record);
    match &record.netns {
        Some(netns) => match Place::open(home, netns, record.cookie) {
            Ok(place) => match place.inside(home, || undo_inside(record)) {
                Ok(more) => errors.extend(more),
                Err(error) => errors.push(error),
            },
            // With the namespace went all that was in it.
            Err(Error::Gone { .. } | Error::Another { .. }) => {
                debug!(pod = record.name, "the network namespace has gone");
            }
            Err(error) => errors.push(error),
        },
        // The node's own.
        None if record.cookie == home.cookie() => errors.extend(undo_inside(record)),
        None => debug!(cookie = record.cookie.0, "another node's network namespace"),
    }
    if errors.is_empty() {
        errors.extend(records.remove(record.cookie).err());
    }
    errors
}

fn undo_links(record: &Record) -> Vec<Error> {
    let Some(links) = &record.links else {
        return Vec::new();
    };
    match tcx::pins(links, record.cookie) {
        Ok(pins) => pins.iter().filter_map(|pin| tcx::take_off(pin).err()).collect(),
        Err(error) => vec![error],
    }
}

fn undo_inside(record: &Record) -> Vec<Error> {
    let mut errors = Vec::new();
    match Talk::open() {
        Ok(talk) => {
            if record.links.is_none() && record.netns.is_some() {
                errors.extend(undo_filters(&talk, record));
            }
            for rule in &record.virtual_rules {
                errors.extend(rule.remove(&talk).err());
            }
            // A rule before the route to which it leads.
            for &piece in Piece::all(true).iter().rev() {
                // What was not looked for was not added; what was there before stays.
                if record.pieces.get(&piece) == Some(&false) {
                    errors.extend(record.routing.remove(&talk, piece).err());
                }
            }
        }
        Err(source) => errors.push(Error::Netlink {
            what: "anything",
            source,
        }),
    }
    for (name, before) in &record.sysctls {
        let is_so = sysctls::read(name).is_ok_and(|value| value == *before);
        if !is_so {
            errors.extend(sysctls::write(name, before).err());
        }
    }
    errors
}

fn undo_filters(talk: &Talk, record: &Record) -> Vec<Error> {
    let devices = match devices::dump(talk) {
        Ok(devices) => devices,
        Err(error) => return vec![error],
    };
    let mut errors = Vec::new();
    for device in devices {
        errors.extend(clsact::take_off_others(talk, &device, None).err());
        if record.qdiscs.contains(&device.index) {
            errors.extend(clsact::remove_qdisc(talk, device.index).err());
        }
    }
    errors
}
