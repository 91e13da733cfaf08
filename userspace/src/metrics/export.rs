//! A snapshot in the words of Prometheus.

use std::{collections::BTreeMap, fmt};

use ebpf::{AllowReason, DropReason, Hook, RedirectReason, event::Outcome};
use prometheus_client::{
    collector::Collector,
    encoding::{
        DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, MetricEncoder, NoLabelSet,
    },
};

use super::{
    catalogue::{
        AUDITS, BUILD, CAPTURED, DESTINATIONS, DROPS, Description, ENDPOINTS, FORWARDS, GENERATION,
        LOST_EVENTS, LOST_FLOWS, MAP_PRESSURE, POLICIES, POLICY_CONDITION, PROBLEMS, PROGRAM_RUNS,
        PROGRAM_SECONDS, PROGRAM_STATISTICS, READY, REDIRECTS, REPAIRS, RULES, STATE, STATE_AGE,
    },
    snapshot::Snapshot,
};
use crate::{agent::status::State, problem::Severity, project::CaptureMode};

/// What leaves pods and what they get.
const DIRECTIONS: [&str; 2] = ["egress", "ingress"];

/// Which way what a hook judges goes, as the pod sees it.
const fn direction(hook: Hook) -> &'static str {
    match hook {
        Hook::PodOut
        | Hook::NodeOut
        | Hook::Connect4
        | Hook::Connect6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::Bind4
        | Hook::Bind6
        | Hook::CaptureVirtual => DIRECTIONS[0],
        Hook::CaptureIn => DIRECTIONS[1],
    }
}

impl Collector for Snapshot {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Writer(encoder);
        let Self {
            state,
            ready,
            state_age,
            generation,
            enforced,
            pending,
            captured,
            policies,
            conditions,
            destinations,
            rules,
            problems,
            counters,
            repairs,
            maps,
            programs,
            counts_runs,
        } = self;
        out.gauges(BUILD, [([("version", env!("CARGO_PKG_VERSION"))], 1u64)])?;
        out.gauge(READY, &u64::from(*ready))?;
        let states = State::ALL.iter();
        out.gauges(
            STATE,
            states.map(|known| ([("state", known.to_string())], u64::from(known == state))),
        )?;
        if let Some(age) = state_age {
            out.gauge(STATE_AGE, &age.as_secs_f64())?;
        }
        out.gauge(GENERATION, generation)?;
        out.gauges(
            ENDPOINTS,
            [
                ([("state", "enforced")], *enforced),
                ([("state", "pending")], *pending),
            ],
        )?;
        let modes = CaptureMode::ALL.iter();
        out.gauges(
            CAPTURED,
            modes.map(|mode| {
                (
                    [("mode", mode.to_string())],
                    captured.get(mode).copied().unwrap_or(0),
                )
            }),
        )?;
        out.gauge(POLICIES, policies)?;
        out.gauges(
            POLICY_CONDITION,
            conditions.iter().map(|(policy, condition, met)| {
                let labels = [("policy", policy.as_str()), ("condition", condition.word())];
                (labels, u64::from(*met))
            }),
        )?;
        out.gauge(DESTINATIONS, destinations)?;
        out.gauge(RULES, rules)?;
        let severities = [Severity::Info, Severity::Warning, Severity::Error];
        out.gauges(
            PROBLEMS,
            severities.map(|severity| {
                let count = problems.get(&severity).copied().unwrap_or(0);
                ([("severity", severity.to_string())], count)
            }),
        )?;
        self.encode_packets(&mut out)?;
        out.counter(LOST_EVENTS, counters.lost_events)?;
        out.counter(LOST_FLOWS, counters.lost_flows)?;
        out.counter(REPAIRS, *repairs)?;
        let known = maps.iter().filter_map(|map| Some((map.name, map.pressure()?)));
        out.gauges(
            MAP_PRESSURE,
            known.map(|(name, pressure)| ([("map_name", name)], pressure)),
        )?;
        let seconds = programs.iter();
        out.counters(
            PROGRAM_SECONDS,
            seconds.map(|program| ([("program", program.name)], program.time.as_secs_f64())),
        )?;
        let runs = programs.iter();
        out.counters(
            PROGRAM_RUNS,
            runs.map(|program| ([("program", program.name)], program.runs)),
        )?;
        out.gauge(PROGRAM_STATISTICS, &u64::from(*counts_runs))
    }
}

/// Sums by reason and direction. Those that are zero are there as well: a rate over a series that begins with its
/// first packet would miss it.
struct Sums(BTreeMap<(&'static str, &'static str), u64>);

impl Sums {
    fn of(reasons: impl Iterator<Item = &'static str>) -> Self {
        Self(
            reasons
                .flat_map(|reason| DIRECTIONS.map(|direction| ((reason, direction), 0)))
                .collect(),
        )
    }

    fn add(&mut self, reason: &'static str, hook: Hook, packets: u64) {
        *self.0.entry((reason, direction(hook))).or_default() += packets;
    }

    fn labelled(&self) -> impl Iterator<Item = ([(&'static str, &'static str); 2], u64)> {
        let sums = self.0.iter();
        sums.map(|(&(reason, direction), &sum)| ([("reason", reason), ("direction", direction)], sum))
    }
}

impl Snapshot {
    fn encode_packets(&self, out: &mut Writer<'_>) -> fmt::Result {
        let refusals = || Sums::of(DropReason::ALL.iter().map(|reason| reason.word()));
        let (mut denied, mut audited) = (refusals(), refusals());
        let mut allowed = Sums::of(AllowReason::ALL.iter().map(|reason| reason.word()));
        let mut redirected = Sums::of(RedirectReason::ALL.iter().map(|reason| reason.word()));
        for &(hook, outcome, packets) in &self.counters.packets {
            match outcome {
                Outcome::Denied(reason) => denied.add(reason.word(), hook, packets),
                Outcome::Audited(reason) => audited.add(reason.word(), hook, packets),
                Outcome::Allowed(reason) => allowed.add(reason.word(), hook, packets),
                Outcome::Redirected(reason) => redirected.add(reason.word(), hook, packets),
            }
        }
        out.counters(DROPS, denied.labelled())?;
        out.counters(AUDITS, audited.labelled())?;
        out.counters(FORWARDS, allowed.labelled())?;
        out.counters(REDIRECTS, redirected.labelled())
    }
}

/// Writes metrics as they are described.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn begin(&mut self, description: Description) -> Result<MetricEncoder<'_>, fmt::Error> {
        let Description { name, kind, help, .. } = description;
        self.0.encode_descriptor(name, help, None, kind.into())
    }

    fn gauge(&mut self, description: Description, value: &impl EncodeGaugeValue) -> fmt::Result {
        self.begin(description)?.encode_gauge(value)
    }

    fn gauges<L: EncodeLabelSet, V: EncodeGaugeValue>(
        &mut self,
        description: Description,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.begin(description)?;
        let mut values = values.into_iter();
        values.try_for_each(|(labels, value)| metric.encode_family(&labels)?.encode_gauge(&value))
    }

    fn counter(&mut self, description: Description, value: u64) -> fmt::Result {
        self.begin(description)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn counters<L: EncodeLabelSet, V: EncodeCounterValue>(
        &mut self,
        description: Description,
        values: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.begin(description)?;
        let mut values = values.into_iter();
        values.try_for_each(|(labels, value)| {
            metric
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)
        })
    }
}
