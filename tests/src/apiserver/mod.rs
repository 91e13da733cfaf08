//! A Kubernetes API server in the test's own process: real HTTP, objects in memory.
//!
//! It does what the documentation of Kubernetes says of list, watch, patch, server-side apply, RBAC and
//! CustomResourceDefinitions, for the kinds that sluice reads and writes. What it does not do: admission, garbage
//! collection, controllers, protobuf.
//!
//! ```text
//! http -> rbac -> objects | list | watch -> store
//!                 |- schema, apply
//! ```

mod access;
mod admin;
mod apply;
mod builtin;
mod call;
mod cluster;
pub mod crds;
mod delete;
mod discovery;
mod faults;
mod fields;
mod http;
mod kinds;
mod kubeconfig;
mod list;
mod meta;
mod networks;
mod objects;
mod place;
mod rbac;
mod real;
mod refusal;
mod rules;
mod schema;
mod selectors;
mod store;
mod table;
mod validate;
mod watch;

use std::{
    collections::BTreeSet,
    net::TcpListener,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use axum::{body::Bytes, http::Method};
use serde_json::{Value, json};
use tokio::{
    runtime::{Builder, Runtime},
    sync::watch::Sender,
};

use self::{
    access::Tokens,
    admin::{Admin, Request},
    call::{Call, Query, Target},
    faults::Faults,
    place::Place,
    store::Store,
};
pub use self::{
    access::User, call::Verb, cluster::Cluster, kubeconfig::Kubeconfig, rbac::Asked, refusal::Refusal,
};
use crate::netns::{Netns, on_thread};

/// What requests share.
#[derive(Debug)]
struct Shared {
    store: Mutex<Store>,
    tokens: Mutex<Tokens>,
    asked: Mutex<BTreeSet<Asked>>,
    faults: Sender<Faults>,
}

/// Somebody who held it has panicked: the test fails for that, not for what comes after.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        lock(&self.tokens)
    }

    fn authorize(&self, call: &Call) -> Result<(), Refusal> {
        let (asked, verdict) = rbac::judge(&self.store(), call);
        lock(&self.asked).insert(asked);
        verdict
    }
}

/// A server. It is gone when this is dropped.
#[derive(Debug)]
pub struct ApiServer {
    shared: Arc<Shared>,
    /// Where the agent reaches it, and where the test does.
    places: [Place; 2],
    /// Runs while it does.
    runtime: Option<Runtime>,
}

impl ApiServer {
    /// Starts one that listens on the loopback device.
    pub fn start() -> Result<Self> {
        Self::listen(None)
    }

    /// Starts one that listens on the loopback device of a network namespace, and of the test's own as well.
    pub fn start_in(netns: &Arc<Netns>) -> Result<Self> {
        Self::listen(Some(Arc::clone(netns)))
    }

