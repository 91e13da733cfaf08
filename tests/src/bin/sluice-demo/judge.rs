//! One try: made, judged, compared with what the agent says of it.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{Event, Events, PATIENCE, Pod};

use crate::{
    probe::Seen,
    stage::{GATEWAY_SERVICE, Stage, ip},
    table::{Row, Table, path},
};

/// What has to come of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It passes, for this reason where the sender's packets are judged.
    Pass(&'static str),
    /// It is refused for this reason.
    Deny(&'static str),
    /// It passes and is reported: enforced, it would be refused for this reason.
    Report(&'static str),
    /// It passes; nobody is there to say why.
    PassInTheDark,
    /// It is refused; nobody is there to say why.
    DenyInTheDark,
}

impl Expect {
    const fn passes(self) -> bool {
        !matches!(self, Self::Deny(_) | Self::DenyInTheDark)
    }

    /// The verdict and its reason, if somebody is there to give one.
    const fn verdict(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Pass(reason) => Some(("allow", reason)),
            Self::Deny(reason) => Some(("deny", reason)),
            Self::Report(reason) => Some(("audit", reason)),
            Self::PassInTheDark | Self::DenyInTheDark => None,
        }
    }
}

/// Something that a pod tries.
pub(crate) struct Try<'a> {
    pub(crate) pod: &'a Pod,
    /// Who sends it over the border: the pod itself, or the gateway for it.
    pub(crate) sender: &'a Pod,
    pub(crate) what: String,
    /// Whereto, as `sluice explain` and events say it.
    pub(crate) to: IpAddr,
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
    pub(crate) run: Box<dyn Fn() -> Result<Seen> + 'a>,
}

/// Has everything tried, and compares what came of it with what should have.
pub(crate) struct Judge<'a> {
    events: Events,
    pub(crate) table: &'a mut Table,
    interrupted: &'a AtomicBool,
}

impl<'a> Judge<'a> {
    /// With verdicts from the agent, which has to run.
    pub(crate) fn call(stage: &Stage, table: &'a mut Table, interrupted: &'a AtomicBool) -> Result<Self> {
        let events = stage.agent.observe(true)?;
        let judge = Self {
            events,
            table,
            interrupted,
        };
        judge.wait_for_observer(stage)?;
        Ok(judge)
    }

    /// Another agent runs now.
    pub(crate) fn watch(&mut self, stage: &Stage) -> Result<()> {
        self.events = stage.agent.observe(true)?;
        self.wait_for_observer(stage)
    }

    /// Sends until a verdict is seen.
    fn wait_for_observer(&self, stage: &Stage) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.events.all().is_empty() {
            ensure!(
                Instant::now() < deadline,
                "`sluice observe --follow` shows nothing of an allowed packet"
            );
            stage
                .client
                .send(&stage.client.sender().echo(stage.neighbour.v4()))?;
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Tries it, and shows what came of it beside what should have.
    pub(crate) fn show(&mut self, stage: &Stage, expect: Expect, attempt: &Try<'_>) -> Result<()> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        self.events.clear();
        let what = format!("{}: {}", attempt.pod.name(), attempt.what);
        let seen = (attempt.run)().with_context(|| what.clone())?;
        let mut wrong = Vec::new();
        let answered = matches!(seen, Seen::Answer(_));
        if answered != expect.passes() {
            wrong.push(
                if expect.passes() {
                    "it to pass"
                } else {
                    "it to be refused"
                }
                .to_owned(),
            );
        }
        let mut way = format!("{} > (the agent is down)", attempt.pod.name());
        if let Some((verdict, reason)) = expect.verdict() {
            let sender = attempt.sender;
            let judged = |event: &Event| {
                event.verdict == verdict
                    && event.reason == reason
                    && attempt.matches(event)
                    && is(event, sender)
            };
            if self.events.wait_for(&what, judged).is_err() {
                wrong.push(format!("the verdict {verdict} {reason} on {}", sender.name()));
            }
            way = path(attempt.pod.name(), &self.about(attempt));
            wrong.extend(disagreement(stage, attempt, verdict, reason)?);
        }
        self.table.show(&Row {
            what,
            path: way,
            seen: seen.to_string(),
            wrong,
        });
        Ok(())
    }

    /// The verdicts on an attempt, on its way to the gateway included.
    fn about(&self, attempt: &Try<'_>) -> Vec<Event> {
        let mut events = self.events.all();
        let inward = |event: &Event| {
            attempt.sender.name() != attempt.pod.name()
                && is(event, attempt.pod)
                && event.dport == 80
                && GATEWAY_SERVICE.iter().any(|service| event.dst == ip(service))
        };
        let ours = |event: &Event| event.pod.is_none() || is(event, attempt.sender);
        events.retain(|event| inward(event) || (attempt.matches(event) && ours(event)));
        events
    }
}

impl Try<'_> {
    fn matches(&self, event: &Event) -> bool {
        event.dst == self.to && (self.port == 0 || event.dport == self.port)
    }
}

fn is(event: &Event, pod: &Pod) -> bool {
    event
        .pod
        .as_ref()
        .is_some_and(|known| known.name == pod.name() && known.namespace == pod.namespace())
}

/// What `sluice explain` says differently.
fn disagreement(stage: &Stage, attempt: &Try<'_>, verdict: &str, reason: &str) -> Result<Option<String>> {
    let sender = attempt.sender;
    let pod = format!("{}/{}", sender.namespace(), sender.name());
    let place = match attempt.protocol {
        "ICMP" => format!("{}/ICMP", attempt.to),
        protocol => format!("{}/{protocol}", SocketAddr::new(attempt.to, attempt.port)),
    };
    // Its exit code is the verdict.
    let output = stage.agent.command(&["explain", &pod, &place, "-o", "json"])?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "`sluice explain {pod} {place} -o json`: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let agrees = answer["verdict"] == verdict && answer["reason"] == reason;
    Ok((!agrees).then(|| {
        format!(
            "`sluice explain {pod} {place}` to say {verdict} {reason}, not {} {}",
            answer["verdict"], answer["reason"]
        )
    }))
}
