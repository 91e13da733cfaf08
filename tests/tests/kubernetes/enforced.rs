//! The agent itself, with a server for its source.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{Agent, ApiServer, Bench, PATIENCE, apiserver::User};

/// A node, as every cluster has them.
const CLUSTER: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";
const DEFINITION: &str = include_str!("../../../deploy/base/crds.yaml");
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: one}
spec: {gateways: [{namespace: egress, gateway: waypoint}]}
";

#[test]
fn a_policy_of_the_cluster_reaches_the_kernel() -> Result<()> {
    let bench = Bench::create()?;
    let mut server = ApiServer::start_in(bench.node())?;
    for yaml in [CLUSTER, DEFINITION, POLICY] {
        server.apply(yaml)?;
    }
    let kubeconfig = server.kubeconfig(&User::Admin)?;
    let mut agent = Agent::prepare(&bench)?.with_kubeconfig(&kubeconfig.path());
    agent.restart()?;
    let status = agent.settle()?;
    assert_eq!(status["state"], "enforcing", "{status:#}");
    assert_eq!(status["source"]["kind"], "kubernetes");
    assert_eq!(status["source"]["kinds"]["egresspolicies"]["objects"], 1);
    assert_eq!(status["internal"]["10.244.0.0/24"], "a node's podCIDR");

    // The server goes; the agent goes and comes again; the rules stay.
    server.stop();
    agent.kill()?;
    agent.spawn()?;
    let status = std::iter::repeat_with(|| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        agent.status()
    });
    let status = status
        .take(200)
        .filter_map(Result::ok)
        .find(|status| status["problems"].to_string().contains("cannot be reached"));
    let status = status.context("the agent does not say that the server is away")?;
    assert_eq!(
        (&status["state"], &status["ready"]),
        (&"degraded".into(), &false.into()),
        "{status:#}"
    );
    server.restart()?;
    server.delete("/apis/sluice.dev/v1alpha1/egresspolicies/one")?;
    let deadline = Instant::now() + PATIENCE;
    while agent.settle()?["state"] != "idle" {
        ensure!(Instant::now() < deadline, "the policy is gone, and is enforced");
    }
    Ok(())
}
