//! The table that is shown: a line at a time, as each is known.

use std::fmt::Write as _;

use sluice_tests::Event;

const WHAT: usize = 52;
const PATH: usize = 63;

/// One line: what was tried, which way it went, what came of it, and whether that is as it should be.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) path: String,
    pub(crate) seen: String,
    /// What is not as expected.
    pub(crate) wrong: Vec<String>,
}

/// What has been shown so far.
#[derive(Debug, Default)]
pub(crate) struct Table {
    rows: usize,
    wrong: usize,
}

impl Table {
    /// Begins a chapter.
    #[expect(clippy::unused_self, reason = "a table's lines are printed through it")]
    pub(crate) fn chapter(&self, title: &str) {
        println!("\n{title}");
    }

    /// Shows a line.
    pub(crate) fn show(&mut self, row: &Row) {
        let Row {
            what,
            path,
            seen,
            wrong,
        } = row;
        let mark = if wrong.is_empty() { "ok   " } else { "WRONG" };
        println!("  {mark} {what:WHAT$} {path:PATH$} {seen}");
        for fault in wrong {
            println!("        expected {fault}");
        }
        self.rows += 1;
        self.wrong += usize::from(!wrong.is_empty());
    }

    /// How many lines are not as expected.
    pub(crate) fn wrong(&self) -> usize {
        self.wrong
    }

    /// The last line.
    pub(crate) fn conclude(&self) {
        let Self { rows, wrong } = self;
        if *wrong == 0 {
            println!("\nall {rows} lines are as expected");
        } else {
            println!("\n{wrong} of {rows} lines are NOT as expected");
        }
    }
}

/// The stations of a packet, from the verdicts that were given on it, in their order.
pub(crate) fn path(sender: &str, events: &[Event]) -> String {
    let mut text = sender.to_owned();
    let mut at = sender;
    let mut last = "";
    let mut seen: Vec<&Event> = Vec::new();
    for event in events {
        if seen.iter().any(|other| same_station(other, event)) {
            continue;
        }
        seen.push(event);
        if let Some(pod) = &event.pod
            && pod.name != at
        {
            at = &pod.name;
            let _ = write!(text, " > {at}");
        }
        let sign = if event.verdict == "allow" { "" } else { "!" };
        let _ = write!(text, " > {sign}{} {}", event.hook, event.reason);
        last = &event.verdict;
    }
    if !seen.is_empty() && last != "deny" && seen.iter().any(|event| event.hook == "node_out") {
        text.push_str(" > out");
    }
    text
}

fn same_station(one: &Event, other: &Event) -> bool {
    one.hook == other.hook
        && one.pod == other.pod
        && one.verdict == other.verdict
        && one.reason == other.reason
}
