//! The agent is up, down and restarting.

use anyhow::Result;
use sluice_tests::{Agent, Bench, manifest::Policy, newcomer};

use crate::pods::{Node, were_dropped};

#[test]
fn no_first_packet_gets_out_whatever_the_agent_does() -> Result<()> {
    let pods = newcomer::how_many(1000);
    let bench = Bench::create()?;
    let outside = bench.capture_outside()?;
    let node = Node {
        bench: &bench,
        outside: &outside,
    };
    let mut agent = Agent::start(&bench)?;
    node.is_open()?;
    bench.state().policy(&Policy::default())?;
    agent.settle()?;

    let tell = |known: &str| bench.state().write("newcomers", known);
    let third = pods / 3;
    node.is_closed("agent up", 1..third, tell)?;
    agent.kill()?;
    node.is_closed("agent down", third..2 * third, tell)?;
    node.is_closed("agent restarting", 2 * third..pods + 1, |known| {
        agent.kill()?;
        agent.spawn()?;
        tell(known)
    })?;
    tell("")?;
    agent.restart()?;
    were_dropped(&agent, pods)
}
