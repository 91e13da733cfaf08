//! Has things tried, and compares what came of them with what should have: what the process saw, what arrived outside,
//! the verdicts, and what `sluice explain` says.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{Event, Events, PATIENCE, Pod, sys::Direction};

use crate::{
    probe::Seen,
    stage::{GATEWAY_SERVICE, Stage, ip},
    table::{Row, Table, path},
};

/// How long to wait for an answer that has to come; a new device may take a second to be up.
const LONG: Duration = Duration::from_secs(10);
/// How long to wait where silence is a right answer. That nothing has arrived outside is looked at, too.
const SHORT: Duration = Duration::from_secs(1);
/// When no more verdicts have come for so long, there are none.
const QUIET: Duration = Duration::from_millis(40);

/// What has to come of a try, and for which reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// It passes.
    Pass(&'static str),
    /// It is refused.
    Deny(&'static str),
    /// It passes and is reported: enforced, it would be refused.
    Report(&'static str),
}

impl Expect {
    pub(crate) const fn passes(self) -> bool {
        !matches!(self, Self::Deny(_))
    }

    const fn verdict(self) -> (&'static str, &'static str) {
        match self {
            Self::Pass(reason) => ("allow", reason),
            Self::Deny(reason) => ("deny", reason),
            Self::Report(reason) => ("audit", reason),
        }
    }
}

/// A pod, as verdicts name it.
#[derive(Clone, Debug)]
pub(crate) struct Who {
    namespace: String,
    pub(crate) name: String,
    addresses: [IpAddr; 2],
}

impl From<&Pod> for Who {
    fn from(pod: &Pod) -> Self {
        Self {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            addresses: pod.addresses(),
        }
    }
}

impl Who {
    fn is_named_by(&self, event: &Event) -> bool {
        event
            .pod
            .as_ref()
            .is_some_and(|pod| pod.name == self.name && pod.namespace == self.namespace)
    }

    /// Whether it is the one that an event is about, which may not know its name.
    fn sent(&self, event: &Event) -> bool {
        self.is_named_by(event) || (event.pod.is_none() && self.addresses.contains(&event.src))
    }
}

/// Who sends what whereto.
#[derive(Clone, Debug)]
pub(crate) struct Flow {
    pub(crate) pod: Who,
    /// Who sends it over the border: the pod itself, or the gateway for it.
    pub(crate) sender: Who,
    pub(crate) what: String,
    pub(crate) to: IpAddr,
    /// 0 for ICMP.
    pub(crate) port: u16,
    pub(crate) protocol: &'static str,
}

impl Flow {
    fn has(&self, event: &Event) -> bool {
        event.dst == self.to
            && (self.port == 0 || event.dport == self.port)
            && event.protocol.to_ascii_uppercase().starts_with(self.protocol)
    }

    /// Its first leg, if it has two: to the Service in front of the gateway.
    fn has_first(&self, event: &Event) -> bool {
        self.pod.name != self.sender.name
            && self.pod.sent(event)
            && GATEWAY_SERVICE
                .iter()
                .any(|service| event.dst == ip(service) && event.dst.is_ipv4() == self.to.is_ipv4())
    }

    fn name(&self, event: &Event) -> Option<&str> {
        [&self.pod, &self.sender]
            .into_iter()
            .find(|who| who.sent(event))
            .map(|who| who.name.as_str())
    }

    fn verdicts(&self, events: &Events) -> Vec<Event> {
        let mut all = events.all();
        all.retain(|event| self.has_first(event) || (self.has(event) && self.sender.sent(event)));
        all
    }
}

/// Something that a pod tries.
pub(crate) struct Try<'a> {
    pub(crate) flow: Flow,
    /// With how long to wait for an answer.
    pub(crate) run: Box<dyn Fn(Duration) -> Result<Seen> + 'a>,
}

/// What came of it.
#[derive(Debug)]
struct Tried {
    flow: Flow,
    expect: Expect,
    seen: Seen,
    wrong: Vec<String>,
}

/// The one who compares.
pub(crate) struct Judge<'a> {
    events: Events,
    table: Table,
    /// Tried while no agent ran, chapter by chapter.
    pending: Vec<(String, Vec<Tried>)>,
    interrupted: &'a AtomicBool,
}

impl<'a> Judge<'a> {
    /// With verdicts from the agent, which has to run.
    pub(crate) fn call(stage: &Stage, interrupted: &'a AtomicBool) -> Result<Self> {
        let events = stage.agent.observe(true)?;
        let judge = Self {
            events,
            table: Table::default(),
            pending: Vec::new(),
            interrupted,
        };
        judge.wait_for_observer(stage)?;
        judge.events.clear();
        Ok(judge)
    }

    /// Begins a chapter.
    pub(crate) fn chapter(title: &str) {
        Table::chapter(title);
    }

    /// Has everything tried while the agent runs, a line at a time.
    pub(crate) fn show(&mut self, stage: &Stage, expect: Expect, tries: Vec<Try<'_>>) -> Result<()> {
        for attempt in tries {
            self.events.clear();
            let mut result = self.make(stage, expect, attempt)?;
            self.require_verdict(&mut result);
            result.wrong.extend(disagreement(stage, &result.flow, expect)?);
            self.print(result);
        }
        Ok(())
    }

