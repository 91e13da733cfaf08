//! A cluster of one node, with a kubelet and all that an installation brings.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sluice_tests::{
    Agent, ApiServer, Bench, PATIENCE, Pod,
    apiserver::{Kubeconfig, crds},
    cgroup::Cgroup,
    installation::{AMBIENT, BASE, TAINT, account, install},
    kubelet::{Driver, Kubelet, PodCgroup, Process},
    manifest::NODE,
};

/// A policy whose only gateway is not there.
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: one-way-out}
spec: {onDeny: Drop, gateways: [{namespace: egress, gateway: waypoint}]}
";
/// Where it is.
pub(crate) const POLICY_PATH: &str = "/apis/sluice.dev/v1alpha1/egresspolicies/one-way-out";
/// Where the node is.
pub(crate) const NODE_PATH: &str = "/api/v1/nodes/node-1";

/// Fields are dropped in this order.
pub(crate) struct Stand {
    pub(crate) agent: Agent,
    pub(crate) server: ApiServer,
    kubelet: Kubelet,
    pub(crate) bench: Bench,
    /// A file that the agent reads again and again.
    _kubeconfig: Kubeconfig,
}

/// A pod with a process, as the kubelet has started it. Fields are dropped in this order.
pub(crate) struct Started {
    _process: Process,
    _container: Cgroup,
    _cgroup: PodCgroup,
    pub(crate) pod: Pod,
    pub(crate) uid: String,
}

impl Stand {
    /// With a policy, and an agent that has not been started.
    pub(crate) fn prepare(arguments: &[&str]) -> Result<Self> {
        let bench = Bench::create()?;
        let server = ApiServer::start_in(bench.node())?;
        install(&server, &BASE)?;
        install(&server, &[AMBIENT, TAINT])?;
        server.apply(crds::GATEWAY)?;
        server.apply(crds::SERVICE_ENTRY)?;
        server.apply(&fs::read_to_string(bench.state().path().join("node.yaml"))?)?;
        server.apply(POLICY)?;
        let kubeconfig = server.kubeconfig(&account())?;
        let agent = Agent::prepare(&bench)?
            .with_arguments(arguments)
            .with_kubeconfig(&kubeconfig.path());
        Ok(Self {
            agent,
            server,
            kubelet: Kubelet::start(&bench, Driver::Systemd)?,
            bench,
            _kubeconfig: kubeconfig,
        })
    }

    /// A pod of the node: in the cluster, and on it.
    pub(crate) fn pod(&self, name: &str) -> Result<Started> {
        let pod = self.bench.pod("app", name)?;
        let object = self.server.apply_object(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"namespace": "app", "name": name, "labels": {"app": name}},
            "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "none"}]},
            "status": {"phase": "Running", "podIPs": pod.addresses().map(|address| json!({"ip": address}))},
        }))?;
        let uid = object["metadata"]["uid"].as_str().context("a pod has a uid")?;
        let cgroup = self.kubelet.pod(uid)?;
        // Container runtimes count so, in 64 digits.
        let container = cgroup.container(&uid.replace('-', "").repeat(2))?;
        Ok(Started {
            _process: Process::start(&container, pod.netns())?,
            _container: container,
            _cgroup: cgroup,
            pod,
            uid: uid.to_owned(),
        })
    }

    /// Status and reason of a condition of the policy.
    pub(crate) fn condition(&self, kind: &str) -> Result<String> {
        let policy = self.server.get(POLICY_PATH)?;
        let conditions = policy["status"]["conditions"].as_array();
        let mut conditions = conditions.into_iter().flatten();
        let word = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let found = conditions.find(|condition| condition["type"] == kind);
        Ok(found.map_or_else(String::new, |condition| {
            format!("{} {}", word(condition, "status"), word(condition, "reason"))
        }))
    }

    /// The Event with this reason in a namespace.
    pub(crate) fn event(&self, namespace: &str, reason: &str) -> Result<Option<Value>> {
        let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
        let events = self.server.get(&path)?;
        let mut events = events["items"].as_array().into_iter().flatten();
        Ok(events.find(|event| event["reason"] == reason).cloned())
    }

    /// What the agent says is wrong; nothing before it is there.
    pub(crate) fn problems(&self) -> String {
        self.agent
            .status()
            .map_or_else(|_| String::new(), |status| status["problems"].to_string())
    }
}

/// Asks until it is so.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE * 2;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("never came true: {what}");
        }
        thread::sleep(Duration::from_millis(50));
    }
}
