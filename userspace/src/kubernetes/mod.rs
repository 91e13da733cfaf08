//! What the agent tells the cluster: the status of policies, events, and the annotation that Istio's control plane waits for.
//!
//! ```text
//! Published, Verdicts -> what should stand there (pure) -> the API server
//! ```
//!
//! Each kind of thing has a task of its own. It reads what the loop publishes and never keeps it waiting: an API server that
//! is away, or that refuses, costs nothing but what it would have been told.

pub mod annotation;
pub mod denials;
pub mod events;
pub mod lease;
pub mod status;
pub mod taint;

use std::{path::Path, sync::Arc, time::Duration};

use kube::Client;
use tokio::{sync::watch, task::JoinSet};
use tracing::{debug, warn};

use crate::agent::{published::Published, verdicts::Verdicts};

/// As whom the agents report events.
const REPORTER: &str = "sluice.dev/agent";
/// Until something that failed is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// Until something that failed again and again is tried again.
const MAX_RETRY: Duration = Duration::from_mins(5);

/// What is told to the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Write the annotation on captured pods.
    pub annotate: bool,
}

/// Begins to tell the cluster. It ends when what is returned is dropped.
pub fn start(
    client: &Client,
    options: Options,
    run_dir: &Path,
    published: &watch::Receiver<Arc<Published>>,
    verdicts: &Verdicts,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let (denials, denied) = denials::Denials::new(published.clone());
    tasks.spawn(denials.run(client.clone(), verdicts.subscribe().1));
    tasks.spawn(status::own::run(client.clone(), published.clone(), denied));
    tasks.spawn(status::common::run(client.clone(), published.clone()));
    if options.annotate {
        tasks.spawn(annotation::run(
            client.clone(),
            run_dir.to_owned(),
            published.clone(),
        ));
    }
    tasks
}

/// How long to wait after failures, and what to say of them.
#[derive(Debug)]
struct Failures {
    what: &'static str,
    wait: Duration,
}

impl Failures {
    const fn new(what: &'static str) -> Self {
        Self { what, wait: RETRY }
    }

    /// One more. Returns for how long to wait; only the first in a row is a warning.
    fn one_more(&mut self, error: &kube::Error) -> Duration {
        let wait = self.wait;
        if wait == RETRY {
            warn!(%error, "{} failed; it is tried again{}", self.what, hint(error));
        } else {
            debug!(%error, "{} failed again", self.what);
        }
        self.wait = (wait * 2).min(MAX_RETRY);
        wait
    }

    /// It works.
    fn none(&mut self) {
        self.wait = RETRY;
    }
}

/// What is probably to be done about it.
fn hint(error: &kube::Error) -> &'static str {
    if is_status(error, 403) {
        ": does the agent's ClusterRole allow it, as deploy/base has it?"
    } else {
        ""
    }
}

/// Whether the API server has answered with this code.
fn is_status(error: &kube::Error, code: u16) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == code)
}
