//! The API server that tests use, asked by the client that the agent has.

mod access;
mod apply;
mod cluster;
mod custom;
mod faults;
mod read;
mod scale;
mod write;

use anyhow::{Context as _, Result};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::{
    Api, Client,
    api::{WatchEvent, WatchParams},
    core::Status,
};
use serde_json::{Value, json};
use sluice_tests::{
    ApiServer, PATIENCE,
    apiserver::{Kubeconfig, User},
};
use tokio::time::timeout;

/// A server and a client that may do everything.
fn stand() -> Result<(ApiServer, Client)> {
    let server = ApiServer::start()?;
    let client = server.client(&User::Admin)?;
    Ok((server, client))
}

fn account() -> User {
    User::ServiceAccount("sluice-system".to_owned(), "sluice".to_owned())
}

/// A `ConfigMap` in the namespace `default`.
fn config_map(name: &str, value: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default", "labels": {"value": value}},
        "data": {"key": value},
    })
}

fn typed<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).context("not of its kind")
}

/// How a call was refused.
fn refusal<T: std::fmt::Debug>(result: kube::Result<T>) -> Result<Status> {
    let error = result.err().context("it was not refused")?;
    let kube::Error::Api(status) = error else {
        return Err(error).context("it was not answered");
    };
    Ok(*status)
}

/// The code with which a call was refused.
fn code<T: std::fmt::Debug>(result: kube::Result<T>) -> Result<u16> {
    Ok(refusal(result)?.code)
}

/// The message with which a call was refused.
fn message<T: std::fmt::Debug>(result: kube::Result<T>) -> Result<String> {
    Ok(refusal(result)?.message)
}

/// The next event of a watch.
async fn next<T>(
    events: &mut (impl Stream<Item = kube::Result<WatchEvent<T>>> + Unpin),
) -> Result<WatchEvent<T>> {
    let event = timeout(PATIENCE, events.next()).await.context("no event came")?;
    Ok(event.context("the watch has ended")??)
}
