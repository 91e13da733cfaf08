//! The table that is shown: a line at a time, as each is known.

use std::fmt::Write as _;

use sluice_tests::Event;

const WHAT: usize = 46;
const SEEN: usize = 33;

/// One line: what was tried, which way it went, what came of it, and whether that is as it should be.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) path: String,
    pub(crate) seen: String,
    /// What was expected and did not come.
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
    pub(crate) fn chapter(title: &str) {
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
        println!("  {mark} {what:WHAT$} {seen:SEEN$} {path}");
        for fault in wrong {
            println!("        expected {fault}");
        }
        self.rows += 1;
        self.wrong += usize::from(!wrong.is_empty());
    }

    /// The last line. Whether everything was as expected.
    pub(crate) fn conclude(&self) -> bool {
        let Self { rows, wrong } = self;
        if *wrong == 0 {
            println!("\nall {rows} lines are as expected");
        } else {
            println!("\n{wrong} of {rows} lines are NOT as expected");
        }
        *wrong == 0
    }
}

/// The stations of a packet, from the verdicts that were given on it, in their order. `name` knows whose an event is.
pub(crate) fn path<'a>(
    sender: &str,
    events: &'a [Event],
    name: impl Fn(&'a Event) -> Option<&'a str>,
) -> String {
    let mut text = sender.to_owned();
    let mut at = sender;
    let mut seen: Vec<&Event> = Vec::new();
    for event in events {
        if seen.iter().any(|other| same_station(other, event)) {
            continue;
        }
        seen.push(event);
        if let Some(pod) = name(event)
            && pod != at
        {
            at = pod;
            text.push_str(" > ");
            text.push_str(at);
        }
        let verdict = match event.verdict.as_str() {
            "allow" => "",
            "deny" => "DENY ",
            _ => "AUDIT ",
        };
        let Event { hook, reason, .. } = event;
        // Writing to a string cannot fail.
        let _ = write!(text, " > {hook} {verdict}{reason}");
    }
    let leaves = |event: &&Event| event.hook == "node_out" && event.verdict != "deny";
    if seen.last().is_some_and(leaves) {
        text.push_str(" > outside");
    }
    text
}

fn same_station(one: &Event, other: &Event) -> bool {
    one.hook == other.hook
        && one.src == other.src
        && one.verdict == other.verdict
        && one.reason == other.reason
}
