//! The clsact qdisc that filters need: added if it is not there, removed if we added it and nobody uses it.

use std::io;

use aya::programs::tc::qdisc_add_clsact;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHandle, TcMessage, TcOption},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Device, Error, error::raw_os_error};
use crate::{facts::IfIndex, sys::bpf::AttachType};

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
    for direction in [TcHandle::MIN_INGRESS, TcHandle::MIN_EGRESS] {
        match filters(device, direction) {
            Ok(filters) if filters.is_empty() => {}
            Ok(_) => return Ok(false),
            Err(error) if is_absent(&error) => return Ok(false),
            Err(error) => return Err(fail(error)),
        }
    }
    let qdisc = message(
        device,
        TcHandle {
            major: u16::MAX,
            minor: 0,
        },
        TcHandle::CLSACT,
    );
    match ask(RouteNetlinkMessage::DelQueueDiscipline(qdisc), NLM_F_ACK) {
        Ok(_) => Ok(true),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(fail(error)),
    }
}

/// What a filter runs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Runs {
    /// The kernel's number for the program.
    pub(super) program: u32,
    /// Its name, as it was given when the filter was made.
    pub(super) name: String,
}

/// What the filter of this priority and handle runs, if there is one.
pub(super) fn filter(
    device: IfIndex,
    place: AttachType,
    priority: u16,
    handle: u32,
) -> io::Result<Option<Runs>> {
    let is_it = |filter: &TcMessage| {
        // The protocol is in the lower half.
        filter.header.info >> 16 == u32::from(priority) && u32::from(filter.header.handle) == handle
    };
    let direction = if place == AttachType::TcxIngress {
        TcHandle::MIN_INGRESS
    } else {
        TcHandle::MIN_EGRESS
    };
    match filters(device, direction) {
        Ok(filters) => Ok(filters.into_iter().find(is_it).map(runs)),
        Err(error) if is_absent(&error) => Ok(None),
        Err(error) => Err(error),
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
fn filters(device: IfIndex, direction: u16) -> io::Result<Vec<TcMessage>> {
    let parent = TcHandle {
        major: u16::MAX,
        minor: direction,
    };
    let question = message(device, TcHandle::UNSPEC, parent);
    let answers = ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP)?;
    let filter = |answer| {
        if let RouteNetlinkMessage::NewTrafficFilter(filter) = answer {
            Some(filter)
        } else {
            None
        }
    };
    Ok(answers.into_iter().filter_map(filter).collect())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ENOENT | libc::EINVAL | libc::ENODEV)
    )
}

fn message(device: IfIndex, handle: TcHandle, parent: TcHandle) -> TcMessage {
    let mut message = TcMessage::default();
    message.header.index = device.0.cast_signed();
    message.header.handle = handle;
    message.header.parent = parent;
    message
}

/// Sends one message and returns the answers that are not about the conversation itself.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<Vec<RouteNetlinkMessage>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut octets = vec![0; request.buffer_len()];
    request.serialize(&mut octets);
    socket.send(&octets, 0)?;
    let mut answers = Vec::new();
    loop {
        let (received, _) = socket.recv_from_full()?;
        let mut rest = received.as_slice();
        while !rest.is_empty() {
            let answer =
                NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
            if let NetlinkPayload::Error(error) = &answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
            if matches!(answer.payload, NetlinkPayload::Done(_) | NetlinkPayload::Error(_)) {
                return Ok(answers);
            }
            if let NetlinkPayload::InnerMessage(message) = answer.payload {
                answers.push(message);
            }
            let length = NetlinkBuffer::new_checked(rest)
                .map_err(io::Error::other)?
                .length() as usize;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