    /// Has everything tried while no agent runs. The verdicts wait in the kernel for the next one.
    pub(crate) fn note(
        &mut self,
        stage: &Stage,
        title: &str,
        tries: Vec<(Expect, Vec<Try<'_>>)>,
    ) -> Result<()> {
        let mut notes = Vec::new();
        for (expect, tries) in tries {
            for attempt in tries {
                notes.push(self.make(stage, expect, attempt)?);
            }
        }
        self.pending.push((title.to_owned(), notes));
        Ok(())
    }

    /// An agent runs again: shows what was noted, with the verdicts that it found.
    pub(crate) fn catch_up(&mut self, stage: &Stage) -> Result<()> {
        self.events = stage.agent.observe(true)?;
        self.wait_for_observer(stage)?;
        for (title, notes) in std::mem::take(&mut self.pending) {
            Self::chapter(&title);
            for mut tried in notes {
                // Of what passes there is a verdict only while somebody asks.
                if !tried.expect.passes() {
                    self.require_verdict(&mut tried);
                }
                self.print(tried);
            }
        }
        Ok(())
    }

    /// What has been shown, for somebody else to go on with.
    pub(crate) fn leave(self) -> Table {
        self.table
    }

    /// Sends until a verdict is seen.
    fn wait_for_observer(&self, stage: &Stage) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let ready = |event: &Event| event.verdict == "allow" && event.dst == stage.neighbour.v4();
        while !self.events.all().iter().any(ready) {
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

    fn make(&self, stage: &Stage, expect: Expect, attempt: Try<'_>) -> Result<Tried> {
        ensure!(!self.interrupted.load(Ordering::Relaxed), "interrupted");
        let Try { flow, run } = attempt;
        stage.outside.clear();
        let patience = if expect.passes() { LONG } else { SHORT };
        let seen = run(patience).with_context(|| format!("{}: {}", flow.pod.name, flow.what))?;
        let mut wrong = Vec::new();
        match (expect.passes(), matches!(seen, Seen::Answer(_))) {
            (true, false) => wrong.push("it to pass".to_owned()),
            (false, true) => wrong.push("it to be refused".to_owned()),
            (false, false) if arrived(stage, &flow)? => {
                wrong.push("nothing of it to arrive outside".to_owned());
            }
            (true, true) | (false, false) => {}
        }
        Ok(Tried {
            flow,
            expect,
            seen,
            wrong,
        })
    }

    fn require_verdict(&self, tried: &mut Tried) {
        let (verdict, reason) = tried.expect.verdict();
        let flow = &tried.flow;
        let wanted = |event: &Event| {
            event.verdict == verdict && event.reason == reason && flow.has(event) && flow.sender.sent(event)
        };
        if self.events.wait_for(&flow.what, wanted).is_err() {
            tried
                .wrong
                .push(format!("the verdict {verdict} {reason} on {}", flow.sender.name));
        }
    }

    fn print(&mut self, tried: Tried) {
        let Tried {
            flow,
            expect: _,
            seen,
            wrong,
        } = tried;
        let mut verdicts = flow.verdicts(&self.events);
        loop {
            thread::sleep(QUIET);
            let now = flow.verdicts(&self.events);
            if now.len() == verdicts.len() {
                break;
            }
            verdicts = now;
        }
        let path = path(&flow.pod.name, &verdicts, |event| flow.name(event));
        self.table.show(&Row {
            what: flow.what,
            path,
            seen: seen.to_string(),
            wrong,
        });
    }
}

/// Whether a packet of the one who was to be refused is outside.
fn arrived(stage: &Stage, flow: &Flow) -> Result<bool> {
    stage.bench.flush(&stage.outside)?;
    Ok(stage
        .outside
        .frames()
        .iter()
        .filter(|frame| frame.direction == Direction::In)
        .any(|frame| {
            frame
                .header()
                .is_some_and(|header| header.dst == flow.to && flow.sender.addresses.contains(&header.src))
        }))
}

/// What `sluice explain` says differently.
fn disagreement(stage: &Stage, flow: &Flow, expect: Expect) -> Result<Option<String>> {
    let (verdict, reason) = expect.verdict();
    let Who { namespace, name, .. } = &flow.sender;
    let pod = format!("{namespace}/{name}");
    let place = match flow.protocol {
        "ICMP" => format!("{}/ICMP", flow.to),
        protocol => format!("{}/{protocol}", SocketAddr::new(flow.to, flow.port)),
    };
    // Its exit code is the verdict.
    let output = stage.agent.command(&["explain", &pod, &place, "-o", "json"])?;
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).with_context(|| {
        format!(
            "`sluice explain {pod} {place} -o json`: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    })?;
    let (its_verdict, its_reason) = (&answer["verdict"], &answer["reason"]);
    let agrees = its_verdict == verdict && its_reason == reason;
    Ok((!agrees).then(|| {
        format!("`sluice explain {pod} {place}` to say {verdict} {reason}, not {its_verdict} {its_reason}")
    }))
}
