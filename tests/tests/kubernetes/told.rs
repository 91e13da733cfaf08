//! What the agent tells the cluster of itself, with the rights that an installation gives it.

use std::time::Instant;

use anyhow::{Result, ensure};
use sluice_tests::{
    Agent, ApiServer, Bench, PATIENCE,
    installation::{BASE, account, install},
};

const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: one-way-out}
spec: {gateways: [{namespace: egress, gateway: waypoint}]}
";

const NODE: &str = "
apiVersion: v1
kind: Node
metadata: {name: node-1}
spec: {podCIDRs: [10.244.0.0/24]}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
";

#[test]
fn kubectl_get_tells_that_a_policy_is_enforced() -> Result<()> {
    let bench = Bench::create()?;
    let server = ApiServer::start_in(bench.node())?;
    install(&server, &BASE)?;
    server.apply(NODE)?;
    server.apply(POLICY)?;
    let kubeconfig = server.kubeconfig(&account())?;
    let mut agent = Agent::prepare(&bench)?.with_kubeconfig(&kubeconfig.path());
    agent.restart()?;
    agent.settle()?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        let policy = server.get("/apis/sluice.dev/v1alpha1/egresspolicies/one-way-out")?;
        if policy["status"]["enforcedOn"] == "1/1" {
            break policy["status"].clone();
        }
        ensure!(Instant::now() < until, "not enforced: {:#}", policy["status"]);
        std::thread::sleep(std::time::Duration::from_millis(50));
    };
    assert_eq!(status["nodes"][0]["node"], "node-1");
    assert_eq!(status["nodes"][0]["state"], "Enforcing");
    assert_eq!(status["nodes"][0]["observedGeneration"], 1);
    assert_eq!(status["gateways"], "0/1");
    let reasons: Vec<_> = status["conditions"].as_array().into_iter().flatten().collect();
    let reasons: Vec<_> = reasons
        .iter()
        .filter_map(|condition| condition["reason"].as_str())
        .collect();
    assert_eq!(reasons, ["Accepted", "AllNodes", "GatewayNotFound"]);
    let refused: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|asked| !asked.allowed)
        .collect();
    assert!(
        refused.is_empty(),
        "deploy/base/rbac.yaml does not grant {refused:#?}"
    );
    Ok(())
}
