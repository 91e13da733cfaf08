//! The cluster's API server as the source of objects.
//!
//! Each kind is listed and then watched by a task of its own, which turns what comes at once into the small types of
//! [`objects`](crate::objects). What was last known stays until the server says otherwise: a server that is away, a
//! watch that ends, a list that is half here and an object that cannot be read take nothing away.
//!
//! A kind that the server does not have counts as one without objects, and is looked for again. One that it had:
//! - with a CustomResourceDefinition its objects are deleted one by one, and a watch is told of each;
//! - if they were not seen to go, policies stay in force; other objects stay until the server has said for a minute that
//!   it does not have their kind.

mod api;
mod client;
mod item;
mod report;
mod table;
mod target;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use kube::Client;
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinSet},
};

pub use self::client::{ConnectError, client};
use self::{
    target::Target,
    watch::{Health, Watch},
};
use super::{Loaded, stores::Stores};
use crate::objects::{GatewayRef, Kind};

/// For how long a change waits for others, so that they become one.
const DEBOUNCE: Duration = Duration::from_millis(10);
/// For how long at the most, however many come.
const PATIENCE: Duration = Duration::from_millis(100);

/// A cluster, watched.
pub struct Kubernetes {
    client: Client,
    changed: Arc<Notify>,
    /// What is always watched.
    watches: Vec<Arc<Watch>>,
    /// Pods that policies name as gateways, wherever they are.
    gateways: BTreeMap<Target, (Arc<Watch>, AbortHandle)>,
    tasks: JoinSet<()>,
    /// Rules enforce policies already: that there are none must be said by the server, not be guessed.
    enforced: bool,
    /// There was a time at which everything was known.
    complete: bool,
    /// Something has changed since the last look.
    again: bool,
}

impl Kubernetes {
    /// Begins to watch what an agent on this node needs to know. `enforced`: rules that enforce policies are in the
    /// kernel. Needs tokio.
    pub fn start(client: Client, node: &str, enforced: bool) -> Self {
        let mut kubernetes = Self {
            client,
            changed: Arc::default(),
            watches: Vec::new(),
            gateways: BTreeMap::new(),
            tasks: JoinSet::new(),
            enforced,
            complete: false,
            again: false,
        };
        for target in Target::all(node) {
            let (watch, _) = kubernetes.watch(target);
            kubernetes.watches.push(watch);
        }
        kubernetes
    }

    /// How the server is reached, for others who have something to say to it.
    pub const fn client(&self) -> &Client {
        &self.client
    }

    fn watch(&mut self, target: Target) -> (Arc<Watch>, AbortHandle) {
        let watch = Arc::new(Watch::new(target, Arc::clone(&self.changed)));
        let task = self.tasks.spawn(Arc::clone(&watch).run(self.client.clone()));
        (watch, task)
    }

    /// Waits until there is reason to [`load`](Self::load) again. May be dropped and called again at any time.
    pub async fn changed(&mut self) {
        if !self.again {
            self.changed.notified().await;
            self.again = true;
        }
        let ends = Instant::now() + PATIENCE;
        while Instant::now() < ends
            && tokio::time::timeout(DEBOUNCE, self.changed.notified())
                .await
                .is_ok()
        {}
        self.again = false;
    }

    /// All objects as they are known now.
    pub fn load(&mut self) -> Loaded {
        self.follow_gateways();
        let mut stores = Stores::of_one_node();
        for (watch, _) in self.gateways.values() {
            stores.absorb(watch.known().table.objects().clone());
        }
        for watch in &self.watches {
            stores.absorb(watch.known().table.objects().clone());
        }
        stores.awaited_gateways = self.awaited(&stores);
        self.complete = self.complete || self.all().all(|watch| self.is_whole(watch));
        stores.set_complete(self.complete);
        let problems = self.problems();
        Loaded { stores, problems }
    }

    /// Whether all that a watch is about is known. Gateways on other nodes decide nothing here: they are only waited for, as
    /// otherwise they would be told of as missing.
    fn is_whole(&self, watch: &Watch) -> bool {
        let known = watch.known();
        if self.gateways.contains_key(&watch.target) && !matches!(known.health, Health::Starting) {
            return true;
        }
        let policies = watch.target.kind == Kind::EgressPolicy;
        if policies && known.table.unreadable().any(|(_, _, known)| !known) {
            return false;
        }
        let absent = matches!(known.health, Health::Absent { .. });
        known.table.is_listed() || absent && !(policies && self.enforced)
    }

    /// Watches the pods that are meant by the policies' gateways, and no others.
    fn follow_gateways(&mut self) {
        let mut wanted = BTreeSet::new();
        for watch in &self.watches {
            let known = watch.known();
            for policy in known.table.objects().policies.values() {
                wanted.extend(policy.gateways.iter().map(Target::gateway));
                wanted.insert(Target::resolver());
            }
        }
        self.gateways.retain(|target, (_, task)| {
            let stays = wanted.contains(target);
            if !stays {
                task.abort();
            }
            stays
        });
        for target in wanted {
            if !self.gateways.contains_key(&target) {
                let watching = self.watch(target.clone());
                self.gateways.insert(target, watching);
            }
        }
        // Those that were aborted are forgotten.
        while self.tasks.try_join_next().is_some() {}
    }

    /// The gateways of which it is not known yet whether there is a pod: a list is on its way.
    fn awaited(&self, stores: &Stores) -> Vec<GatewayRef> {
        let is_awaited = |gateway: &&GatewayRef| {
            let watching = self.gateways.get(&Target::gateway(gateway));
            watching.is_none_or(|(watch, _)| !watch.known().table.is_listed())
        };
        let gateways = stores.policies.values().flat_map(|policy| &policy.gateways);
        gateways.filter(is_awaited).cloned().collect()
    }

    fn all(&self) -> impl Iterator<Item = &Watch> {
        let gateways = self.gateways.values().map(|(watch, _)| &**watch);
        self.watches.iter().map(|watch| &**watch).chain(gateways)
    }
}

#[cfg(test)]
mod tests;
