//! The clsact qdisc that filters need: added if it is not there, removed if we added it and nobody uses it.

use std::io;

use aya::programs::tc::qdisc_add_clsact;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcHandle, TcMessage},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{Device, Error, error::raw_os_error};
use crate::facts::IfIndex;

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
        let parent = TcHandle {
            major: u16::MAX,
            minor: direction,
        };
        let question = message(device, TcHandle::UNSPEC, parent);
        match ask(RouteNetlinkMessage::GetTrafficFilter(question), NLM_F_DUMP) {
            Ok(0) => {}
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

/// Sends one message and counts the answers that are not about the conversation itself.
fn ask(question: RouteNetlinkMessage, flags: u16) -> io::Result<usize> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = NetlinkMessage::from(question);
    request.header.flags = NLM_F_REQUEST | flags;
    request.finalize();
    let mut octets = vec![0; request.buffer_len()];
    request.serialize(&mut octets);
    socket.send(&octets, 0)?;
    let mut count = 0;
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
                return Ok(count);
            }
            count += 1;
            let length = NetlinkBuffer::new_checked(rest)
                .map_err(io::Error::other)?
                .length() as usize;
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}
