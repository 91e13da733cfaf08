//! Node mode: a proxy of the node takes the calls of its pods.

use anyhow::Result;
use sluice_tests::bench::addresses::{NODE_V4, NODE_V6, REGISTERED, UNREGISTERED};

use super::{
    access_log::AccessLog,
    caller::{self, Answer, Outcome},
    line::{self, Line},
    stage::{Proxy, Stage},
};
use crate::{
    stage::{OTHER_HOST, REGISTERED_HOST, ip},
    table::Table,
};

/// With an Envoy, which goes on.
pub(super) fn by_envoy(stage: &Stage, table: &mut Table) -> Result<Proxy> {
    Table::chapter("Capture, node mode: a namespace labelled sluice.dev/capture=node, an Envoy on the node");
    let envoy = stage.node_envoy()?;
    reaches_neighbour(stage, table, "envoy", &envoy.log)?;
    goes_by_gateway(stage, table, &envoy.log)?;
    is_held_to_policy(stage, table, &envoy.log)?;
    Ok(envoy)
}

/// With an `HAProxy` in its place, which goes on; where none can run, the Envoy does.
pub(super) fn by_haproxy(stage: &Stage, table: &mut Table, envoy: Proxy) -> Result<Proxy> {
    if !Stage::has_haproxy()? {
        Table::chapter("(HAProxy is built for another processor than this emulated one, and left out)");
        return Ok(envoy);
    }
    drop(envoy);
    Table::chapter("The same with another proxy in its place: an HAProxy with `bind … transparent`");
    let haproxy = stage.node_haproxy()?;
    reaches_neighbour(stage, table, "haproxy", &haproxy.log)?;
    Ok(haproxy)
}

/// Without one.
pub(super) fn is_refused(stage: &Stage, table: &mut Table) -> Result<()> {
    for to in Stage::served(&stage.neighbour) {
        line::refused(stage, table, &stage.client, to, ("deny", "no-proxy"))?;
    }
    Ok(())
}

fn reaches_neighbour(stage: &Stage, table: &mut Table, proxy: &str, log: &AccessLog) -> Result<()> {
    let client = &stage.client;
    for (to, node) in Stage::served(&stage.neighbour)
        .into_iter()
        .zip([NODE_V4, NODE_V6])
    {
        stage.events.clear();
        let mut line = Line::new("client", format!("http://{to}"));
        let outcome = caller::get(client, to, "neighbour")?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, proxy, "outbound", call, to)?;
        }
        if let Some(served) = line.served(&outcome, to) {
            line.require(
                served.from.ip() == ip(node) && served.to == to,
                format!("the server to be called by the node, {node}"),
            );
            line.by("neighbour");
        }
        line.explained(stage, client, to, "redirect", "outbound")?;
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// What is permitted goes through the egress gateway, as the proxy is told to.
fn goes_by_gateway(stage: &Stage, table: &mut Table, log: &AccessLog) -> Result<()> {
    for (to, gateway) in Stage::web(REGISTERED).into_iter().zip(stage.gateway.addresses()) {
        stage.events.clear();
        let mut line = Line::new("client", format!("{REGISTERED_HOST} at {to}"));
        let outcome = caller::get(&stage.client, to, REGISTERED_HOST)?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, "envoy", "outbound", call, to)?;
        }
        if let Some(served) = line.served(&outcome, to) {
            line.require(
                served.from.ip() == gateway && served.host == REGISTERED_HOST,
                format!("the server to be called by the gateway, {gateway}"),
            );
            line.by("gateway > outside");
        }
        line.show(table, outcome.seen());
    }
    Ok(())
}

/// What is not permitted is refused to the proxy, too.
fn is_held_to_policy(stage: &Stage, table: &mut Table, log: &AccessLog) -> Result<()> {
    for to in Stage::web(UNREGISTERED) {
        stage.events.clear();
        let mut line = Line::new("client", format!("{OTHER_HOST} at {to}"));
        let outcome = caller::get(&stage.client, to, OTHER_HOST)?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(log, "envoy", "outbound", call, to)?;
            line.require(matches!(call.answer, Answer::Status(503)), "the proxy to fail");
        } else {
            line.require(false, "the proxy to take it");
        }
        line.verdict(stage, "deny", "not-gateway", to);
        line.show(table, outcome.seen());
    }
    Ok(())
}
