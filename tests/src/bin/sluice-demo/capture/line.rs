//! A line of the table as it grows: what was tried, who has witnessed it, what was missing.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use sluice_tests::{Event, Pod};

use super::{
    access_log::AccessLog,
    caller::{self, Answer, Call, Outcome},
    stage::Stage,
    web::Served,
};
use crate::{
    probe::Seen,
    table::{Row, Table},
};

/// The beginning of a line.
#[derive(Debug)]
pub(super) struct Line {
    what: String,
    /// Stations on the way.
    way: Vec<String>,
    /// What was expected and did not come.
    wrong: Vec<String>,
}

impl Line {
    /// Of what `who` tries.
    pub(super) fn new(who: &str, what: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            way: vec![who.to_owned()],
            wrong: Vec::new(),
        }
    }

    /// Notes a station.
    pub(super) fn by(&mut self, station: impl Into<String>) {
        self.way.push(station.into());
    }

    /// Notes what is wrong unless it is so.
    pub(super) fn require(&mut self, is_so: bool, expected: impl Into<String>) {
        if !is_so {
            self.wrong.push(expected.into());
        }
    }

    /// Requires a verdict on what goes to `to`, and notes it.
    pub(super) fn verdict(&mut self, stage: &Stage, verdict: &str, reason: &str, to: SocketAddr) {
        let wanted = |event: &Event| {
            event.verdict == verdict
                && event.reason == reason
                && event.dst == to.ip()
                && event.dport == to.port()
        };
        let prefix = if verdict == "deny" { "DENY " } else { "" };
        match stage.events.wait_for(&self.what, wanted) {
            Ok(event) => self.by(format!("{} {prefix}{reason}", event.hook)),
            Err(_) => self
                .wrong
                .push(format!("the verdict {verdict} {reason} on a call for {to}")),
        }
    }

    /// Requires that a proxy has logged the call with its original destination, and notes it.
    pub(super) fn logged(
        &mut self,
        log: &AccessLog,
        proxy: &str,
        listener: &str,
        call: &Call,
        to: SocketAddr,
    ) -> Result<()> {
        match log.wait_for(call.own)? {
            Some(entry) => {
                self.by(format!("{proxy}: {} for {}", entry.caller.ip(), entry.original));
                self.require(
                    entry.original == to && entry.listener == listener,
                    format!("the proxy to get it on its {listener} listener for {to}"),
                );
            }
            None => self.wrong.push(format!(
                "a line of {} in the log of {proxy} ({})",
                call.own,
                log.path().display()
            )),
        }
        Ok(())
    }

    /// Requires that a server has answered and that the caller's `getpeername()` is whom it called.
    pub(super) fn served(&mut self, outcome: &Outcome, to: SocketAddr) -> Option<Served> {
        if let Outcome::Made(call) = outcome {
            self.require(
                call.peer == to,
                format!("getpeername() to say {to}, not {}", call.peer),
            );
            if let Answer::Served(served) = &call.answer {
                return Some(served.clone());
            }
        }
        self.wrong.push("a server's answer".to_owned());
        None
    }

    /// Requires that `sluice explain` says the same.
    pub(super) fn explained(
        &mut self,
        stage: &Stage,
        pod: &Pod,
        to: SocketAddr,
        fate: &str,
        reason: &str,
    ) -> Result<()> {
        let (pod, place) = (format!("{}/{}", pod.namespace(), pod.name()), format!("{to}/TCP"));
        // Its exit code is the verdict.
        let output = stage.agent.command(&["explain", &pod, &place, "-o", "json"])?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
            format!(
                "`sluice explain {pod} {place} -o json`: {}",
                String::from_utf8_lossy(&output.stderr)
            )
        })?;
        let capture = &answer["capture"];
        self.require(
            capture["fate"] == fate && capture["reason"] == reason,
            format!("`sluice explain {pod} {place}` to say {fate} {reason}, not {capture}"),
        );
        Ok(())
    }

    /// Shows it.
    pub(super) fn show(self, table: &mut Table, seen: impl Into<String>) {
        let Self { what, way, wrong } = self;
        table.show(&Row {
            what,
            path: way.join(" > "),
            seen: seen.into(),
            wrong,
        });
    }
}

/// Has a call tried whose proxy does not listen; the verdict on it has to be this one.
pub(super) fn refused(
    stage: &Stage,
    table: &mut Table,
    who: &Pod,
    to: SocketAddr,
    (verdict, reason): (&str, &str),
) -> Result<()> {
    stage.events.clear();
    let mut line = Line::new(who.name(), format!("http://{to}"));
    let outcome = caller::get(who, to, "anybody")?;
    line.verdict(stage, verdict, reason, to);
    line.require(
        matches!(outcome, Outcome::Failed(Seen::Refused(_))),
        "it to be refused at once",
    );
    line.show(table, outcome.seen());
    Ok(())
}
