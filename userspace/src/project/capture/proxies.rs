//! The cgroups of a captured namespace's proxy.

use std::path::Path;

use ebpf::capture::PROXIES;

use super::{CaptureMode, Proxy, chosen::Chosen};
use crate::{
    facts::Cgroup,
    objects::{ObjectRef, PROXY_CGROUP_ANNOTATION},
    problem::{Problem, Severity},
    project::Input,
};

/// What was found at a path; `None` if nobody has looked yet.
pub(super) fn find(input: &Input<'_>, path: &Path) -> Option<Result<Cgroup, String>> {
    input.facts.cgroups.get(path).cloned()
}

/// The proxy of a namespace, as far as it is known.
pub(super) fn of(input: &Input<'_>, chosen: &Chosen<'_>, problems: &mut Vec<Problem>) -> Vec<Proxy> {
    let mut found: Vec<Proxy> = Vec::new();
    let enrolled = chosen.enrolled.map_or(&[][..], |how| &how.proxy_cgroups);
    // The node proxy is the operator's, and no pod's.
    let own = chosen.pod.filter(|_| chosen.mode != CaptureMode::Node);
    let annotated = own.and_then(|pod| pod.proxy_cgroup.as_ref());
    let mut paths: Vec<_> = enrolled.iter().chain(annotated).collect();
    let settings = input.capture;
    match chosen.mode {
        // Who names the proxy of an enrolled namespace means that one alone.
        CaptureMode::InPod if enrolled.is_empty() => {
            found.extend(input.proxies.iter().cloned());
            paths.extend(&settings.proxy_cgroups);
        }
        CaptureMode::Node if enrolled.is_empty() => paths.extend(&settings.node_proxy_cgroup),
        CaptureMode::Sidecar if annotated.is_none() => {
            match own.and_then(|pod| input.facts.sidecars.get(&pod.name)) {
                Some(Ok(path)) => paths.push(path),
                Some(Err(reason)) => problems.push(about(chosen, Severity::Error, unknown_sidecar(reason))),
                None => {
                    let hint = format!("name it with the annotation {PROXY_CGROUP_ANNOTATION}");
                    problems.push(about(chosen, Severity::Error, unknown_sidecar(&hint)));
                }
            }
        }
        CaptureMode::InPod | CaptureMode::Node | CaptureMode::Sidecar => {}
    }
    for path in paths {
        match find(input, path) {
            Some(Ok(cgroup)) => found.push(Proxy {
                cgroup,
                path: path.clone(),
            }),
            Some(Err(reason)) => {
                let message = format!("the cgroup of its proxy cannot be found: {reason}");
                problems.push(about(chosen, Severity::Error, message));
            }
            None => {}
        }
    }
    dedup(&mut found);
    if found.len() > PROXIES {
        let message = format!(
            "{} cgroups are said to be its proxy's; {PROXIES} can be told, and the last ones are captured",
            found.len()
        );
        problems.push(about(chosen, Severity::Warning, message));
        found.truncate(PROXIES);
    }
    found
}

fn unknown_sidecar(more: &str) -> String {
    format!(
        "the cgroup of its sidecar is not known, so what the sidecar itself calls is captured and refused; {more}"
    )
}

/// The first of each stays, so that the newest ztunnel is the first.
fn dedup(found: &mut Vec<Proxy>) {
    let mut seen = Vec::new();
    found.retain(|proxy| {
        let new = !seen.contains(&proxy.cgroup);
        seen.push(proxy.cgroup);
        new
    });
}

/// A problem with a captured namespace.
pub(super) fn about(chosen: &Chosen<'_>, severity: Severity, message: String) -> Problem {
    match chosen.pod {
        Some(pod) => Problem::new(severity, message)
            .about(ObjectRef::from(&pod.name))
            .at(pod.origin.clone()),
        None => Problem::new(severity, format!("{}: {message}", chosen.name)),
    }
}
