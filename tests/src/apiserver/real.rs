//! A real API server, and a way to it out of the agent's network namespace.

use std::{
    net::TcpListener,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use axum::http;
use kube::config::{Cluster as Server, KubeConfigOptions, Kubeconfig as Given};
use serde_json::{Value, json};
use tokio::{
    io::copy_bidirectional,
    net::TcpStream,
    runtime::{Builder, Runtime},
};

use super::{
    Kubeconfig,
    admin::{Admin, Request},
    lock,
    place::Place,
};
use crate::netns::{Netns, on_thread};

/// How long clean-up waits, as every request of the test itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// A cluster that is there already.
#[derive(Debug)]
pub(super) struct Real {
    config: kube::Config,
    server: Server,
    place: Place,
    /// Of the forwarder; gone while the cluster is cut off.
    forwarder: Option<Runtime>,
    /// Paths of what was not there before, in the order in which it came.
    made: Mutex<Vec<String>>,
}

impl Real {
    pub(super) fn reach(path: &Path, netns: Option<Arc<Netns>>) -> Result<Self> {
        let given = Given::read_from(path)?;
        let server = current(&given).context("its current context names no cluster")?;
        let options = KubeConfigOptions::default();
        let mut config = on_thread(|| {
            runtime()?
                .block_on(kube::Config::from_custom_kubeconfig(given, &options))
                .context("reading the kubeconfig")
        })?;
        config.read_timeout = Some(PATIENCE);
        let (place, listener) = Place::take(netns)?;
        let mut real = Self {
            config,
            server,
            place,
            forwarder: None,
            made: Mutex::default(),
        };
        real.forward(listener)?;
        Ok(real)
    }

    /// Passes connections on to the server as they are.
    fn forward(&mut self, listener: TcpListener) -> Result<()> {
        let url = &self.config.cluster_url;
        let host = url.host().context("the URL of the server names no host")?;
        let default = if url.scheme_str() == Some("http") { 80 } else { 443 };
        let target = format!("{host}:{}", url.port_u16().unwrap_or(default));
        let runtime = runtime()?;
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener)?;
            while let Ok((mut inner, _)) = listener.accept().await {
                let target = target.clone();
                tokio::spawn(async move {
                    // Whoever calls sees that the connection ends, whatever the reason.
                    if let Ok(mut outer) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut inner, &mut outer).await;
                    }
                });
            }
            std::io::Result::Ok(())
        });
        self.forwarder = Some(runtime);
        Ok(())
    }

    pub(super) fn cut(&mut self) {
        if let Some(runtime) = self.forwarder.take() {
            on_thread(|| runtime.shutdown_timeout(Duration::from_secs(1)));
        }
    }

    pub(super) fn mend(&mut self) -> Result<()> {
        self.cut();
        let listener = self.place.listen()?;
        self.forward(listener)
    }

    pub(super) fn client(&self) -> Result<kube::Client> {
        Ok(kube::Client::try_from(self.config.clone())?)
    }

    /// A configuration that leads through the forwarder.
    pub(super) fn kubeconfig(&self, namespace: &str, name: &str) -> Result<Kubeconfig> {
        let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
        let answer = self.call(Request {
            method: "POST",
            path: &format!("/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"),
            query: "",
            content: "application/json",
            body: &request,
        })?;
        let token = answer["status"]["token"]
            .as_str()
            .context("the server gave no token")?;
        let mut server = serde_json::to_value(&self.server)?;
        let url = &self.config.cluster_url;
        let scheme = url.scheme_str().unwrap_or("https");
        server["server"] = json!(format!("{scheme}://{}", self.place.address()));
        if scheme == "https" && server["tls-server-name"].is_null() {
            // Its certificate is not for the forwarder's address.
            server["tls-server-name"] = json!(url.host());
        }
        Kubeconfig::write(&server, namespace, token)
    }

    fn send(&self, request: Request) -> Result<Value> {
        let Request {
            method,
            path,
            query,
            content,
            body,
        } = request;
        let bytes = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        let uri = if query.is_empty() {
            path.to_owned()
        } else {
            format!("{path}?{query}")
        };
        let request = http::Request::builder()
            .method(method)
            .uri(uri)
            .header(http::header::CONTENT_TYPE, content)
            .body(bytes.into_bytes())?;
        // The test may be within a runtime of its own.
        let answer: Result<Value> = on_thread(|| {
            runtime()?.block_on(async {
                let client = self.client()?;
                Ok(client.request(request).await?)
            })
        });
        answer.map_err(|error| anyhow!("{method} {path}: {error}"))
    }
}

impl Admin for Real {
    fn call(&self, request: Request) -> Result<Value> {
        let applies = request.content.contains("apply") && !request.path.ends_with("/status");
        let is_new = applies && self.get(request.path).is_err();
        let answer = self.send(request)?;
        // Other tests use the same definitions.
        if is_new && !request.path.contains("/customresourcedefinitions/") {
            lock(&self.made).push(request.path.to_owned());
        }
        Ok(answer)
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        self.cut();
        for path in lock(&self.made).split_off(0).iter().rev() {
            // The test may have deleted it already.
            let _ = self.delete(path);
        }
    }
}

/// The cluster of the current context.
fn current(given: &Given) -> Option<Server> {
    let context = given.current_context.as_ref()?;
    let context = given.contexts.iter().find(|named| named.name == *context)?;
    let wanted = &context.context.as_ref()?.cluster;
    let found = given.clusters.iter().find(|named| named.name == *wanted)?;
    found.cluster.clone()
}

fn runtime() -> Result<Runtime> {
    let mut builder = Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.context("starting a runtime")
}
