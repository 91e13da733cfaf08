//! The API server is up and away.

use std::{fs, time::Instant};

use anyhow::{Result, ensure};
use sluice_tests::{Agent, ApiServer, Bench, PATIENCE, apiserver::User, manifest::Policy, newcomer};

use crate::pods::{Node, were_dropped};

/// The kinds of the cluster that are ours, as they are installed.
const KINDS: &str = include_str!("../../../deploy/base/crds.yaml");

#[test]
fn no_first_packet_gets_out_wherever_the_api_server_is() -> Result<()> {
    let pods = newcomer::how_many(1000);
    let bench = Bench::create()?;
    let mut server = ApiServer::start_in(bench.node())?;
    server.apply(&fs::read_to_string(bench.state().path().join("node.yaml"))?)?;
    server.apply(KINDS)?;
    let outside = bench.capture_outside()?;
    let node = Node {
        bench: &bench,
        outside: &outside,
    };
    let kubeconfig = server.kubeconfig(&User::Admin)?;
    let mut agent = Agent::prepare(&bench)?.with_kubeconfig(&kubeconfig.path());
    agent.restart()?;
    node.is_open()?;
    server.apply(&Policy::default().yaml()?)?;
    let deadline = Instant::now() + PATIENCE;
    while agent.settle()?["state"] != "enforcing" {
        ensure!(Instant::now() < deadline, "the policy is not enforced");
    }

    let third = pods / 3;
    let tell = |known: &str| {
        if known.is_empty() {
            Ok(())
        } else {
            server.apply(known)
        }
    };
    node.is_closed("API server up", 1..third, tell)?;
    server.stop();
    node.is_closed("API server away", third..2 * third, |_| Ok(()))?;
    node.is_closed("API server away, agent restarting", 2 * third..pods + 1, |_| {
        agent.kill()?;
        agent.spawn()
    })?;
    server.restart()?;
    agent.kill()?;
    agent.restart()?;
    were_dropped(&agent, pods)
}
