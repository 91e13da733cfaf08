//! Answering Prometheus over HTTP.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text, registry::Registry};
use tokio::{
    sync::{Mutex, mpsc, oneshot},
    time::{Instant, timeout},
};
use tracing::{info, warn};

use super::{Delays, snapshot::Snapshot};
use crate::{api::server::Command, dataplane::Occupancy, http::Bounded};

/// What this text is.
const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// The loop makes a snapshot in a few milliseconds; if it is busy for so long, something is wrong with it.
const DEADLINE: Duration = Duration::from_secs(5);
/// For so long an answer serves everybody: nobody keeps the loop busy by asking often.
const FRESH: Duration = Duration::from_secs(1);

/// Why the address cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics at {address}: {source} (is the port taken, or the address not one of this node?)"
)]
pub struct BindError {
    address: SocketAddr,
    source: io::Error,
}

/// The address, open.
#[derive(Debug)]
pub struct Server {
    listener: Bounded,
}

impl Server {
    /// Opens the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        let bound = Bounded::bind(address).await;
        let listener = bound.map_err(|source| BindError { address, source })?;
        info!(%address, "metrics are served");
        Ok(Self { listener })
    }

    /// Answers until the agent ends.
    pub async fn serve(self, commands: mpsc::Sender<Command>, delays: Delays, occupancy: Occupancy) {
        let exporter = Arc::new(Exporter {
            commands,
            delays,
            last: Mutex::new(Last {
                occupancy: Some(occupancy),
                ..Last::default()
            }),
        });
        let router = Router::new().route("/metrics", get(scrape)).with_state(exporter);
        if let Err(error) = axum::serve(self.listener, router).await {
            warn!(%error, "metrics are no longer served");
        }
    }
}

struct Exporter {
    commands: mpsc::Sender<Command>,
    delays: Delays,
    last: Mutex<Last>,
}

#[derive(Default)]
struct Last {
    answer: Option<(Instant, String)>,
    /// Lent to the thread that counts.
    occupancy: Option<Occupancy>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the agent is busy or ending")]
    NoSnapshot,
    #[error("{0}")]
    Kernel(#[from] crate::dataplane::Error),
    #[error("cannot write the answer")]
    Format(#[from] std::fmt::Error),
}

async fn scrape(State(exporter): State<Arc<Exporter>>) -> Response {
    match exporter.text().await {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")).into_response(),
    }
}

impl Exporter {
    async fn text(&self) -> Result<String, Error> {
        let mut last = self.last.lock().await;
        if let Some((made, text)) = &last.answer
            && made.elapsed() < FRESH
        {
            return Ok(text.clone());
        }
        let mut snapshot = self.snapshot().await?;
        last.count(&mut snapshot).await;
        let mut registry = Registry::default();
        self.delays.register(&mut registry);
        registry.register_collector(Box::new(snapshot));
        let mut text = String::new();
        text::encode(&mut text, &registry)?;
        last.answer = Some((Instant::now(), text.clone()));
        Ok(text)
    }

    async fn snapshot(&self) -> Result<Snapshot, Error> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.commands.send(Command::Snapshot { answer }).await.ok()?;
            answered.await.ok()
        };
        let answer = timeout(DEADLINE, ask).await;
        Ok(answer.ok().flatten().ok_or(Error::NoSnapshot)??)
    }
}

impl Last {
    /// Counts what only the kernel knows, away from the agent's loop: a full table takes a while.
    async fn count(&mut self, snapshot: &mut Snapshot) {
        let Some(occupancy) = self.occupancy.take() else {
            return;
        };
        let counted = tokio::task::spawn_blocking(move || {
            let counts = occupancy.count();
            (occupancy, counts)
        });
        // A thread that panicked has said so.
        let Ok((occupancy, counts)) = counted.await else {
            return;
        };
        self.occupancy = Some(occupancy);
        match counts {
            Ok(counts) => {
                for map in &mut snapshot.maps {
                    map.entries = map.entries.or_else(|| counts.get(map.name).copied());
                }
            }
            Err(error) => warn!("{error}; metrics lack the maps that the kernel fills"),
        }
    }
}
