//! How soon a new device has its program: until then the backstop alone holds what comes out of it.

use std::{
    hint, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Agent, Bench, PATIENCE, command,
    manifest::Policy,
    newcomer,
    sys::{self, Direction},
};

#[test]
fn a_new_device_has_its_program_at_once() -> Result<()> {
    let pods = newcomer::how_many(200);
    let bench = Bench::create()?;
    bench.state().policy(&Policy::default())?;
    let _agent = Agent::start(&bench)?;
    let sandbox = bench.sandbox("pods")?;
    let inside = sandbox.name();
    let mut took = Vec::new();
    for number in 0..pods {
        let device = format!("n{number}");
        let waited = thread::scope(|scope| -> Result<Duration> {
            let watcher = scope.spawn(|| bench.node().run(|| wait_for_program(&device)));
            bench.node().run(|| {
                command::ip(&format!(
                    "link add {device} type veth peer name {device} netns {inside}\n"
                ))
            })??;
            let waited = watcher.join().ok().context("the watcher has panicked")?;
            waited?
        })?;
        took.push(waited);
        bench
            .node()
            .run(|| command::ip(&format!("link del {device}\n")))??;
    }
    took.sort();
    let part = |percent: usize| took.get(took.len() * percent / 100).or(took.last());
    println!(
        "{pods} devices; from a device's appearing to its program: p50 {:?}, p99 {:?}, longest {:?}",
        part(50),
        part(99),
        took.last()
    );
    // Of a debug build, on whatever else the machine has to do.
    ensure!(part(50) < Some(&Duration::from_millis(100)), "{took:?}");
    Ok(())
}

/// Waits for the device, and then for the program that judges what comes out of it.
fn wait_for_program(device: &str) -> Result<Duration> {
    let deadline = Instant::now() + PATIENCE;
    let index = loop {
        if let Ok(index) = sys::device_index(device) {
            break index;
        }
        ensure!(Instant::now() < deadline, "{device} does not appear");
        hint::spin_loop();
    };
    let since = Instant::now();
    while sys::bpf::tcx_programs(index, Direction::In)?.is_empty() {
        ensure!(Instant::now() < deadline, "{device} has no program");
        thread::sleep(Duration::from_micros(100));
    }
    Ok(since.elapsed())
}
