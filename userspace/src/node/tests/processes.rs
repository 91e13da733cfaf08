use std::{fs, process};

use rstest::rstest;

use super::*;

#[rstest]
#[case(
    "12 (sh) S 1 12 12 0 -1 4194560 95 0 0 0 0 0 0 0 20 0 1 0 4242 2560000 200",
    Some(4242)
)]
#[case(
    "12 (a) b) R 9 (9) S 1 12 12 0 -1 4194560 95 0 0 0 0 0 0 0 20 0 1 0 4242 2560000 200",
    Some(4242)
)]
#[case("12 (sh) S 1 12", None)]
#[case("", None)]
fn a_process_does_not_choose_when_it_was_started(#[case] stat: &str, #[case] expected: Option<u64>) {
    assert_eq!(started(stat), expected);
}

#[test]
fn this_process_runs_and_a_later_one_with_its_number_is_another() {
    let proc = Path::new("/proc");
    let stat = fs::read_to_string("/proc/self/stat").expect("this process");
    let started = started(&stat).expect("when it was started");
    let this = Process {
        started,
        pid: process::id(),
    };
    assert!(this.runs(proc));
    let later = Process {
        started: started + 1,
        ..this
    };
    assert!(!later.runs(proc));
}

#[test]
fn the_oldest_comes_first() {
    let process = |pid, started| Process { started, pid };
    let processes = Processes {
        namespaces: [((4, 1), process(7, 300)), ((4, 2), process(900, 20))].into(),
        of_node: 0,
    };
    let pids: Vec<_> = processes.oldest().into_iter().map(Process::pid).collect();
    assert_eq!(pids, [900, 7]);
}

#[test]
fn everybody_is_looked_at() {
    let walk = walk(Path::new("/proc"), "", &BTreeSet::new()).expect("/proc");
    assert!(walk.seen > 0);
}
