//! Answering browsers.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Query, State},
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::get,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tracing::{info, warn};

use super::{
    explain::{self, Answer, Asked},
    guard::guard,
    overview::{self, Overview},
    traffic::Traffic,
};
use crate::{
    agent::verdicts::Verdicts,
    api::{Question, server::Command},
    http::Bounded,
};

/// The loop answers in a few milliseconds; if it is busy for so long, something is wrong with it.
const DEADLINE: Duration = Duration::from_secs(5);
/// For so long after somebody has looked, what is allowed is told of, too.
const WATCHED: Duration = Duration::from_secs(20);

/// Why the address cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others than this machine could reach it.
    #[error(
        "--admin-address {0} is not a loopback address: the page shows who talks to whom, and asks for no password"
    )]
    NotLoopback(SocketAddr),
    /// The system refuses.
    #[error("cannot serve the page at {address}: {source} (is the port taken?)")]
    Io {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// The address, open.
#[derive(Debug)]
pub struct Server {
    listener: Bounded,
}

impl Server {
    /// Opens the address.
    pub async fn bind(address: SocketAddr) -> Result<Self, BindError> {
        if !address.ip().is_loopback() {
            return Err(BindError::NotLoopback(address));
        }
        let bound = Bounded::bind(address).await;
        let listener = bound.map_err(|source| BindError::Io { address, source })?;
        info!(%address, "the page is served");
        Ok(Self { listener })
    }

    /// Answers until the agent ends.
    pub async fn serve(self, commands: mpsc::Sender<Command>, verdicts: Arc<Verdicts>) {
        let agent = Arc::new(Agent { commands, verdicts });
        let router = Router::new()
            .route("/", get(home))
            .route("/explain", get(ask))
            .route("/style.css", get(style))
            .with_state(agent)
            .layer(middleware::from_fn(guard));
        if let Err(error) = axum::serve(self.listener, router).await {
            warn!(%error, "the page is no longer served");
        }
    }
}

/// Who knows.
struct Agent {
    commands: mpsc::Sender<Command>,
    verdicts: Arc<Verdicts>,
}

impl Agent {
    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, Busy> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.commands.send(command(answer)).await.ok()?;
            answered.await.ok()
        };
        timeout(DEADLINE, ask).await.ok().flatten().ok_or(Busy)
    }

    async fn overview(&self) -> Result<Overview, Busy> {
        self.ask(|answer| Command::Overview { answer }).await
    }
}

/// The loop has no answer.
struct Busy;

impl IntoResponse for Busy {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, "the agent is busy or ending\n").into_response()
    }
}

async fn home(State(agent): State<Arc<Agent>>) -> Result<Response, Busy> {
    Arc::clone(&agent.verdicts).want_allowed_for(WATCHED);
    let overview = agent.overview().await?;
    let (recent, _) = agent.verdicts.subscribe();
    let page = overview::page(&overview, &Traffic::of(&recent));
    Ok(Html(page.into_string()).into_response())
}

async fn ask(State(agent): State<Arc<Agent>>, Query(asked): Query<Asked>) -> Result<Response, Busy> {
    let overview = agent.overview().await?;
    let answer = match asked.question() {
        None => None,
        Some(Err(error)) => Some(Answer::Failed(error)),
        Some(Ok((pod, destination))) => {
            let question = Question {
                pod,
                destination,
                live: false,
            };
            let answer = agent.ask(|answer| Command::Explain { question, answer }).await?;
            Some(answer.map_or_else(Answer::Failed, |explanation| {
                Answer::Explained(Box::new(explanation))
            }))
        }
    };
    let page = explain::page(&overview, &asked, answer.as_ref());
    Ok(Html(page.into_string()).into_response())
}

async fn style() -> Response {
    (
        [(header::CONTENT_TYPE, "text/css; charset=utf-8")],
        include_str!("style.css"),
    )
        .into_response()
}
