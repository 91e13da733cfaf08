//! A cable between two devices without link headers: packets are carried from one to the other by threads.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context as _, Result};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{netns::Netns, sys};

/// Two new devices and what is between them, until it is dropped.
#[derive(Debug)]
pub struct Wire {
    ends: Arc<AtomicBool>,
}

impl Wire {
    /// Makes a device of this name in each of the two namespaces.
    pub fn lay(sides: [(&Netns, &str); 2]) -> Result<Self> {
        let open = |(netns, device): (&Netns, &str)| {
            netns
                .run(|| sys::tun(device))?
                .with_context(|| format!("making the tun device {device}"))
        };
        let [left, right] = sides;
        let (left, right) = (open(left)?, open(right)?);
        let ends = Arc::new(AtomicBool::new(false));
        for (from, to) in [(left.try_clone()?, right.try_clone()?), (right, left)] {
            let ends = Arc::clone(&ends);
            // A device that has gone, with its namespace, ends it as well.
            thread::spawn(move || carry(from, to, &ends));
        }
        Ok(Self { ends })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn carry(mut from: File, mut to: File, ends: &AtomicBool) -> io::Result<()> {
    /// Longer than any packet.
    const LONGEST: usize = 1 << 16;
    let mut packet = vec![0; LONGEST];
    while !ends.load(Ordering::Relaxed) {
        let mut waits = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waits, PollTimeout::from(50_u8))? > 0 {
            let length = from.read(&mut packet)?;
            // Refused while the other device is down, as a cable would.
            let _ = to.write(packet.get(..length).unwrap_or_default());
        }
    }
    Ok(())
}
