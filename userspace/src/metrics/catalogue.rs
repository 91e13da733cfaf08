//! Every metric there is: what the exporter writes and what the documents list come from here.

use prometheus_client::metrics::MetricType;

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows; its exported name ends in `_total`.
    Counter,
    /// It goes up and down.
    Gauge,
    /// It counts by size.
    Histogram,
}

impl From<Kind> for MetricType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Counter => Self::Counter,
            Kind::Gauge => Self::Gauge,
            Kind::Histogram => Self::Histogram,
        }
    }
}

/// A metric, as it is documented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// Its name, without the suffix that a counter gets.
    pub name: &'static str,
    /// How it behaves.
    pub kind: Kind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it says. No full stop: the exporter writes one.
    pub help: &'static str,
}

/// Declares the metrics and the list of them.
macro_rules! catalogue {
    ($($constant:ident: $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(pub(super) const $constant: Description = Description {
            name: $name,
            kind: Kind::$kind,
            labels: &[$($label),*],
            help: $help,
        };)+

        /// Every metric that the agent exports.
        pub const ALL: &[Description] = &[$($constant),+];
    };
}

catalogue! {
    BUILD: Gauge "sluice_build_info" ["version"]
        "Always 1; the label has the agent's version";
    READY: Gauge "sluice_ready" []
        "1 if the kernel holds what the source says, all of it and without errors";
    STATE: Gauge "sluice_state" ["state"]
        "1 for the state that the agent is in, 0 for the others";
    STATE_AGE: Gauge "sluice_state_age_seconds" []
        "How long ago the source was last known to be complete and current; absent without a source";
    GENERATION: Gauge "sluice_generation" []
        "Number of the set of rules in the kernel";
    ENDPOINTS: Gauge "sluice_endpoints" ["state"]
        "Pods of this node that the kernel knows (enforced), and those that it does not know yet (pending)";
    CAPTURED: Gauge "sluice_captured_endpoints" ["mode"]
        "Network namespaces whose connections go to a proxy";
    POLICIES: Gauge "sluice_policies" []
        "EgressPolicies that the source has";
    POLICY_CONDITION: Gauge "sluice_policy_condition" ["policy", "condition"]
        "1 if what must be true for an EgressPolicy to do what one expects is so, 0 if not";
    DESTINATIONS: Gauge "sluice_destinations" []
        "Prefixes in the active rules";
    RULES: Gauge "sluice_rules" []
        "Permissions in the active rules";
    PROBLEMS: Gauge "sluice_problems" ["severity"]
        "Problems that `sluice status` shows";
    DROPS: Counter "sluice_drop_count" ["reason", "direction"]
        "Packets and calls that were refused";
    AUDITS: Counter "sluice_audit_count" ["reason", "direction"]
        "Packets and calls that a policy in audit mode would have refused";
    FORWARDS: Counter "sluice_forward_count" ["reason", "direction"]
        "Packets and calls that were let through";
    REDIRECTS: Counter "sluice_redirect_count" ["reason", "direction"]
        "Calls that were handed to a proxy";
    LOST_EVENTS: Counter "sluice_lost_events" []
        "Events that nobody could be told of; the other counters have what they were about";
    LOST_FLOWS: Counter "sluice_lost_flows" []
        "Flows that found their table full of live ones";
    REPAIRS: Counter "sluice_program_repairs" []
        "Programs, rules of routing and settings that somebody removed or displaced and that were put back";
    MAP_PRESSURE: Gauge "sluice_bpf_map_pressure" ["map_name"]
        "Entries of a map as a share of those that it holds; at 1 a map of rules takes no more, and a table of flows forgets the oldest";
    PROGRAM_SECONDS: Counter "sluice_program_run_seconds" ["program"]
        "Time in a program, counted while kernel.bpf_stats_enabled is 1";
    PROGRAM_RUNS: Counter "sluice_program_runs" ["program"]
        "Runs of a program, counted while kernel.bpf_stats_enabled is 1";
    PROGRAM_STATISTICS: Gauge "sluice_program_statistics_enabled" []
        "1 if the kernel counts the runs of programs (kernel.bpf_stats_enabled)";
    POLICY_DELAY: Histogram "sluice_policy_implementation_delay_seconds" []
        "From when a change of the rules was seen to when it was in the kernel";
    ENFORCEMENT_DELAY: Histogram "sluice_pod_enforcement_delay_seconds" []
        "From when a pod's device was seen to when nothing passed it unjudged";
}

impl Description {
    /// The name that queries use: of a counter with its suffix, of a histogram without one.
    pub fn exported(&self) -> String {
        match self.kind {
            Kind::Counter => format!("{}_total", self.name),
            Kind::Gauge | Kind::Histogram => self.name.to_owned(),
        }
    }
}
