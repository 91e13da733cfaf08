//! Denials as the kernel reports them: counted for each policy, and told to who reports events.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use kube::Client;
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, watch,
};

use super::events::{self, Limiter, Report};
use crate::{
    agent::published::Published,
    api::{Kind, VerdictEvent},
};

/// How many denials were seen since the agent started, by the name of the policy that the pod is held to.
pub type Denied = watch::Receiver<BTreeMap<String, u64>>;

/// How many events may wait for an API server that is slow.
const WAITING: usize = 32;

/// Who looks at verdicts.
pub struct Denials {
    published: watch::Receiver<Arc<Published>>,
    counts: watch::Sender<BTreeMap<String, u64>>,
    limiter: Limiter,
}

impl Denials {
    /// One who has seen nothing yet, and its counts.
    pub fn new(published: watch::Receiver<Arc<Published>>) -> (Self, Denied) {
        let (counts, denied) = watch::channel(BTreeMap::new());
        let denials = Self {
            published,
            counts,
            limiter: Limiter::new(Instant::now()),
        };
        (denials, denied)
    }

    /// Looks at verdicts until there are no more.
    pub async fn run(mut self, client: Client, mut verdicts: broadcast::Receiver<Arc<VerdictEvent>>) {
        if self
            .published
            .wait_for(|published| published.is_known())
            .await
            .is_err()
        {
            return;
        }
        let node = self.published.borrow().node.clone();
        let (reports, reported) = mpsc::channel(WAITING);
        let reporting = events::run(client, node, reported);
        let looking = async {
            loop {
                match verdicts.recv().await {
                    Ok(verdict) => {
                        if let Some(report) = self.see(&verdict, Instant::now()) {
                            // A server that is that slow is not waited for.
                            let _ = reports.try_send(report);
                        }
                    }
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return,
                }
            }
        };
        tokio::select! {
            () = looking => {}
            () = reporting => {}
        }
    }

    /// Counts a verdict. Returns what is to be reported of it.
    fn see(&mut self, verdict: &VerdictEvent, now: Instant) -> Option<Report> {
        if verdict.verdict != Kind::Deny {
            return None;
        }
        let name = verdict.pod.as_ref()?;
        let published = self.published.borrow();
        let pod = published.pods.get(name)?;
        self.counts.send_modify(|counts| {
            for policy in &pod.policies {
                *counts.entry(policy.clone()).or_default() += verdict.count;
            }
            counts.retain(|policy, _| published.policies.contains_key(policy));
        });
        let uid = pod.uid.as_deref()?;
        let report = || Report::denied(verdict, name, uid, pod, &published.node);
        self.limiter.admit(uid, &verdict.reason, now).then(report)
    }
}
