//! Hearing that something in a namespace has changed, without asking for all of it.

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::Error;

/// What is told of: devices, filters, addresses, routes, rules (`enum rtnetlink_groups`).
const GROUPS: [u32; 7] = [
    libc::RTNLGRP_LINK,
    libc::RTNLGRP_TC,
    libc::RTNLGRP_IPV4_ROUTE,
    libc::RTNLGRP_IPV4_RULE,
    libc::RTNLGRP_IPV6_IFADDR,
    libc::RTNLGRP_IPV6_ROUTE,
    libc::RTNLGRP_IPV6_RULE,
];

/// A socket that the kernel tells of changes in one namespace.
///
/// It keeps the namespace alive.
#[derive(Debug)]
pub(super) struct Monitor(Socket);

impl Monitor {
    /// Opens one in the calling thread's namespace.
    pub(super) fn open() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            socket.set_non_blocking(true)?;
            Ok(socket)
        };
        open().map(Self).map_err(|source| Error::Netlink {
            what: "changes of devices, routes and rules",
            source,
        })
    }

    /// Whether something may have changed since the last call.
    pub(super) fn has_news(&self) -> bool {
        /// What has not been read by then is news for the next time.
        const AT_ONCE: usize = 1000;
        let mut news = false;
        for _ in 0..AT_ONCE {
            // What it is does not matter, so one octet of it will do. Too much to keep (`ENOBUFS`) is news as well.
            let mut octet = [0; 1];
            match self.0.recv(&mut octet.as_mut_slice(), 0) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(_) | Err(_) => news = true,
            }
        }
        news
    }
}
