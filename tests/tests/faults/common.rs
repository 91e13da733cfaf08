//! What several tests need.

use std::{
    net::IpAddr,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    PATIENCE, Rig,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
};

/// Addresses of both families.
pub(crate) fn both(addresses: [&str; 2]) -> [IpAddr; 2] {
    addresses.map(ip)
}

/// What shall not get out does not, and what may does: the rules that were there are there.
pub(crate) fn still_holds(rig: &Rig) -> Result<()> {
    for dst in both(REGISTERED) {
        let frame = rig.gateway.sender().syn(dst, 443);
        rig.gateway.send(&frame)?;
        let arrived = rig.outside.wait_for_cookie(frame.cookie());
        arrived.context("the gateway is cut off")?;
    }
    for dst in both(UNREGISTERED) {
        let frame = rig.client.sender().udp(dst, 53);
        rig.client.send(&frame)?;
        rig.did_not_arrive(frame.cookie())?;
    }
    Ok(())
}

/// The agent cannot run, and says all of this.
pub(crate) fn says(output: &Output, words: &[&str]) -> Result<()> {
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(!output.status.success(), "the agent ran:\n{error}");
    for word in words {
        ensure!(error.contains(word), "it does not say {word:?}: {error}");
    }
    Ok(())
}

/// Waits until it is so.
pub(crate) fn wait_until(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<()> {
    // The agent looks at what nobody tells it of every 15 seconds.
    let deadline = Instant::now() + PATIENCE + PATIENCE;
    while !so()? {
        if Instant::now() > deadline {
            bail!("{what} did not happen");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
