//! Pods that Istio's ambient mode would capture, and their hand-over to ztunnel.

use std::os::unix::fs::MetadataExt as _;

use anyhow::{Context as _, Result, bail, ensure};
use sluice_tests::{
    Bench, Pod,
    bench::{addresses::REGISTERED, ip},
    echo::Echo,
    manifest::Details,
    proxy::OUTBOUND,
    ztunnel::{Request, Ztunnel},
};

use crate::common::{Stand, at, connect, exchange, fails, text, wait_until};

const LABEL: &str = "istio.io/dataplane-mode";

/// A stand whose agent listens for ztunnel.
struct Mesh {
    stand: Stand,
    directory: tempfile::TempDir,
    _past: Echo,
}

impl Mesh {
    fn start(more: impl FnOnce(&Bench, &Pod, &Pod) -> Result<()>) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = directory.path().join("zds");
        let stand = Stand::with(&["--ambient", "--zds-socket", text(&socket)?], more)?;
        let past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
        Ok(Self {
            stand,
            directory,
            _past: past,
        })
    }

    fn ztunnel(&self) -> Result<Ztunnel> {
        Ztunnel::connect(&self.stand.proxy, &self.directory.path().join("zds"))
    }

    /// How far the hand-over is.
    fn is_enrolled(&self, pod: &Pod) -> Result<bool> {
        Ok(self.stand.agent.endpoint(pod)?["enrolment"] == "enrolled")
    }
}

/// Whether calls of a pod go anywhere but to a proxy.
fn is_free(pod: &Pod) -> Result<bool> {
    let mut free = [false; 2];
    for (free, to) in free.iter_mut().zip(at(REGISTERED.map(ip), 80)) {
        *free = match pod.run(|| connect(to))? {
            Ok(mut stream) => exchange(&mut stream).is_ok(),
            Err(_) => false,
        };
    }
    match free {
        [v4, v6] if v4 == v6 => Ok(v4),
        _ => bail!("one family is captured, the other is not"),
    }
}

/// What the agent says when it wants a pod to be served.
fn add_of(pod: &Pod) -> Result<Request> {
    Ok(Request::Add {
        uid: format!("{}-{}", pod.namespace(), pod.name()),
        workload: [
            pod.name().to_owned(),
            pod.namespace().to_owned(),
            "default".to_owned(),
        ],
        netns: std::fs::metadata(pod.netns().path())?.ino(),
    })
}

fn uid(pod: &Pod) -> String {
    format!("{}-{}", pod.namespace(), pod.name())
}

#[test]
fn a_pod_is_handed_over_and_taken_back() -> Result<()> {
    let mesh = Mesh::start(|bench, pod, peer| {
        bench.state().namespace("app", &[])?;
        bench.state().declare(pod)?;
        bench.state().declare(peer)
    })?;
    let ztunnel = mesh.ztunnel()?;
    ensure!(ztunnel.snapshot()?.is_empty(), "nobody is in the mesh");
    ensure!(is_free(&mesh.stand.pod)?);

    let labelled = Details {
        labels: vec![(LABEL, "ambient")],
        ..Details::default()
    };
    mesh.stand
        .bench
        .state()
        .declare_with(&mesh.stand.pod, &labelled)?;
    ensure!(ztunnel.request()? == add_of(&mesh.stand.pod)?);
    // It is captured before ztunnel is there for it, and enrolled when ztunnel says so.
    ensure!(!is_free(&mesh.stand.pod)?, "it is not captured yet");
    ensure!(!mesh.is_enrolled(&mesh.stand.pod)?, "ztunnel has not agreed");
    ztunnel.refuse("failure to start proxy")?;
    for _ in 0..10 {
        ensure!(!mesh.is_enrolled(&mesh.stand.pod)?, "ztunnel has refused");
    }
    // It goes on trying by itself, and whether that works it does not say; one that comes anew does.
    drop(ztunnel);
    let ztunnel = mesh.ztunnel()?;
    ensure!(
        ztunnel.request()? == add_of(&mesh.stand.pod)?,
        "it is not asked again"
    );
    let listener = mesh.stand.proxy.listen(OUTBOUND)?;
    ztunnel.acknowledge()?;
    ensure!(ztunnel.snapshot()?.is_empty(), "more than one pod is in the mesh");
    wait_until("the enrolment", || mesh.is_enrolled(&mesh.stand.pod))?;
    for to in at(REGISTERED.map(ip), 80) {
        mesh.stand.arrives(&listener, to)?;
    }
    ensure!(is_free(&mesh.stand.peer)?, "a pod without the label is captured");

    mesh.stand.bench.state().declare(&mesh.stand.pod)?;
    ensure!(ztunnel.request()? == Request::Del(uid(&mesh.stand.pod)));
    ztunnel.acknowledge()?;
    wait_until("the end of the capture", || is_free(&mesh.stand.pod))?;
    ensure!(!mesh.is_enrolled(&mesh.stand.pod)?);
    Ok(())
}

