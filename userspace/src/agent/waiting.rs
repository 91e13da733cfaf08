//! Those who asked and wait for what is to come.

use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::{admission::Refusal, pass::Agent, status::Status};
use crate::api::{Admission, Attachment};

/// How soon is looked again for somebody who waits until the agent is ready.
const IMPATIENCE: Duration = Duration::from_millis(50);
/// The same for a pod, which is looked for as soon as anything happens anyway.
const PATIENCE: Duration = Duration::from_secs(1);

/// Everybody who waits.
#[derive(Default)]
pub(super) struct Waiting {
    for_readiness: Vec<(Instant, oneshot::Sender<Status>)>,
    for_admission: Vec<Pod>,
}

/// A pod that waits to be admitted.
struct Pod {
    attachment: Attachment,
    since: Instant,
    until: Instant,
    answer: oneshot::Sender<Result<Admission, String>>,
}

impl Waiting {
    /// Somebody waits until the agent is ready.
    pub(super) fn for_readiness(&mut self, patience: Duration, answer: oneshot::Sender<Status>) {
        self.for_readiness.push((Instant::now() + patience, answer));
    }

    /// Somebody waits until a pod is admitted.
    pub(super) fn for_admission(
        &mut self,
        attachment: Attachment,
        patience: Duration,
        answer: oneshot::Sender<Result<Admission, String>>,
    ) {
        let since = Instant::now();
        self.for_admission.push(Pod {
            attachment,
            since,
            until: since + patience,
            answer,
        });
    }

    /// Answers those who need not wait longer. To be called after a pass.
    pub(super) fn answer(&mut self, agent: &Agent) {
        if !self.for_readiness.is_empty() {
            let status = agent.status();
            let now = Instant::now();
            let waiting = std::mem::take(&mut self.for_readiness);
            for (until, answer) in waiting {
                if status.ready || until <= now {
                    // Who asked may have hung up.
                    let _ = answer.send(status.clone());
                } else {
                    self.for_readiness.push((until, answer));
                }
            }
        }
        for pod in std::mem::take(&mut self.for_admission) {
            let now = Instant::now();
            let verdict = match agent.admitted(&pod.attachment) {
                Err(_) if now < pod.until => {
                    self.for_admission.push(pod);
                    continue;
                }
                Err(reason) => Err(pod.refuse(&reason, now)),
                Ok(admission) => Ok(admission),
            };
            let _ = pod.answer.send(verdict);
        }
    }

    /// Waits until it is time to look again; for ever if nobody waits.
    pub(super) async fn elapsed(&self) {
        let deadline = self.for_admission.iter().map(|pod| pod.until).min();
        let patience = match deadline {
            _ if !self.for_readiness.is_empty() => IMPATIENCE,
            Some(deadline) => PATIENCE.min(deadline.saturating_duration_since(Instant::now())),
            None => return std::future::pending().await,
        };
        tokio::time::sleep(patience).await;
    }
}

impl Pod {
    fn refuse(&self, reason: &Refusal, now: Instant) -> String {
        format!("{reason} (waited {} s)", (now - self.since).as_secs())
    }
}
