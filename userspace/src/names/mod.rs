//! The addresses of the names that the registry declares.
//!
//! A gateway resolves these names itself, and a name server may give it other addresses than the agent, or others
//! of many. So an address stays for a while after it was last heard of, and failures change nothing.

mod ask;
mod table;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
    time::Instant,
};

use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
};

pub use self::ask::{NameServer, ParseNameServerError, ResolverError};
use self::{
    ask::{Ask, Outcome},
    table::Table,
};
use crate::objects::Host;

/// How many names are asked for at a time.
const IN_FLIGHT: usize = 16;

/// What is known of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
    /// Why the last question was not answered.
    pub error: Option<String>,
}

/// The addresses of names, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    resolved: BTreeMap<Host, Resolved>,
}

impl Names {
    /// The addresses of a name; none if they are not known.
    pub fn addresses<'a>(&'a self, host: &Host) -> impl Iterator<Item = IpAddr> + use<'a> {
        self.resolved
            .get(host)
            .into_iter()
            .flat_map(|resolved| resolved.addresses.iter().copied())
    }

    /// Every name that has been asked for.
    pub fn iter(&self) -> impl Iterator<Item = (&Host, &Resolved)> {
        self.resolved.iter()
    }
}

impl FromIterator<(Host, Resolved)> for Names {
    fn from_iter<I: IntoIterator<Item = (Host, Resolved)>>(names: I) -> Self {
        Self {
            resolved: names.into_iter().collect(),
        }
    }
}

/// Resolves names again and again, in a task of its own.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<BTreeSet<Host>>,
    names: watch::Receiver<Arc<Names>>,
    task: JoinHandle<()>,
}

impl Resolver {
    /// Begins, with a name server or else those of the system (`/etc/resolv.conf`). Needs tokio with I/O and time.
    pub fn start(server: Option<NameServer>) -> Result<Self, ResolverError> {
        let ask = Arc::new(Ask::new(server)?);
        let (wanted, wanted_here) = watch::channel(BTreeSet::new());
        let (names_here, names) = watch::channel(Arc::default());
        let task = tokio::spawn(run(ask, wanted_here, names_here));
        Ok(Self { wanted, names, task })
    }

    /// From now on, these names and no others.
    pub fn want(&self, names: BTreeSet<Host>) {
        self.wanted.send_if_modified(|wanted| {
            let changed = *wanted != names;
            *wanted = names;
            changed
        });
    }

    /// What is known now. It counts as seen by [`changed`](Self::changed).
    pub fn names(&mut self) -> Arc<Names> {
        self.names.borrow_and_update().clone()
    }

    /// Waits until something else is known than [`names`](Self::names) last said. May be dropped at any time.
    pub async fn changed(&mut self) {
        if self.names.changed().await.is_err() {
            // The task is gone, and with it all change.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(ask: Arc<Ask>, mut wanted: watch::Receiver<BTreeSet<Host>>, names: watch::Sender<Arc<Names>>) {
    let mut table = Table::default();
    let mut asked: JoinSet<(Host, Outcome)> = JoinSet::new();
    loop {
        for host in table.due(Instant::now(), IN_FLIGHT.saturating_sub(asked.len())) {
            let ask = ask.clone();
            asked.spawn(async move {
                let outcome = ask.ask(&host).await;
                (host, outcome)
            });
        }
        let wake = table.next_wake(asked.len() < IN_FLIGHT);
        let sleep = async {
            match wake {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() {
                    return;
                }
                table.want(&wanted.borrow_and_update(), Instant::now());
            }
            Some(answered) = asked.join_next() => {
                if let Ok((host, outcome)) = answered {
                    table.learn(&host, outcome, Instant::now());
                }
            }
            () = sleep => {}
        }
        table.forget(Instant::now());
        names.send_if_modified(|known| {
            let now = table.names();
            let changed = **known != now;
            if changed {
                *known = Arc::new(now);
            }
            changed
        });
    }
}

#[cfg(test)]
mod tests;
