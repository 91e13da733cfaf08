//! `sluice enroll` and `sluice unenroll`, the agent's half.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use ebpf::capture::port;

use super::pass::Agent;
use crate::{
    api::Enrolment,
    enrolled::{Enrolled, Mode},
    facts::PodNetwork,
    node,
    project::CapturedPod,
};

impl Agent {
    /// Enrols a network namespace, or says why that did not work and leaves everything as it was.
    pub(super) async fn enroll(&mut self, mut enrolled: Enrolled) -> anyhow::Result<Enrolment> {
        if enrolled.proxy_cgroups.is_empty() {
            enrolled.proxy_cgroups = self.find_proxy(&enrolled)?;
        }
        for path in &enrolled.proxy_cgroups {
            node::cgroup(path)?;
        }
        let netns = enrolled.netns.clone();
        let before = self.enrolments.add(enrolled.clone())?;
        self.pass().await;
        if let Err(error) = self.enrolled_now(&netns) {
            match before {
                Some(before) => drop(self.enrolments.add(before)?),
                None => drop(self.enrolments.remove(&netns)?),
            }
            self.pass().await;
            return Err(error.context(format!("{} is not enrolled", netns.display())));
        }
        Ok(Enrolment {
            enrolled,
            generation: self.dataplane.generation().0,
        })
    }

    /// Undoes that.
    pub(super) async fn unenroll(&mut self, netns: &Path) -> anyhow::Result<Enrolled> {
        let enrolled = self.enrolments.remove(netns)?;
        self.pass().await;
        Ok(enrolled)
    }

    /// The cgroup of a proxy that runs already.
    fn find_proxy(&self, enrolled: &Enrolled) -> anyhow::Result<Vec<PathBuf>> {
        let settings = &self.settings.capture;
        let (netns, port) = match (enrolled.mode, settings.node_proxy) {
            (Mode::InPod, _) if !settings.proxy_cgroups.is_empty() => return Ok(Vec::new()),
            (Mode::Node, _) if settings.node_proxy_cgroup.is_some() => return Ok(Vec::new()),
            (Mode::InPod, _) => (Some(enrolled.netns.as_path()), port::OUTBOUND),
            (Mode::Node, Some(port)) => (None, port),
            (Mode::Node, None) => bail!(
                "the agent does not know on which port the node's proxy listens; start it with --node-proxy PORT"
            ),
        };
        let found = node::listener_cgroup(&self.settings.proc_root, netns, port)?;
        let place = netns.map_or("the node".into(), |netns| netns.display().to_string());
        let path = found.with_context(|| {
            format!(
                "nobody listens on port {port} in {place}: start the proxy first, or say in which cgroup it will run \
                 (--proxy-cgroup)"
            )
        })?;
        Ok(vec![path])
    }

    /// Whether it is captured now, with nothing left to do.
    fn enrolled_now(&self, netns: &Path) -> anyhow::Result<()> {
        let cookie = match self.facts.enrolled.get(netns) {
            Some(Ok(PodNetwork::Own { netns, .. })) => *netns,
            Some(Ok(PodNetwork::Host { .. })) => bail!("it is the node's own network namespace"),
            Some(Err(reason)) => bail!("{reason}"),
            None => bail!("the node could not be looked at; see `sluice status`"),
        };
        if !self.projection.captured.contains_key(&cookie) {
            bail!("{}", self.why_not(netns));
        }
        match self.progress.get(&cookie).map(String::as_str) {
            Some("enrolled" | "waits for ztunnel") => Ok(()),
            Some(reason) => bail!("{reason}"),
            None => bail!("the rules could not be loaded; see `sluice status`"),
        }
    }

    fn why_not(&self, netns: &Path) -> String {
        let path = netns.display().to_string();
        let problems = &self.projection.report.problems;
        let about = problems.iter().find(|problem| problem.message.contains(&path));
        about.map_or_else(
            || "it cannot be captured; see `sluice status`".to_owned(),
            ToString::to_string,
        )
    }

    /// Everything that is captured, and how far that is.
    pub(super) fn captures(&self) -> Vec<serde_json::Value> {
        let captured = self.projection.captured.iter();
        let rows = captured.map(|(cookie, captured)| {
            let CapturedPod {
                name,
                pod,
                netns,
                mode,
                inbound,
                virtual_interfaces,
                excluded_interfaces,
                proxies,
                workload: _,
            } = captured;
            let proxies: Vec<_> = proxies.iter().map(|proxy| &proxy.path).collect();
            serde_json::json!({
                "name": name,
                "pod": pod,
                "netns": netns,
                "mode": mode,
                "inbound": inbound,
                "virtual_interfaces": virtual_interfaces,
                "excluded_interfaces": excluded_interfaces,
                "proxy_cgroups": proxies,
                "enrolment": self.progress.get(cookie),
            })
        });
        rows.collect()
    }

    /// The pods of this node, with how far their enrolment is.
    pub(super) fn endpoints(&self) -> Vec<serde_json::Value> {
        let captured = self.projection.captured.iter();
        let progress: BTreeMap<_, _> = captured
            .filter_map(|(cookie, captured)| Some((captured.pod.as_ref()?, self.progress.get(cookie)?)))
            .collect();
        let endpoints = self.projection.report.endpoints.iter();
        let rows = endpoints.filter_map(|endpoint| {
            let mut row = serde_json::to_value(endpoint).ok()?;
            let enrolment = progress.get(&endpoint.pod).map(ToString::to_string);
            row.as_object_mut()?
                .insert("enrolment".to_owned(), enrolment.into());
            Some(row)
        });
        rows.collect()
    }
}
