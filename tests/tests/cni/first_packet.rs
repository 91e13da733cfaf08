//! Many pods whose first act is a packet, each held by the plugin until it may send.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    thread,
};

use anyhow::{Result, anyhow, ensure};
use sluice_tests::{
    Newcomer,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    newcomer,
};

use crate::common::{PERMITTED, Stand, manifest};

/// How many start at the same time.
const TOGETHER: usize = 5;

/// Every other one is silent until it is admitted, as what runs in a pod cannot run before; then its very first packet is one
/// that is permitted, and arrives. The others send where they may not from the moment at which there is a way, while the
/// plugin still waits.
#[test]
fn nothing_leaks_and_nothing_permitted_is_lost() -> Result<()> {
    let pods = newcomer::how_many(100);
    let stand = Stand::start("1.0.0", "ptp")?;
    let (next, attempts) = (AtomicUsize::new(0), AtomicU64::new(0));
    let work = || -> Result<()> {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= pods {
                return Ok(());
            }
            let name = format!("pod-{index}");
            stand.bench.state().write(&name, &manifest(&name, &name))?;
            let sandbox = stand.sandbox(&name, &name)?;
            let begin = || Newcomer::start(&sandbox.netns, &UNREGISTERED.map(ip));
            let early = (index % 2 == 1).then(begin).transpose()?;
            let result = stand.runtime.add(&sandbox)??;
            let newcomer = if let Some(newcomer) = early {
                newcomer
            } else {
                for to in REGISTERED {
                    stand.arrives(&sandbox, to, PERMITTED)?;
                }
                begin()?
            };
            newcomer.wait_for(10)?;
            attempts.fetch_add(newcomer.end()?, Ordering::Relaxed);
            stand.runtime.del(&sandbox, &result)??;
            stand.bench.state().remove(&name)?;
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..TOGETHER).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow!("a worker has panicked"))?)
    })?;
    stand.bench.flush(&stand.outside)?;
    let leaked = newcomer::leaked(&stand.outside);
    let attempts = attempts.into_inner();
    eprintln!("with the plugin: {pods} pods, {attempts} packets sent where none may, {leaked} outside");
    ensure!(leaked == 0, "{leaked} packets have left the cluster");
    Ok(())
}
