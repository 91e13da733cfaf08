//! The first page: everything at one look.

use maud::{DOCTYPE, Markup, display, html};

use super::{picture::picture, traffic::Traffic};
use crate::{
    agent::status::Status,
    api::VerdictEvent,
    dataplane::{MapInfo, ProgramInfo},
    project::{EndpointReport, PolicyReport, Role},
};

/// How the agent is, as of its last pass.
#[derive(Clone, Debug)]
pub struct Overview {
    /// In numbers and problems.
    pub status: Status,
    /// The pods of this node.
    pub endpoints: Vec<EndpointReport>,
    /// The policies and their gateways.
    pub policies: Vec<PolicyReport>,
    /// The programs, or why the kernel does not tell.
    pub programs: Result<Vec<ProgramInfo>, String>,
    /// The maps.
    pub maps: Vec<MapInfo>,
}

/// What every page has around it.
pub(super) fn frame(status: &Status, refresh: bool, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width";
                @if refresh { meta http-equiv="refresh" content="5"; }
                title { "sluice on " (status.node) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header {
                    h1 { "sluice on " (status.node) }
                    span class={ "state " (display(status.state)) } { (display(status.state)) }
                    small { "version " (status.version) ", generation " (status.generation) }
                    nav { a href="/" { "Overview" } a href="/explain" { "Explain" } }
                }
                (content)
            }
        }
    }
}

/// The page.
pub(super) fn page(overview: &Overview, traffic: &Traffic) -> Markup {
    let Overview {
        status,
        endpoints,
        policies,
        programs,
        maps,
    } = overview;
    let content = html! {
        (facts(status))
        @for problem in &status.problems {
            div class={ "problem " (display(problem.severity)) } { b { (display(problem.severity)) } " " (display(problem)) }
        }
        h2 { "Who talks to what outside" }
        (picture(&traffic.flows))
        p class="dim" {
            "The last packets to what is not inside the cluster, and calls that went to a proxy: "
            span class="allow" { "allowed" } ", " span class="deny" { "refused" } ", "
            span class="audit" { "would be refused" } ", " span class="redirect" { "redirected" }
            ". What is allowed is told of only while somebody looks at this page."
        }
        h2 { "Refused just now" }
        (refusals(traffic))
        h2 { "Pods of this node" }
        (pods(endpoints))
        h2 { "Policies and gateways" }
        (gateways(policies))
        h2 { "Programs" }
        (health_of_programs(status, programs))
        h2 { "Maps" }
        (health_of_maps(maps))
    };
    frame(status, true, &content)
}

fn facts(status: &Status) -> Markup {
    let facts = [
        (if status.ready { "yes" } else { "no" }.to_owned(), "ready"),
        (status.endpoints.to_string(), "pods in the kernel"),
        (status.destinations.to_string(), "prefixes"),
        (status.rules.to_string(), "permissions"),
        (status.repairs.to_string(), "things put back"),
        (status.lost.events.to_string(), "events lost"),
    ];
    html! {
        div class="facts" {
            @for (value, name) in &facts { div { b { (value) } small { (name) } } }
        }
    }
}

fn refusals(traffic: &Traffic) -> Markup {
    let who = |event: &VerdictEvent| match (&event.pod, &event.device) {
        (Some(pod), _) => pod.to_string(),
        (None, Some(device)) => format!("device {device}"),
        (None, None) => "?".to_owned(),
    };
    html! {
        @if traffic.refusals.is_empty() { p class="dim" { "Nothing." } }
        @else {
            table {
                tr { th { "Time (UTC)" } th { "Who" } th { "Whereto" } th { "Reason" } th { "Policy" } th class="number" { "Times" } }
                @for (event, times) in &traffic.refusals {
                    tr {
                        td class="mono" { (event.time) }
                        td { (who(event)) @if let Some(process) = &event.process { " " small { (process) } } }
                        td {
                            code { (display(event.dst)) @if event.dport > 0 { " " (event.dport) } "/" (event.protocol) }
                            @if let Some(destination) = &event.destination { br; small { (destination) } }
                        }
                        td class=(display(event.verdict)) { (event.reason) }
                        td { (event.policies.join(", ")) }
                        td class="number" { (times) }
                    }
                }
            }
        }
    }
}

