//! How many instructions the kernel's verifier looks at, per program and kernel, beside the numbers of the last time.
//!
//! The limit is a million; a number that grows says that a change made a program harder to prove, long before a kernel
//! refuses it. `verified-instructions.json` is kept by hand: the test prints the numbers in its form.

use std::collections::BTreeMap;

use sluice::dataplane::{Dataplane, Options, detach};
use sluice_tests::netns::Netns;

/// Numbers of another compiler differ by a few per cent.
const TOLERANCE_PERCENT: u32 = 25;

#[test]
fn programs_are_no_harder_to_prove_than_they_were() {
    let netns = Netns::create(&format!("slv{}", std::process::id())).expect("a network namespace");
    let counted = netns.run(count).expect("the namespace can be entered");
    let kernel = kernel();
    println!(
        "verified instructions, \"{kernel}\": {}",
        serde_json::to_string(&counted).expect("JSON")
    );
    let known: BTreeMap<String, BTreeMap<String, u32>> =
        serde_json::from_str(include_str!("verified-instructions.json")).expect("JSON");
    let Some(known) = known.get(&kernel) else {
        println!("nothing is known of this kernel");
        return;
    };
    for (program, count) in &counted {
        let before = known
            .get(program)
            .unwrap_or_else(|| panic!("{program} is new: write down its number"));
        let most = before + before * TOLERANCE_PERCENT / 100;
        assert!(
            *count <= most,
            "{program} on {kernel}: {count} instructions, {before} the last time"
        );
    }
}

fn count() -> BTreeMap<String, u32> {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        bpffs: dir.path().join("bpf"),
        cgroup_root: None,
    };
    let dataplane = Dataplane::open(&options).expect("programs that load");
    let programs = dataplane.programs().expect("programs");
    let counted = programs
        .into_iter()
        .map(|program| {
            (
                program.name.to_owned(),
                program.verified_instructions.expect("Linux 5.16 or later"),
            )
        })
        .collect();
    drop(dataplane);
    detach(&options).expect("nothing stays");
    counted
}

/// Major and minor version.
fn kernel() -> String {
    let name = nix::sys::utsname::uname().expect("uname");
    let release = name.release().to_string_lossy().into_owned();
    release.split('.').take(2).collect::<Vec<_>>().join(".")
}
