//! The clsact qdisc that filters need: added if it is not there, removed if we added it and nobody uses it.

use std::io;

use aya::programs::tc::qdisc_add_clsact;
use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};

use super::{Device, Error, error::raw_os_error};
use crate::{facts::IfIndex, netlink::Talk, sys::bpf::AttachType};

/// What notes beside the pins that the qdisc of a device is ours.
pub(super) const NOTE: &str = "clsact";

/// Adds the qdisc. `true` if it was not there.
pub(super) fn add(device: &Device) -> Result<bool, Error> {
    match qdisc_add_clsact(&device.name) {
        Ok(()) => Ok(true),
        Err(error) if raw_os_error(&error) == Some(libc::EEXIST) => Ok(false),
        Err(source) => Err(Error::Clsact {
            device: device.name.clone(),
            source: Box::new(source),
        }),
    }
}

/// Removes the qdisc unless a filter is on it. `false` if it stays or was not there.
pub(super) fn remove_if_unused(device: IfIndex) -> Result<bool, Error> {
    let fail = |source: io::Error| Error::Clsact {
        device: device.0.to_string(),
        source: Box::new(source.into()),
    };
    let talk = Talk::open().map_err(fail)?;
    remove_if_unused_by(&talk, device).map_err(fail)
}

/// The same in the network namespace of the socket.
pub(crate) fn remove_if_unused_by(talk: &Talk, device: IfIndex) -> io::Result<bool> {
    for direction in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        match filters(talk, device, direction) {
            Ok(filters) if filters.is_empty() => {}
            Ok(_) => return Ok(false),
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    match talk.ask(RouteNetlinkMessage::DelQueueDiscipline(qdisc(device)), NLM_F_ACK) {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Adds the qdisc in the network namespace of the socket. `true` if it was not there.
pub(crate) fn add_by(talk: &Talk, device: IfIndex) -> io::Result<bool> {
    let mut qdisc = qdisc(device);
    qdisc.attributes.push(TcAttribute::Kind("clsact".into()));
    let flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
    match talk.ask(RouteNetlinkMessage::NewQueueDiscipline(qdisc), flags) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

fn qdisc(device: IfIndex) -> TcMessage {
    let handle = TcHandle {
        major: u16::MAX,
        minor: 0,
    };
    message(device, handle, TcHandle::CLSACT)
}

/// What a filter runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// The kernel's number for the program.
    pub(crate) program: u32,
    /// Its name, as it was given when the filter was made.
    pub(crate) name: String,
}

/// What the filter of this priority and handle runs, if there is one.
pub(crate) fn filter(
    talk: &Talk,
    device: IfIndex,
    place: AttachType,
    priority: u16,
    handle: u32,
) -> io::Result<Option<Runs>> {
    let is_it = |filter: &TcMessage| {
        // The protocol is in the lower half.
        filter.header.info >> 16 == u32::from(priority) && u32::from(filter.header.handle) == handle
    };
    match filters(talk, device, direction(place)) {
        Ok(filters) => Ok(filters.into_iter().find(is_it).map(runs)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) const fn direction(place: AttachType) -> u16 {
    if matches!(place, AttachType::TcxIngress) {
        TcHandle::MIN_INGRESS
    } else {
        TcHandle::MIN_EGRESS
    }
}

fn runs(filter: TcMessage) -> Runs {
    let mut runs = Runs::default();
    for attribute in filter.attributes {
        let TcAttribute::Options(options) = attribute else {
            continue;
        };
        for option in options {
            if let TcOption::Bpf(TcFilterBpfOption::ProgId(program)) = option {
                runs.program = program;
            } else if let TcOption::Bpf(TcFilterBpfOption::ProgName(name)) = option {
                runs.name = name;
            }
        }
    }
    runs
}

/// All filters of one direction, and what they hang on.
fn filters(talk: &Talk, device: IfIndex, direction: u16) -> io::Result<Vec<TcMessage>> {
    let question = message(device, TcHandle::UNSPEC, parent(direction));
    let answers = talk.ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP)?;
    let filter = |answer| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = answer {
            Some(filter)
        } else {
            None
        }
    };
    Ok(answers.into_iter().filter_map(filter).collect())
}

pub(crate) const fn parent(direction: u16) -> TcHandle {
    TcHandle {
        major: u16::MAX,
        minor: direction,
    }
}

pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
    )
}

pub(crate) fn message(device: IfIndex, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = device.0.cast_signed();
    message.header.handle = handle;
    message.header.parent = parent;
    message
}
