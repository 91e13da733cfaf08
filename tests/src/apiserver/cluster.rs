//! The cluster of a test: the server in this process, or a real one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{
    ApiServer, Kubeconfig, User,
    admin::{Admin, Request},
    real::Real,
};
use crate::netns::Netns;

/// Path of the kubeconfig of a real cluster to test with.
const REAL: &str = "SLUICE_TEST_KUBECONFIG";

/// What tests use that can be run against a real API server as well: with `SLUICE_TEST_KUBECONFIG` set they are.
///
/// A test takes names of its own ([`Cluster::unique`]) and what it has applied is deleted when this is dropped, but for
/// CustomResourceDefinitions, which others use at the same time. Tests of what a real server cannot be asked for take
/// an [`ApiServer`].
#[derive(Debug)]
pub struct Cluster(Kind);

#[derive(Debug)]
enum Kind {
    InProcess(ApiServer),
    Real(Box<Real>),
}

impl Cluster {
    /// One that is reached at the loopback device of a network namespace.
    pub fn start_in(netns: &Arc<Netns>) -> Result<Self> {
        Self::start_at(Some(Arc::clone(netns)))
    }

    /// One that is reached at the loopback device.
    pub fn start() -> Result<Self> {
        Self::start_at(None)
    }

    fn start_at(netns: Option<Arc<Netns>>) -> Result<Self> {
        let kind = match std::env::var_os(REAL) {
            Some(path) => {
                let reach = || format!("reaching the cluster of {REAL}={}", path.display());
                Kind::Real(Box::new(Real::reach(path.as_ref(), netns).with_context(reach)?))
            }
            None => Kind::InProcess(ApiServer::listen(netns)?),
        };
        Ok(Self(kind))
    }

    /// One that is real, whatever the environment says.
    pub fn reach(kubeconfig: &Kubeconfig, netns: Option<Arc<Netns>>) -> Result<Self> {
        Real::reach(&kubeconfig.path(), netns).map(|real| Self(Kind::Real(Box::new(real))))
    }

    /// A name that no other test has.
    pub fn unique(prefix: &str) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}-{}-{count}", std::process::id())
    }

    /// A configuration for a service account, which is made if it is not there.
    pub fn kubeconfig(&self, namespace: &str, name: &str) -> Result<Kubeconfig> {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": namespace},
        });
        self.apply_object(&account)?;
        match &self.0 {
            Kind::InProcess(server) => {
                server.kubeconfig(&User::ServiceAccount(namespace.to_owned(), name.to_owned()))
            }
            Kind::Real(real) => real.kubeconfig(namespace, name),
        }
    }

    /// A client for the test itself, which may do everything. To be made within a runtime of tokio.
    pub fn client(&self) -> Result<kube::Client> {
        match &self.0 {
            Kind::InProcess(server) => server.client(&User::Admin),
            Kind::Real(real) => real.client(),
        }
    }

    /// Makes it unreachable for the agent: connections end, and new ones are refused.
    pub fn cut(&mut self) {
        match &mut self.0 {
            Kind::InProcess(server) => server.stop(),
            Kind::Real(real) => real.cut(),
        }
    }

    /// Makes it reachable again.
    pub fn mend(&mut self) -> Result<()> {
        match &mut self.0 {
            Kind::InProcess(server) => server.restart(),
            Kind::Real(real) => real.mend(),
        }
    }

    /// Applies every object of a text of YAML, with its status. A namespace that is not there is made.
    pub fn apply(&self, yaml: &str) -> Result<()> {
        Admin::apply(self, yaml)
    }

    /// Applies an object, with its status.
    pub fn apply_object(&self, object: &Value) -> Result<Value> {
        Admin::apply_object(self, object)
    }

    /// The object at a path of the API, as `/api/v1/nodes/node-1`; or a list.
    pub fn get(&self, path: &str) -> Result<Value> {
        Admin::get(self, path)
    }

    /// Merges a patch into the object at a path.
    pub fn patch(&self, path: &str, change: &Value) -> Result<Value> {
        Admin::patch(self, path, change)
    }

    /// Deletes the object at a path.
    pub fn delete(&self, path: &str) -> Result<()> {
        Admin::delete(self, path)
    }
}

impl Admin for Cluster {
    fn call(&self, request: Request) -> Result<Value> {
        match &self.0 {
            Kind::InProcess(server) => server.call(request),
            Kind::Real(real) => real.call(request),
        }
    }
}
