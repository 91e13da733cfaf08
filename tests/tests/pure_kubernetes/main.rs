//! What agents tell a cluster, as its API server sees it: policies that it refuses, their status, events, the annotation on
//! captured pods. What the agents' loops publish is made up here; from there on everything is real.

mod annotation;
mod crd;
mod events;
mod status;

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;
use sluice::{
    agent::{
        published::{Policy, Published},
        status::State,
        verdicts::Verdicts,
    },
    kubernetes::{self, Options},
};
use sluice_tests::{
    ApiServer, PATIENCE,
    apiserver::User,
    installation::{AMBIENT, BASE, account, install},
};
use tokio::{sync::watch, task::JoinSet};

/// A server with what an installation brings: the kind, and who may do what.
fn cluster() -> Result<ApiServer> {
    let server = ApiServer::start()?;
    install(&server, &BASE)?;
    install(&server, &[AMBIENT])?;
    Ok(server)
}

/// An agent, as far as it tells the cluster.
struct Teller {
    published: watch::Sender<Arc<Published>>,
    verdicts: Verdicts,
    run_dir: tempfile::TempDir,
    /// Ended when this is dropped.
    _tasks: JoinSet<()>,
}

impl Teller {
    /// An agent with the rights that an installation gives it.
    fn start(server: &ApiServer, node: &str) -> Result<Self> {
        let run_dir = tempfile::tempdir()?;
        Self::start_in(server, node, run_dir)
    }

    fn start_in(server: &ApiServer, node: &str, run_dir: tempfile::TempDir) -> Result<Self> {
        let published = Published {
            node: node.to_owned(),
            state: State::Enforcing,
            generation: 1,
            ..Published::default()
        };
        let (published, seen) = watch::channel(Arc::new(published));
        let verdicts = Verdicts::default();
        let client = server.client(&account())?;
        let options = Options { annotate: true };
        let tasks = kubernetes::start(&client, options, run_dir.path(), &seen, &verdicts);
        Ok(Self {
            published,
            verdicts,
            run_dir,
            _tasks: tasks,
        })
    }

    /// It ends; what it has left for the next one stays.
    fn stop(self) -> tempfile::TempDir {
        self.run_dir
    }

    /// A pass has ended, and this is different.
    fn publish(&self, change: impl FnOnce(&mut Published)) {
        self.published.send_modify(|published| {
            let mut next = Published::clone(published);
            next.applied = true;
            change(&mut next);
            *published = Arc::new(next);
        });
    }
}

fn nodes(names: &[&str]) -> Arc<BTreeSet<String>> {
    Arc::new(names.iter().map(|name| (*name).to_owned()).collect())
}

/// Asks until it is so.
async fn eventually<T>(what: &str, ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    within(PATIENCE, what, ask).await
}

/// The same with a patience of its own.
async fn within<T>(patience: Duration, what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let until = Instant::now() + patience;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > until {
            bail!("never came true: {what}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
