//! A source that watches a server in the test's process.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use sluice::source::{Kubernetes, Loaded, Stores, WatchState, kubernetes};
use sluice_tests::{
    ApiServer, PATIENCE,
    apiserver::{Kubeconfig, User},
};

/// The node that the source is for.
pub(crate) const NODE: &str = "node-1";
/// A node, as every cluster has them.
pub(crate) const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

/// A CustomResourceDefinition that says no more than that there is such a kind.
pub(crate) fn definition(group: &str, kind: &str, plural: &str, versions: &[&str], scope: &str) -> String {
    let mut yaml = format!(
        "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {{name: {plural}.{group}}}\n\
         spec:\n  group: {group}\n  scope: {scope}\n  names: {{kind: {kind}, plural: {plural}}}\n  versions:\n"
    );
    for (index, version) in versions.iter().enumerate() {
        let stored = index == 0;
        let schema = "{openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}";
        let version = format!("  - {{name: {version}, served: true, storage: {stored}, schema: {schema}}}\n");
        yaml.push_str(&version);
    }
    yaml
}

/// That of EgressPolicy.
pub(crate) fn policies() -> String {
    definition(
        "sluice.dev",
        "EgressPolicy",
        "egresspolicies",
        &["v1alpha1"],
        "Cluster",
    )
}

/// That of ServiceEntry, in these versions.
pub(crate) fn service_entries(versions: &[&str]) -> String {
    definition(
        "networking.istio.io",
        "ServiceEntry",
        "serviceentries",
        versions,
        "Namespaced",
    )
}

/// A policy of which only the name counts.
pub(crate) fn policy(name: &str) -> String {
    format!("apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: {name}}}\nspec: {{}}\n")
}

/// A namespace.
pub(crate) fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n")
}

/// A pod of the node.
pub(crate) fn pod(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: app{more}}}\n\
         spec: {{nodeName: {NODE}, containers: [{{name: a, image: b}}]}}\nstatus: {{podIP: 10.244.0.10}}\n"
    )
}

/// A server and a source that watches it.
pub(crate) struct Stand {
    pub(crate) server: ApiServer,
    pub(crate) kubeconfig: Kubeconfig,
    pub(crate) source: Kubernetes,
    pub(crate) user: User,
}

impl Stand {
    /// A server with these objects, and with a definition of `EgressPolicy`.
    pub(crate) async fn with(objects: &[String]) -> Result<Self> {
        let server = ApiServer::start()?;
        for yaml in [CLUSTER.to_owned(), policies()].iter().chain(objects) {
            server.apply(yaml)?;
        }
        Self::watching(server, User::Admin, false).await
    }

    pub(crate) async fn watching(server: ApiServer, user: User, enforced: bool) -> Result<Self> {
        let kubeconfig = server.kubeconfig(&user)?;
        let client = kubernetes::client(Some(&kubeconfig.path())).await?;
        let source = Kubernetes::start(client, NODE, enforced);
        Ok(Self {
            server,
            kubeconfig,
            source,
            user,
        })
    }

    /// Loads until it is as wanted.
    pub(crate) async fn until(&mut self, what: &str, wanted: impl Fn(&Loaded) -> bool) -> Result<Loaded> {
        self.within(PATIENCE, what, wanted).await
    }

    /// The same with a patience of its own.
    pub(crate) async fn within(
        &mut self,
        patience: Duration,
        what: &str,
        wanted: impl Fn(&Loaded) -> bool,
    ) -> Result<Loaded> {
        let deadline = Instant::now() + patience;
        loop {
            let loaded = self.source.load();
            if wanted(&loaded) {
                return Ok(loaded);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left, self.source.changed()).await.is_err() {
                bail!("waited in vain for {what}; there is {loaded:#?}");
            }
        }
    }

    /// Loads until everything is known.
    pub(crate) async fn complete(&mut self) -> Result<Loaded> {
        self.until("everything", |loaded| loaded.stores.is_complete())
            .await
    }

    /// Loads until there is a problem with these words in it.
    pub(crate) async fn problem(&mut self, words: &str) -> Result<Loaded> {
        self.until(words, |loaded| says(loaded, words)).await
    }

    /// Loads until all watches are well, but for kinds that are absent.
    pub(crate) async fn well(&mut self) -> Result<Loaded> {
        let deadline = Instant::now() + PATIENCE * 4;
        loop {
            let loaded = self.source.load();
            let status = self.source.status();
            let ill = |state| !matches!(state, WatchState::Watching | WatchState::Absent);
            if !status.kinds.values().any(|kind| ill(kind.state)) {
                return Ok(loaded);
            }
            if Instant::now() > deadline {
                bail!("not well again: {status:#?}");
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Whether a problem has these words in it.
pub(crate) fn says(loaded: &Loaded, words: &str) -> bool {
    loaded
        .problems
        .iter()
        .any(|problem| problem.to_string().contains(words))
}

/// The names of the policies.
pub(crate) fn names(stores: &Stores) -> Vec<&str> {
    stores.policies.keys().map(String::as_str).collect()
}

/// Whether two stores share an object, rather than have one each.
pub(crate) fn share<T>(a: &Arc<T>, b: &Arc<T>) -> bool {
    Arc::ptr_eq(a, b)
}