fn pods(endpoints: &[EndpointReport]) -> Markup {
    let role = |role: Role| match role {
        Role::None => "–",
        Role::Subject => "subject",
        Role::Gateway => "gateway",
    };
    let held = |endpoint: &EndpointReport| {
        let names = endpoint.policies.iter().map(|held| held.policy.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    html! {
        table {
            tr { th { "Pod" } th { "Addresses" } th { "Role" } th { "Policies" } th { "Capture" } th { "State" } }
            @for endpoint in endpoints {
                tr {
                    td { (display(&endpoint.pod)) }
                    td class="mono" { @for address in &endpoint.addresses { (display(address)) " " } }
                    td { (role(endpoint.role)) }
                    td { (held(endpoint)) }
                    td { @match endpoint.capture { Some(mode) => (display(mode)), None => "–" } }
                    td {
                        @match &endpoint.pending {
                            Some(why) => span class="audit" { "pending: " (why) },
                            None => "in the kernel",
                        }
                    }
                }
            }
        }
    }
}

fn gateways(policies: &[PolicyReport]) -> Markup {
    html! {
        @if policies.is_empty() { p class="dim" { "There is no EgressPolicy: nothing is enforced." } }
        @else {
            table {
                tr { th { "Policy" } th { "Destinations" } th { "Gateway" } th { "Its pods" } th { "What is wrong" } }
                @for policy in policies {
                    @let wrong: Vec<&str> = policy.conditions.iter().filter_map(|condition| condition.message.as_deref()).collect();
                    @for gateway in &policy.gateways {
                        tr {
                            td { (policy.name) }
                            td { (policy.gateway_destinations) }
                            td { (gateway.namespace) "/" (gateway.gateway.as_deref().unwrap_or("by labels")) }
                            td { @for pod in &gateway.pods { (display(&pod.pod)) " " } }
                            td class="audit" { (wrong.join("; ")) }
                        }
                    }
                }
            }
        }
    }
}

fn health_of_programs(status: &Status, programs: &Result<Vec<ProgramInfo>, String>) -> Markup {
    let device = |index: u32| {
        let found = status.devices.iter().find(|device| device.index == index);
        found.map_or_else(|| format!("#{index}"), |device| device.name.clone())
    };
    let place = |program: &ProgramInfo| {
        let mut places: Vec<String> = program.devices.iter().map(|index| device(index.0)).collect();
        if program.cgroup {
            places.push("cgroup".to_owned());
        }
        places.join(", ")
    };
    html! {
        @match programs {
            Err(error) => p class="deny" { (error) },
            Ok(programs) => table {
                tr { th { "Program" } th { "On" } th class="number" { "Verified instructions" } th class="number" { "Runs" } }
                @for program in programs {
                    tr {
                        td class="mono" { (program.name) }
                        td { (place(program)) }
                        td class="number" { @if let Some(verified) = program.verified_instructions { (verified) } }
                        td class="number" { @if program.runs > 0 { (program.runs) } }
                    }
                }
            },
        }
    }
}

fn health_of_maps(maps: &[MapInfo]) -> Markup {
    let known = maps
        .iter()
        .filter_map(|map| Some((map, map.entries?, map.pressure()?)));
    html! {
        table {
            tr { th { "Map" } th { "Full" } th class="number" { "Entries" } th class="number" { "Room" } }
            @for (map, entries, pressure) in known {
                tr {
                    td class="mono" { (map.name) }
                    td { meter value=(format!("{pressure:.4}")) high="0.85" {} }
                    td class="number" { (entries) }
                    td class="number" { (map.capacity) }
                }
            }
        }
    }
}
