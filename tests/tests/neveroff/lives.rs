//! What becomes of an agent.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use aya::maps::{Array, MapData};
use ebpf::rules::ABI;
use nix::{
    sys::time::TimeSpec,
    time::{ClockId, clock_gettime, clock_settime},
};
use sluice_tests::{
    Agent, PATIENCE, in_guest,
    sys::bpf::{PinnedLink, pinned_link},
};

use crate::{
    load::under_load,
    stand::{Stand, is_back, rename, version},
};

/// For how long there is no agent.
const ABSENCE: Duration = Duration::from_millis(300);

/// An end of the agent, and what happens before the next one starts.
struct Life {
    name: &'static str,
    end: fn(&mut Agent) -> Result<()>,
    /// For how long there is none.
    absence: Duration,
    /// The ABI number that it turns out to have had.
    abi: u32,
}

const LIVES: [Life; 5] = [
    Life {
        name: "SIGTERM",
        end: Agent::terminate,
        absence: ABSENCE,
        abi: ABI,
    },
    Life {
        name: "SIGKILL",
        end: Agent::kill,
        absence: ABSENCE,
        abi: ABI,
    },
    Life {
        name: "an upgrade with the same ABI",
        end: Agent::terminate,
        absence: Duration::ZERO,
        abi: ABI,
    },
    Life {
        name: "an upgrade from another ABI",
        end: Agent::terminate,
        absence: Duration::ZERO,
        abi: ABI - 1,
    },
    Life {
        name: "a rollback from another ABI",
        end: Agent::terminate,
        absence: Duration::ZERO,
        abi: ABI + 1,
    },
];

#[test]
fn no_connection_fails_and_nothing_gets_out_whatever_becomes_of_the_agent() -> Result<()> {
    let mut stand = Stand::start()?;
    let mut before = links(&stand.agent)?;
    for Life {
        name,
        end,
        absence,
        abi,
    } in LIVES
    {
        let Stand { agent, places } = &mut stand;
        let report = under_load(name, places, || {
            end(agent)?;
            thread::sleep(absence);
            if abi != ABI {
                rename(agent, abi)?;
            }
            agent.spawn()?;
            is_back(agent)
        })?;
        report.is_flawless().context(name)?;
        let goes_on = places.inbound_goes_on();
        goes_on.with_context(|| format!("a call from outside, after {name}"))?;
        let after = links(agent)?;
        are_replaced_in_place(&before, &after).context(name)?;
        is_alone(agent).context(name)?;
        before = after;
    }
    Ok(())
}

/// The clock of a virtual machine: this machine's own is not for tests.
#[test]
fn a_clock_that_jumps() -> Result<()> {
    const DAY: i64 = 24 * 60 * 60;
    if !in_guest() {
        println!("the clock of this machine is not moved");
        return Ok(());
    }
    let mut stand = Stand::start()?;
    let Stand { agent, places } = &mut stand;
    let report = under_load("a clock that jumps", places, || {
        for seconds in [DAY, -400 * DAY, 399 * DAY] {
            let now = clock_gettime(ClockId::CLOCK_REALTIME)?;
            clock_settime(ClockId::CLOCK_REALTIME, now + TimeSpec::new(seconds, 0))?;
            is_back(agent)?;
        }
        agent.terminate()?;
        agent.spawn()?;
        is_back(agent)
    })?;
    report.is_flawless()
}

/// A table that the next version has in another shape cannot be taken over. That is said, what it was about begins anew,
/// and nothing gets out for it.
#[test]
fn a_table_of_another_layout_is_begun_anew() -> Result<()> {
    let mut stand = Stand::start()?;
    let Stand { agent, places } = &mut stand;
    places.inbound_goes_on().context("a call from outside")?;
    let report = under_load("another layout", places, || {
        agent.terminate()?;
        rename(agent, ABI - 1)?;
        for table in ["ESTABLISHED", "HALF_OPEN"] {
            let pin = version(agent, ABI - 1).join("maps").join(table);
            fs::remove_file(&pin)?;
            Array::<MapData, u32>::create(7, 0)?.pin(&pin)?;
        }
        agent.spawn()?;
        is_back(agent)
    })?;
    report.is_flawless()?;
    is_alone(agent)?;
    let log = fs::read_to_string(agent.log())?;
    for said in [
        "maps/ESTABLISHED",
        "what pods answer to calls from outside is dropped",
    ] {
        ensure!(log.contains(said), "the log does not say {said:?}");
    }
    let Err(error) = places.inbound_goes_on() else {
        bail!("an answer was let out for the sake of a call that nobody remembers");
    };
    ensure!(error.raw_os_error() == Some(libc::EAGAIN), "{error}");
    Ok(())
}

/// The links of all hooks, by the names of their pins: those of the cgroup and the proxy, and where devices have links and
/// not filters (Linux 6.6), those of devices and of the pod.
fn links(agent: &Agent) -> Result<BTreeMap<String, PinnedLink>> {
    let directory = version(agent, ABI).join("links");
    let mut links = BTreeMap::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let link = pinned_link(&entry.path()).with_context(|| name.clone())?;
            links.insert(name, link);
        }
    }
    ensure!(links.len() > 10, "hardly anything is attached: {links:#?}");
    Ok(links)
}

/// Every link is the one that was there, and runs another program.
fn are_replaced_in_place(
    before: &BTreeMap<String, PinnedLink>,
    after: &BTreeMap<String, PinnedLink>,
) -> Result<()> {
    ensure!(
        before.keys().eq(after.keys()),
        "there were {:#?}, and there are {:#?}",
        before.keys(),
        after.keys()
    );
    for ((name, before), after) in before.iter().zip(after.values()) {
        ensure!(
            before.link == after.link,
            "{name} is another link: {before:?}, {after:?}"
        );
        ensure!(
            before.program != after.program,
            "{name} runs the old program: {after:?}"
        );
    }
    Ok(())
}

/// Nothing of another version is left.
fn is_alone(agent: &Agent) -> Result<()> {
    let names =
        fs::read_dir(agent.bpffs())?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    let mut names = names.collect::<Result<Vec<_>>>()?;
    names.retain(|name| name.starts_with('v'));
    ensure!(names == [format!("v{ABI}")], "{names:?}");
    Ok(())
}

/// Somebody has removed the pin of a map. What is left of the rules is not taken for rules, though new ones do not come for
/// a while.
#[test]
fn a_pin_that_is_lost() -> Result<()> {
    let mut stand = Stand::start()?;
    let Stand { agent, places } = &mut stand;
    // No kernel differs in the second, and an emulated machine takes long.
    let maps: &[&str] = if in_guest() {
        &["HEADERS"]
    } else {
        &["HEADERS", "RULES"]
    };
    for &map in maps {
        let state = places.bench.state();
        let report = under_load(map, places, || {
            agent.terminate()?;
            fs::remove_file(version(agent, ABI).join("maps").join(map))?;
            state.write("unreadable", "{")?;
            let starts = loads(agent)?;
            agent.spawn()?;
            let deadline = Instant::now() + 12 * PATIENCE;
            while loads(agent)? == starts {
                ensure!(Instant::now() < deadline, "the programs are not loaded");
                thread::sleep(Duration::from_millis(20));
            }
            thread::sleep(ABSENCE);
            state.remove("unreadable")?;
            is_back(agent)
        })?;
        report.is_flawless().context(map)?;
    }
    Ok(())
}

/// How often programs were loaded, by the log.
fn loads(agent: &Agent) -> Result<usize> {
    Ok(fs::read_to_string(agent.log())?
        .matches("programs are loaded")
        .count())
}
