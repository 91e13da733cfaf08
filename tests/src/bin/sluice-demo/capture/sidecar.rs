//! A sidecar, and the range that its pod excludes.

use std::net::SocketAddr;

use anyhow::Result;
use sluice_tests::bench::addresses::REGISTERED;

use super::{
    ambient,
    caller::{self, Answer, Outcome},
    line::Line,
    stage::{EXCLUDED, INCLUDED, Proxy, Stage},
};
use crate::{stage::at, table::Table};

/// Shows both sides of the annotation. The sidecar goes on.
pub(super) fn play(stage: &Stage, table: &mut Table) -> Result<Proxy> {
    Table::chapter(
        "Capture, sidecar mode: traffic.sidecar.istio.io/excludeOutboundIPRanges: \"10.10.0.4/32\"",
    );
    let proxy = stage.pod_envoy("envoy-sidecar", &stage.hammer, &stage.sidecar_cgroup)?;
    let past = is_past_it(stage, table)?;
    goes_to_it(stage, table, &proxy)?;
    is_held_to_policy(stage, table, &proxy)?;
    // What came later is in its log; so would be what came before.
    if let Some(caller) = past {
        let mut line = Line::new("hammer", format!("the sidecar's log, of the call for {EXCLUDED}"));
        line.require(proxy.log.find(caller)?.is_none(), "nothing of it there");
        line.show(table, "nothing there");
    }
    Ok(proxy)
}

fn is_past_it(stage: &Stage, table: &mut Table) -> Result<Option<SocketAddr>> {
    let to = at(EXCLUDED, 80);
    let mut line = Line::new("hammer", format!("http://{to}"));
    let outcome = caller::get(&stage.hammer, to, EXCLUDED)?;
    ambient::direct(&mut line, &outcome, to);
    line.by("outside");
    line.explained(stage, &stage.hammer, to, "leave", "excluded-range")?;
    line.show(table, outcome.seen());
    Ok(match outcome {
        Outcome::Made(call) => Some(call.own),
        Outcome::Failed(_) => None,
    })
}

fn goes_to_it(stage: &Stage, table: &mut Table, proxy: &Proxy) -> Result<()> {
    let to = at(INCLUDED, 80);
    stage.events.clear();
    let mut line = Line::new("hammer", format!("http://{to}"));
    let outcome = caller::get(&stage.hammer, to, INCLUDED)?;
    line.verdict(stage, "redirect", "outbound", to);
    if let Outcome::Made(call) = &outcome {
        line.logged(&proxy.log, "envoy", "outbound", call, to)?;
    }
    ambient::by_proxy_inside(&mut line, &outcome, to);
    line.by("outside");
    line.explained(stage, &stage.hammer, to, "redirect", "outbound")?;
    line.show(table, outcome.seen());
    Ok(())
}

/// No exception covers it, and the sidecar is no gateway.
fn is_held_to_policy(stage: &Stage, table: &mut Table, proxy: &Proxy) -> Result<()> {
    for to in Stage::web(REGISTERED) {
        stage.events.clear();
        let mut line = Line::new("hammer", format!("http://{to}"));
        let outcome = caller::get(&stage.hammer, to, "httpbin.org")?;
        line.verdict(stage, "redirect", "outbound", to);
        if let Outcome::Made(call) = &outcome {
            line.logged(&proxy.log, "envoy", "outbound", call, to)?;
            line.require(matches!(call.answer, Answer::Closed), "the proxy to hang up");
        } else {
            line.require(false, "the proxy to take it");
        }
        line.verdict(stage, "deny", "not-gateway", to);
        line.show(table, outcome.seen());
    }
    Ok(())
}
