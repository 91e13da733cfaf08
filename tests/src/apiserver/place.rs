//! Where a server listens.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::Arc,
};

use anyhow::{Context as _, Result};

use crate::netns::Netns;

/// An address on the loopback device of a network namespace.
#[derive(Debug)]
pub(super) struct Place {
    /// This process's own if there is none.
    netns: Option<Arc<Netns>>,
    address: SocketAddr,
}

impl Place {
    /// Listens at a port that is free, and keeps to it.
    pub(super) fn take(netns: Option<Arc<Netns>>) -> Result<(Self, TcpListener)> {
        let mut place = Self {
            netns,
            address: (Ipv4Addr::LOCALHOST, 0).into(),
        };
        let listener = place.listen()?;
        place.address = listener.local_addr()?;
        Ok((place, listener))
    }

    /// Listens.
    pub(super) fn listen(&self) -> Result<TcpListener> {
        let bind = || TcpListener::bind(self.address);
        let listener = match &self.netns {
            Some(netns) => netns.run(bind)?,
            None => bind(),
        };
        let listener = listener.with_context(|| format!("listening at {}", self.address))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}