#[test]
fn a_ztunnel_that_comes_later_is_told_of_everybody() -> Result<()> {
    let mesh = Mesh::start(|bench, pod, peer| {
        bench.state().namespace("app", &[(LABEL, "ambient")])?;
        bench.state().declare(pod)?;
        let declined = Details {
            labels: vec![(LABEL, "none")],
            ..Details::default()
        };
        bench.state().declare_with(peer, &declined)
    })?;
    // Closed while nobody serves it.
    for to in at(REGISTERED.map(ip), 80) {
        fails(libc::ECONNREFUSED, "a call without ztunnel", || {
            mesh.stand.call(to)
        });
    }
    ensure!(is_free(&mesh.stand.peer)?, "its label says none");
    for _ in 0..2 {
        let ztunnel = mesh.ztunnel()?;
        ensure!(ztunnel.snapshot()? == [add_of(&mesh.stand.pod)?]);
        wait_until("the enrolment", || mesh.is_enrolled(&mesh.stand.pod))?;
        // It goes, and comes back; what it served is captured meanwhile.
        drop(ztunnel);
        ensure!(!is_free(&mesh.stand.pod)?);
    }
    Ok(())
}

/// Pods that it serves go on being served while the agent is replaced; ztunnel connects anew in its own time.
#[test]
fn ztunnels_own_calls_leave_while_it_has_no_agent() -> Result<()> {
    let mut mesh = Mesh::start(|bench, pod, peer| {
        bench.state().namespace("app", &[(LABEL, "ambient")])?;
        bench.state().declare(pod)?;
        bench.state().declare(peer)
    })?;
    let lost = mesh.ztunnel()?;
    lost.snapshot()?;
    wait_until("the enrolment", || mesh.is_enrolled(&mesh.stand.pod))?;
    let listener = mesh.stand.proxy.listen(OUTBOUND)?;
    let serves = |stand: &Stand| -> Result<()> {
        for to in at(REGISTERED.map(ip), 80) {
            stand.arrives(&listener, to)?;
            exchange(&mut stand.proxy.run(|| connect(to))??)?;
        }
        Ok(())
    };
    serves(&mesh.stand)?;
    mesh.stand.agent.kill()?;
    serves(&mesh.stand).context("without an agent")?;
    mesh.stand.agent.restart()?;
    serves(&mesh.stand).context("with a new agent, which it has not found yet")?;
    drop(lost);
    serves(&mesh.stand).context("when it has gone")?;
    let again = mesh.ztunnel()?;
    again.snapshot()?;
    serves(&mesh.stand).context("when it is back")
}

/// Namespaces that are excluded, pods on the node's network, pods with a sidecar: never, whatever their labels say.
#[test]
fn who_is_never_captured() -> Result<()> {
    let labelled = Details {
        labels: vec![(LABEL, "ambient")],
        ..Details::default()
    };
    let with_sidecar = Details {
        annotations: vec![("sidecar.istio.io/status", "{}".to_owned())],
        sidecar: true,
        ..labelled.clone()
    };
    let mut never = Vec::new();
    let mesh = Mesh::start(|bench, pod, peer| {
        for namespace in ["app", "kube-system"] {
            bench.state().namespace(namespace, &[(LABEL, "ambient")])?;
        }
        bench.state().declare(pod)?;
        bench.state().declare_with(peer, &with_sidecar)?;
        let excluded = bench.pod("kube-system", "resolver")?;
        let host = bench.host_pod("app", "agent")?;
        for pod in [&excluded, &host] {
            bench.state().declare_with(pod, &labelled)?;
        }
        never.extend([excluded, host]);
        Ok(())
    })?;
    let ztunnel = mesh.ztunnel()?;
    ensure!(
        ztunnel.snapshot()? == [add_of(&mesh.stand.pod)?],
        "only one of them is in the mesh"
    );
    for (pod, why) in never.iter().zip(["excluded-namespace", "host-network"]) {
        ensure!(is_free(pod)?, "{} is captured", pod.name());
        let listed = mesh.stand.agent.endpoint(pod)?;
        ensure!(listed["not_captured"] == why, "{listed}");
    }
    ensure!(is_free(&mesh.stand.peer)?, "a pod with a sidecar is captured");
    ensure!(mesh.stand.agent.endpoint(&mesh.stand.peer)?["not_captured"] == "has-sidecar");
    ensure!(!is_free(&mesh.stand.pod)?);
    Ok(())
}

/// The operator names others.
#[test]
fn a_namespace_that_becomes_excluded() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("zds");
    let arguments = [
        "--ambient",
        "--zds-socket",
        text(&socket)?,
        "--capture-exclude-namespace",
        "app",
    ];
    let stand = Stand::with(&arguments, |bench, pod, peer| {
        bench.state().namespace("app", &[(LABEL, "ambient")])?;
        bench.state().declare(pod)?;
        bench.state().declare(peer)
    })?;
    let ztunnel = Ztunnel::connect(&stand.proxy, &socket)?;
    ensure!(ztunnel.snapshot()?.is_empty());
    let _past = Echo::start(stand.bench.outside(), &REGISTERED.map(ip), &[80])?;
    for to in at(REGISTERED.map(ip), 80) {
        exchange(&mut stand.call(to)??)?;
    }
    Ok(())
}
