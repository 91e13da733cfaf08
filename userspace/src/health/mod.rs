//! What the kubelet asks over HTTP: `/startupz`, `/livez` and `/readyz`, on an address of their own.

#[cfg(test)]
mod tests;

use std::{io, net::SocketAddr, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use tokio::{sync::watch, time::Instant};
use tracing::error;

use crate::{
    agent::status::Status,
    http::Bounded,
    problem::{Problem, Severity},
};

/// The agent's loop goes round every few seconds even if nothing changes, and the largest rules take less than ten to load.
const STUCK: Duration = Duration::from_mins(1);
/// So many problems tell enough.
const PROBLEMS: usize = 10;

/// Why nobody can ask.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen at {address} for probes: {source} (--health-address names another, if something else has this port)"
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// The loop's end: it says here that it still goes round.
#[derive(Debug)]
pub struct Heart(watch::Sender<Pulse>);

/// How the agent was when its loop went round last.
#[derive(Clone, Debug)]
struct Pulse {
    at: Instant,
    /// What `/readyz` says; nothing before the first round.
    said: Option<Readiness>,
}

/// Ready, or the reason why not.
type Readiness = Result<(), String>;

/// The beginning of a heart, and what asks after it.
pub fn heart() -> (Heart, Probes) {
    let (pulse, felt) = watch::channel(Pulse {
        at: Instant::now(),
        said: None,
    });
    (Heart(pulse), Probes(felt))
}

impl Heart {
    /// Says that the loop goes round, and how the agent is.
    pub fn beat(&self, status: &Status) {
        self.0.send_replace(Pulse {
            at: Instant::now(),
            said: Some(readiness(status)),
        });
    }
}

fn readiness(status: &Status) -> Readiness {
    if status.ready {
        return Ok(());
    }
    let errors = status
        .problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error);
    let lines = errors.take(PROBLEMS).map(Problem::to_string);
    Err(std::iter::once(format!("{}, not ready", status.state))
        .chain(lines)
        .collect::<Vec<_>>()
        .join("\n"))
}

/// What is asked.
#[derive(Clone, Debug)]
pub struct Probes(watch::Receiver<Pulse>);

impl Probes {
    /// Takes the address, so that a port that is taken ends the agent at once and not its probes.
    pub(crate) async fn bind(address: SocketAddr) -> Result<Bounded, BindError> {
        let bound = Bounded::bind(address).await;
        bound.map_err(|source| BindError { address, source })
    }

    /// Answers until the agent ends.
    pub(crate) async fn serve(self, listener: Bounded) {
        let router = Router::new()
            .route("/startupz", get(startup))
            .route("/livez", get(live))
            .route("/readyz", get(ready))
            .with_state(self);
        if let Err(error) = axum::serve(listener, router).await {
            error!(%error, "probes are answered no more");
        }
    }

    /// Waits until the agent is ready.
    pub async fn until_ready(&mut self) {
        let ready = |pulse: &Pulse| matches!(pulse.said, Some(Ok(())));
        if self.0.wait_for(ready).await.is_err() {
            // The loop is gone, and the agent with it.
            std::future::pending::<()>().await;
        }
    }

    fn pulse(&self) -> Pulse {
        self.0.borrow().clone()
    }
}

type Answer = (StatusCode, String);

fn answer(ok: bool, text: impl Into<String>) -> Answer {
    let code = if ok {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, format!("{}\n", text.into()))
}

/// Whether the first round is over: programs are attached, and the source has been asked.
async fn startup(State(probes): State<Probes>) -> Answer {
    match probes.pulse().said {
        Some(_) => answer(true, "started"),
        None => answer(false, "starting"),
    }
}

/// Whether the loop goes round. What is wrong around the agent is not cured by starting it again, and does not count.
async fn live(State(probes): State<Probes>) -> Answer {
    let since = probes.pulse().at.elapsed();
    answer(
        since < STUCK,
        format!("the loop went round {} s ago", since.as_secs()),
    )
}

/// Whether the kernel holds what the source says, all of it.
async fn ready(State(probes): State<Probes>) -> Answer {
    match probes.pulse().said {
        Some(Ok(())) => answer(true, "ready"),
        Some(Err(reason)) => answer(false, reason),
        None => answer(false, "starting, not ready"),
    }
}
