//! What a large cluster costs the agent: how long until it knows all of it, how long until a change is in the kernel, how
//! much memory it takes. The API server is in this process, so that the agent's memory is the agent's alone.

use std::{
    fs,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::{Agent, ApiServer, Bench, apiserver::User, manifest::NODE};

const DEFINITION: &str = include_str!("../../../../deploy/base/crds.yaml");
const SERVICE_ENTRIES: &str = "
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: serviceentries.networking.istio.io}
spec:
  group: networking.istio.io
  scope: Namespaced
  names: {kind: ServiceEntry, plural: serviceentries}
  versions:
  - {name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}
";
const PODS: u32 = 500;
const ENTRIES: u32 = 10_000;
const NODES: u32 = 5_000;
/// Images that a real Node lists, which are most of its size.
const IMAGES: u32 = 40;
/// How often one thing is changed.
const CHANGES: usize = 20;
/// How long the agent may take to know everything before something is wrong.
const PATIENCE: Duration = Duration::from_mins(3);
/// What the agent logs when a change is in the kernel.
const LOADED: &str = "the kernel has new rules";

/// Measures and prints.
pub(crate) fn run(json: bool) -> Result<()> {
    let bench = Bench::create()?;
    let server = ApiServer::start_in(bench.node())?;
    eprintln!("making {PODS} pods, {ENTRIES} ServiceEntries, {NODES} Nodes");
    fill(&server)?;
    let kubeconfig = server.kubeconfig(&User::Admin)?;
    let mut agent = Agent::prepare(&bench)?
        .with_kubeconfig(&kubeconfig.path())
        .quiet();
    let started = Instant::now();
    agent.spawn()?;
    let complete = wait(&agent, 1)? - started;
    let idle = memory(&agent)?;
    let mut delays = Vec::new();
    for number in 0..CHANGES {
        // What the last change has caused must not be taken for what this one does.
        thread::sleep(Duration::from_millis(300));
        let before = generations(&agent)?;
        let changed = Instant::now();
        server.apply_object(&node(NODES + u32::try_from(number)?))?;
        delays.push(wait(&agent, before + 1)? - changed);
    }
    delays.sort_unstable();
    let after = memory(&agent)?;
    let row = json!({
        "complete_ms": complete.as_millis(),
        "change_p50_ms": delays[CHANGES / 2].as_secs_f64() * 1e3,
        "change_max_ms": delays[CHANGES - 1].as_secs_f64() * 1e3,
        "resident_kib": after.resident,
        "resident_at_first_kib": idle.resident,
        "peak_kib": after.peak,
        "anonymous_kib": after.anonymous,
    });
    if json {
        println!("{}", serde_json::to_string_pretty(&row)?);
        return Ok(());
    }
    println!("{PODS} pods on the node, {ENTRIES} ServiceEntries, {NODES} Nodes\n");
    println!("until rules are loaded    {} ms", row["complete_ms"]);
    println!(
        "one Node more, loaded     {:.1} ms (p50), {:.1} ms (max of {CHANGES})",
        row["change_p50_ms"].as_f64().unwrap_or_default(),
        row["change_max_ms"].as_f64().unwrap_or_default()
    );
    println!(
        "resident memory           {} KiB, at the most {} KiB; {} KiB of it without the program itself",
        row["resident_kib"], row["peak_kib"], row["anonymous_kib"]
    );
    Ok(())
}

fn fill(server: &ApiServer) -> Result<()> {
    server.apply(DEFINITION)?;
    server.apply(SERVICE_ENTRIES)?;
    server.apply(
        "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {name: one-way-out}\n\
         spec: {gateways: [{namespace: egress, gateway: waypoint}]}\n",
    )?;
    for number in 0..NODES {
        server.apply_object(&node(number))?;
    }
    for number in 0..ENTRIES {
        server.apply_object(&entry(number))?;
    }
    for number in 0..PODS {
        server.apply_object(&pod(number))?;
    }
    Ok(())
}

fn node(number: u32) -> Value {
    let [_, _, high, low] = number.to_be_bytes();
    let name = if number == 0 {
        NODE.to_owned()
    } else {
        format!("worker-{number}")
    };
    let images: Vec<_> = (0..IMAGES)
        .map(|image| {
            let name = format!("registry.example/team-{image}/application@sha256:{image:064x}");
            json!({"names": [name, format!("registry.example/team-{image}/application:v1.2.{image}")], "sizeBytes": 123_456_789})
        })
        .collect();
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDRs": [format!("10.{}.{low}.0/24", 128 + high)]},
        "status": {
            "addresses": [{"type": "InternalIP", "address": format!("172.16.{high}.{low}")}],
            "images": images,
        },
    })
}

fn entry(number: u32) -> Value {
    let [_, _, high, low] = number.to_be_bytes();
    json!({
        "apiVersion": "networking.istio.io/v1",
        "kind": "ServiceEntry",
        "metadata": {"name": format!("external-{number}"), "namespace": format!("team-{}", number % 100)},
        "spec": {
            "hosts": [format!("service-{number}.example.com")],
            "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
            "resolution": "STATIC",
            "endpoints": [{"address": format!("198.18.{high}.{low}")}],
        },
    })
}

fn pod(number: u32) -> Value {
    static ADDRESS: AtomicU32 = AtomicU32::new(0x0a80_0002);
    let address = std::net::Ipv4Addr::from(ADDRESS.fetch_add(1, Ordering::Relaxed));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": format!("pod-{number}"), "namespace": format!("team-{}", number % 100),
                     "labels": {"app": format!("app-{}", number % 50), "pod-template-hash": "5d4f8c7b9"}},
        "spec": {"nodeName": NODE, "containers": [{"name": "app", "image": "registry.example/app:v1"}]},
        "status": {"phase": "Running", "podIP": address.to_string(), "podIPs": [{"ip": address.to_string()}]},
    })
}

/// How many times the kernel has got rules.
fn generations(agent: &Agent) -> Result<usize> {
    let log = fs::read_to_string(agent.log()).context("reading the agent's log")?;
    Ok(log.matches(LOADED).count())
}

/// When the kernel has got rules for this time.
fn wait(agent: &Agent, count: usize) -> Result<Instant> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if generations(agent)? >= count {
            return Ok(Instant::now());
        }
        ensure!(
            Instant::now() < deadline,
            "the kernel has no new rules: {}",
            fs::read_to_string(agent.log()).unwrap_or_default()
        );
        thread::sleep(Duration::from_millis(1));
    }
}

/// What the agent has in memory, in KiB.
struct Memory {
    resident: u64,
    /// The most that it had.
    peak: u64,
    /// Without the pages of its binary, which is several times as large without optimization.
    anonymous: u64,
}

fn memory(agent: &Agent) -> Result<Memory> {
    let pid = agent.pid().context("the agent does not run")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("reading the agent's status")?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.with_context(|| format!("/proc/{pid}/status has no {name}"))
    };
    Ok(Memory {
        resident: field("VmRSS:")?,
        peak: field("VmHWM:")?,
        anonymous: field("RssAnon:")?,
    })
}
