//! With an API server for the agent's source.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::{
    ApiServer,
    apiserver::User,
    bench::addresses::{REGISTERED, UNREGISTERED},
};

use crate::common::{PERMITTED, Stand, manifest, policy, refused};

/// The kinds of the cluster that are ours, as they are installed.
const KINDS: &str = include_str!("../../../deploy/base/crds.yaml");

#[test]
fn a_pod_is_admitted_before_the_cluster_knows_its_address() -> Result<()> {
    let mut stand = Stand::prepare(&[])?;
    let mut server = ApiServer::start_in(stand.bench.node())?;
    server.apply(&fs::read_to_string(stand.bench.state().path().join("node.yaml"))?)?;
    server.apply(KINDS)?;
    server.apply(&policy().yaml()?)?;
    let kubeconfig = server.kubeconfig(&User::Admin)?;
    stand.agent = stand.agent.with_kubeconfig(&kubeconfig.path());
    stand.runtime.configure(&stand.runtime.network("1.0.0", "ptp"))?;
    let mut stand = stand.run()?;

    // The server gives it its uid.
    server.apply(&manifest("client", "").replace("uid: ,", ""))?;
    let object = server.get("/api/v1/namespaces/app/pods/client")?;
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let sandbox = stand.sandbox("client", uid)?;
    let since = Instant::now();
    let result = stand.runtime.add(&sandbox)??;
    let took = since.elapsed();
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    ensure!(
        !stand.leaves(&sandbox, UNREGISTERED[0], 53)?,
        "what is not permitted got out"
    );
    ensure!(took < Duration::from_secs(4), "it took {took:?}");

    // The server is away, the agent restarts: who is there goes on, who is new waits and is told why.
    server.stop();
    stand.agent.kill()?;
    stand.agent.spawn()?;
    let new = stand.sandbox("new", "uid-new")?;
    refused(stand.runtime.add(&new)?, 11, "is not admitted")?;
    stand.runtime.del(&new, &json!({}))?.ok();
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)?;
    server.restart()?;
    stand.agent.kill()?;
    stand.agent.restart()?;
    stand.runtime.check(&sandbox, &result)??;
    stand.arrives(&sandbox, REGISTERED[0], PERMITTED)
}