    fn listen(netns: Option<Arc<Netns>>) -> Result<Self> {
        let (there, first) = Place::take(netns)?;
        let (here, second) = Place::take(None)?;
        let shared = Shared {
            store: Mutex::new(Store::new()),
            tokens: Mutex::default(),
            asked: Mutex::default(),
            faults: Sender::new(Faults::default()),
        };
        let mut server = Self {
            shared: Arc::new(shared),
            places: [there, here],
            runtime: None,
        };
        for name in ["default", "kube-system"] {
            server.apply_object(
                &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}),
            )?;
        }
        server.serve([first, second])?;
        Ok(server)
    }

    fn serve(&mut self, listeners: [TcpListener; 2]) -> Result<()> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("api-server")
            .enable_all()
            .build()
            .context("starting a runtime for the API server")?;
        for listener in listeners {
            let router = http::router(Arc::clone(&self.shared));
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(async move {
                // It ends with its runtime.
                let _ = axum::serve(listener, router).await;
            });
        }
        self.runtime = Some(runtime);
        Ok(())
    }

    /// Its address where the agent is.
    pub fn url(&self) -> String {
        format!("http://{}", self.places[0].address())
    }

    /// Its address where the test is.
    pub fn local_url(&self) -> String {
        format!("http://{}", self.places[1].address())
    }

    /// A configuration for whoever is where the agent is.
    pub fn kubeconfig(&self, user: &User) -> Result<Kubeconfig> {
        let token = self.shared.tokens().issue(user.clone());
        Kubeconfig::write(&json!({"server": self.url()}), user.namespace(), &token)
    }

    /// A client for the test itself.
    pub fn client(&self, user: &User) -> Result<kube::Client> {
        let token = self.shared.tokens().issue(user.clone());
        let mut config = kube::Config::new(self.local_url().parse()?);
        config.auth_info.token = Some(token.into());
        user.namespace().clone_into(&mut config.default_namespace);
        Ok(kube::Client::try_from(config)?)
    }

    /// Gives a user another token, which is written to the configuration. The old ones are good no longer.
    pub fn rotate(&self, user: &User, kubeconfig: &Kubeconfig) -> Result<()> {
        let mut tokens = self.shared.tokens();
        tokens.revoke(user);
        kubeconfig.write_token(&tokens.issue(user.clone()))
    }

    /// No token of this user is good any longer.
    pub fn revoke(&self, user: &User) {
        self.shared.tokens().revoke(user);
    }

    /// Whatever was asked for so far, by anybody but the test.
    pub fn asked(&self) -> BTreeSet<Asked> {
        let asked = lock(&self.shared.asked);
        asked
            .iter()
            .filter(|asked| asked.user != User::Admin)
            .cloned()
            .collect()
    }

    /// Stops it: connections end, and new ones are refused.
    pub fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever calls may be within a runtime of its own, where one must not wait for another.
            on_thread(|| runtime.shutdown_timeout(Duration::from_secs(1)));
        }
    }

    /// Starts it again, at the same ports and with the objects that it had.
    pub fn restart(&mut self) -> Result<()> {
        self.stop();
        let [there, here] = &self.places;
        let listeners = [there.listen()?, here.listen()?];
        self.serve(listeners)
    }

    /// Takes requests and does not answer them, until it is told to.
    pub fn stall(&self, stalled: bool) {
        self.shared.faults.send_modify(|faults| faults.stalled = stalled);
    }

    /// Lets every request wait.
    pub fn delay(&self, delay: Duration) {
        self.shared.faults.send_modify(|faults| faults.delay = delay);
    }

    /// How often watches get a bookmark: every second, unless it is set.
    pub fn bookmark_every(&self, interval: Duration) {
        self.shared
            .faults
            .send_modify(|faults| faults.bookmark_interval = interval);
    }

    /// Ends all watches that are under way.
    pub fn drop_watches(&self) {
        self.shared.faults.send_modify(|faults| faults.epoch += 1);
    }

    /// Forgets what has happened: versions that were given out are too old for a watch (410).
    pub fn expire(&self) {
        self.shared.store().forget();
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

    /// Puts in thousands of objects at once, as if they had been there. Nobody checks them.
    pub fn load(&self, objects: impl IntoIterator<Item = Value>) -> Result<()> {
        let mut store = self.shared.store();
        for mut object in objects {
            let found = store.kinds.of(&object);
            let resource = Arc::clone(found.with_context(|| format!("the kind of {object} is not served"))?);
            meta::stamp(&mut object)?;
            store.put(&resource, meta::key(&object), object);
        }
        Ok(())
    }
}

impl Admin for ApiServer {
    fn call(&self, request: Request) -> Result<Value> {
        let Request {
            method,
            path,
            query,
            content,
            body,
        } = request;
        let call = || -> Result<Value, Refusal> {
            let Some(target) = Target::parse(path) else {
                return discovery::document(&self.shared.store(), path);
            };
            let query = Query::parse(query);
            let body = if body.is_null() {
                Bytes::new()
            } else {
                Bytes::from(body.to_string())
            };
            let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::not_allowed())?;
            let call = Call {
                verb: target.verb(&method, &query)?,
                target,
                query,
                user: User::Admin,
                agent: "test".to_owned(),
                content: content.to_owned(),
                accept: String::new(),
                body,
            };
            let mut store = self.shared.store();
            if call.verb == Verb::List {
                let list = list::list(&store, &call)?.body(&call.target.version);
                return serde_json::from_slice(&list)
                    .map_err(|error| Refusal::bad_request(error.to_string()));
            }
            objects::serve(&mut store, &call).map(|(_, object)| object)
        };
        call().map_err(|refusal| anyhow!("{method} {path}: {}", refusal.message))
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.stop();
    }
}
