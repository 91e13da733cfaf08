//! What several tests need.

use std::{
    fmt::Write as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use sluice_tests::{
    Agent, ApiServer, Bench, PATIENCE, Pod,
    apiserver::{Kubeconfig, User},
    kubelet::{Driver, Kubelet},
    manifest::{NODE, Policy},
};

pub(crate) const UIDS: [&str; 3] = [
    "7fda01c4-0ece-403d-88b4-c371d66d132a",
    "2c48913c-b29f-11e7-9350-020968147796",
    "404bd273-57bc-4508-a386-e2b76d3c9cfe",
];
pub(crate) const CONTAINERS: [&str; 3] = [
    "e58a24d4a722c99712cff74ef69d93311089584eb32617b3890e0dcb996133f1",
    "02de72688d6bb0908d279bbbb05ffa9d7e0b2ae17a8bf23683a33cc1349e55aa",
    "18b2adc8507104e412c946bec11679590801f547eee513fa298054f14fbf4240",
];

/// A node with a kubelet and an agent, and a policy that lets nobody out.
pub(crate) struct Stand {
    // Dropped first.
    pub(crate) agent: Agent,
    pub(crate) kubelet: Kubelet,
    pub(crate) bench: Bench,
    /// A file that the agent reads again and again.
    _kubeconfig: Option<Kubeconfig>,
}

impl Stand {
    pub(crate) fn start(driver: Driver, arguments: &[&str]) -> Result<Self> {
        Self::start_with(driver, |agent, _| Ok(agent.with_arguments(arguments)))
    }

    pub(crate) fn start_with(
        driver: Driver,
        how: impl FnOnce(Agent, &Bench) -> Result<Agent>,
    ) -> Result<Self> {
        let bench = Bench::create()?;
        let kubelet = Kubelet::start(&bench, driver)?;
        bench.state().policy(&Policy {
            host_network: true,
            ..Policy::default()
        })?;
        let mut agent = how(Agent::prepare(&bench)?, &bench)?;
        agent.restart()?;
        Ok(Self {
            agent,
            kubelet,
            bench,
            _kubeconfig: None,
        })
    }

    /// Writes the manifest of a pod as the API server has it: nothing says where on the node it is.
    pub(crate) fn declare(&self, pod: &Pod, uid: &str, more: &Manifest) -> Result<()> {
        let (name, namespace) = (pod.name(), pod.namespace());
        let mut yaml = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, namespace: {namespace}, uid: {uid}, labels: {{app: {name}}}, annotations: {{{}}}, ownerReferences: [{}]}}
spec:
  nodeName: {NODE}
  hostNetwork: {}
  containers: [{{name: main, image: none}}]
  initContainers: [{}]
status:
  phase: Running
  initContainerStatuses: [{}]
",
            more.annotations,
            more.owners,
            pod.is_host(),
            more.init_containers,
            more.init_statuses,
        );
        if !more.without_address {
            writeln!(
                yaml,
                "  podIPs: [{{ip: \"{}\"}}, {{ip: \"{}\"}}]",
                pod.v4(),
                pod.v6()
            )?;
        }
        self.bench
            .state()
            .write(&format!("pod-{namespace}-{name}"), &yaml)
    }

    /// The same stand, whose agent watches a server instead of the directory.
    pub(crate) fn watching(driver: Driver, server: &ApiServer, bench: Bench) -> Result<Self> {
        let kubelet = Kubelet::start(&bench, driver)?;
        let kubeconfig = server.kubeconfig(&User::Admin)?;
        let mut agent = Agent::prepare(&bench)?.with_kubeconfig(&kubeconfig.path());
        agent.restart()?;
        Ok(Self {
            agent,
            kubelet,
            bench,
            _kubeconfig: Some(kubeconfig),
        })
    }

    /// Waits until the agent says this of the pod.
    pub(crate) fn wait_for(
        &self,
        pod: &Pod,
        what: &str,
        is_it: impl Fn(&serde_json::Value) -> bool,
    ) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let entry = self.agent.endpoint(pod)?;
            if is_it(&entry) {
                return Ok(started.elapsed());
            }
            ensure!(
                started.elapsed() < PATIENCE,
                "{}: never {what}: {entry}",
                pod.name()
            );
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the agent knows where the pod is.
    pub(crate) fn found(&self, pod: &Pod) -> Result<Duration> {
        self.wait_for(pod, "found", |entry| {
            let has_device = entry["devices"]
                .as_array()
                .is_some_and(|devices| !devices.is_empty());
            entry["pending"].is_null() && (has_device || entry["host_network"] == true)
        })
    }

    /// Waits until the agent does not know where the pod is, for a reason with this in it.
    pub(crate) fn unfound(&self, pod: &Pod, reason: &str) -> Result<()> {
        self.wait_for(pod, reason, |entry| {
            entry["pending"]
                .as_str()
                .is_some_and(|pending| pending.contains(reason))
        })
        .map(drop)
    }
}

/// What a manifest says beyond what all say, as YAML.
#[derive(Default)]
pub(crate) struct Manifest {
    pub(crate) annotations: String,
    pub(crate) owners: &'static str,
    pub(crate) init_containers: &'static str,
    pub(crate) init_statuses: String,
    pub(crate) without_address: bool,
}
