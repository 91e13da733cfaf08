//! Talking with the kernel about devices, routes, rules and filters: one question at a time, and waiting for the answer.
//!
//! For threads that enter network namespaces; on the node itself `rtnetlink` does it without waiting.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// A socket of the network namespace in which it was opened, wherever its thread goes afterwards.
#[derive(Debug)]
pub(crate) struct Talk(Socket);

impl Talk {
    /// Opens one in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Lets the kernel look for what a dump asks for, and not only pass on everything (Linux 4.20).
        socket.set_netlink_get_strict_chk(true)?;
        Ok(Self(socket))
    }

    /// Sends one message and returns the answers that are not about the conversation itself.
    ///
    /// After an error the rest of an answer may still be waiting: nothing more should be asked by this socket.
    pub(crate) fn ask(
        &self,
        question: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut request = NetlinkMessage::from(question);
        request.header.flags = NLM_F_REQUEST | flags;
        request.finalize();
        let mut octets = vec![0; request.buffer_len()];
        request.serialize(&mut octets);
        self.0.send(&octets, 0)?;
        let mut answers = Vec::new();
        loop {
            let (received, _) = self.0.recv_from_full()?;
            let mut rest = received.as_slice();
            while !rest.is_empty() {
                let answer =
                    NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest).map_err(io::Error::other)?;
                if let NetlinkPayload::Error(error) = &answer.payload
                    && error.code.is_some()
                {
                    return Err(error.to_io());
                }
                // A dump that fails says so at its end.
                if let NetlinkPayload::Done(done) = &answer.payload
                    && done.code < 0
                {
                    return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
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
}
