//! What it costs to look after many pods. Shown, not judged: machines differ.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sluice_tests::in_guest;

use crate::rig::{Pod, Rig, modes, want};

#[test]
fn a_look_at_many_pods() -> Result<()> {
    let many: u32 = if in_guest() { 10 } else { 100 };
    for &mode in modes() {
        let rig = Rig::create(mode)?;
        let pods = (0..many).map(|_| Pod::create()).collect::<Result<Vec<_>>>()?;
        let keeper = rig.keeper()?;
        let wanted: BTreeMap<_, _> = pods.iter().flat_map(Pod::alone).collect();
        let start = Instant::now();
        want(&keeper, wanted.clone())?;
        let enrolment = start.elapsed();
        let start = Instant::now();
        want(&keeper, wanted.clone())?;
        let again = start.elapsed();
        // The first looks hear of our own changes.
        thread::sleep(Duration::from_secs(2));
        let (busy, start) = (keeper.busy(), Instant::now());
        thread::sleep(Duration::from_secs(4));
        let share = keeper.busy().saturating_sub(busy).as_secs_f64() / start.elapsed().as_secs_f64();
        ensure!(keeper.repairs().total() == 0);
        drop(keeper);
        let keeper = rig.keeper()?;
        let start = Instant::now();
        want(&keeper, wanted)?;
        let adoption = start.elapsed();
        let start = Instant::now();
        want(&keeper, BTreeMap::new())?;
        let removal = start.elapsed();
        println!(
            "{mode:?}, {many} pods: put there {enrolment:?}, wanted again {again:?}, looked after with {percent:.3} % of one \
             core, taken over {adoption:?}, taken away {removal:?}",
            percent = share * 100.0,
        );
    }
    Ok(())
}
