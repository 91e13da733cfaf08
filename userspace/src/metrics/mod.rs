//! What the agent tells Prometheus.
//!
//! The agent's loop is asked for a [`Snapshot`] of plain numbers, at most once a second however often somebody scrapes; no
//! scrape causes a pass. No label names a pod or an address, so that the number of series is bounded: see [`ALL`].

mod catalogue;
mod export;
mod server;
mod snapshot;

use std::time::Duration;

use prometheus_client::{metrics::histogram::Histogram, registry::Registry};

pub use self::{
    catalogue::{ALL, Description, Kind},
    server::{BindError, Server},
    snapshot::{ProgramRuns, Snapshot},
};

/// What is measured when it happens, and not when somebody asks. Clones share their values.
#[derive(Clone, Debug)]
pub struct Delays {
    policy: Histogram,
    enforcement: Histogram,
}

impl Default for Delays {
    fn default() -> Self {
        let doubling = |from: f64, count: i32| (0..count).map(move |step| from * 2f64.powi(step));
        Self {
            // 1 ms to 16 s.
            policy: Histogram::new(doubling(0.001, 15)),
            // 0.5 ms to 2 s.
            enforcement: Histogram::new(doubling(0.0005, 13)),
        }
    }
}

impl Delays {
    /// A change of the rules took so long from when it was seen to when it was in the kernel.
    pub fn implemented(&self, delay: Duration) {
        self.policy.observe(delay.as_secs_f64());
    }

    /// A pod's device took so long from when it was seen to when nothing passed it unjudged.
    pub fn enforced(&self, delay: Duration) {
        self.enforcement.observe(delay.as_secs_f64());
    }

    fn register(&self, registry: &mut Registry) {
        let Self { policy, enforcement } = self;
        for (description, histogram) in [
            (catalogue::POLICY_DELAY, policy),
            (catalogue::ENFORCEMENT_DELAY, enforcement),
        ] {
            registry.register(description.name, description.help, histogram.clone());
        }
    }
}
