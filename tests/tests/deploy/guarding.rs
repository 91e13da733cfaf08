//! The agent in its container does what it is for, with what the DaemonSet gives it and nothing less.

use anyhow::{Result, ensure};
use rstest::rstest;
use sluice_tests::{
    Bench, Capture, Pod,
    bench::{addresses::UNREGISTERED, ip},
    manifest::Policy,
};

use crate::container::Container;

/// A node with a pod that may not leave, and one that may.
struct Stand {
    bench: Bench,
    client: Pod,
    _gateway: Pod,
    outside: Capture,
}

impl Stand {
    fn make() -> Result<Self> {
        let bench = Bench::create()?;
        let client = bench.pod("shop", "client")?;
        let gateway = bench.pod("egress", "gateway")?;
        for namespace in ["shop", "egress"] {
            bench.state().namespace(namespace, &[])?;
        }
        bench.state().declare(&client)?;
        bench.state().declare(&gateway)?;
        bench.state().policy(&Policy::default())?;
        let outside = bench.capture_outside()?;
        Ok(Self {
            bench,
            client,
            _gateway: gateway,
            outside,
        })
    }

    /// Whether a packet of the pod arrives outside.
    fn leaks(&self) -> Result<bool> {
        let frame = self.client.sender().udp(ip(UNREGISTERED[0]), 53);
        self.client.send(&frame)?;
        self.bench.flush(&self.outside)?;
        Ok(self.outside.has_received(frame.cookie()))
    }
}

#[rstest]
fn it_enforces(#[values("enforce", "ambient")] overlay: &str) -> Result<()> {
    let stand = Stand::make()?;
    ensure!(stand.leaks()?, "nothing gets out without sluice");
    let mut container = Container::start(&stand.bench, overlay, None)?;
    container.wait_for("/startupz")?;
    container.wait_for("/readyz")?;
    container.wait_for("/livez")?;
    ensure!(!stand.leaks()?, "it got out");
    let said = container.exec(&["sluice", "status", "-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&said)?;
    assert_eq!(status["state"], "enforcing");
    assert_eq!(status["problems"], serde_json::json!([]));
    Ok(())
}

/// Has the client captured, by a proxy that does not matter.
fn enroll(stand: &Stand, container: &Container) -> Result<()> {
    let proxy = stand.bench.cgroup().child("proxy")?;
    let netns = stand.client.netns().path().display().to_string();
    let cgroup = container.inside(&proxy)?.display().to_string();
    container.exec(&["sluice", "enroll", "--netns", &netns, "--proxy-cgroup", &cgroup])?;
    Ok(())
}

#[test]
fn it_captures() -> Result<()> {
    let stand = Stand::make()?;
    let mut container = Container::start(&stand.bench, "ambient", None)?;
    container.wait_for("/readyz")?;
    enroll(&stand, &container)?;
    let variable = "/proc/sys/net/ipv4/tcp_fwmark_accept";
    let value = stand.client.netns().run(|| std::fs::read_to_string(variable))??;
    assert_eq!(value.trim(), "1", "{variable} in the pod");
    Ok(())
}

/// One that is not needed would be one too many. `SYS_PTRACE` shows in clusters alone, where pods are looked for.
#[test]
fn without_sys_admin_it_does_not_start() -> Result<()> {
    let stand = Stand::make()?;
    let mut container = Container::start(&stand.bench, "enforce", Some("SYS_ADMIN"))?;
    let error = container.wait_for("/readyz").expect_err("it is ready");
    ensure!(
        error.to_string().contains("EPERM") || error.to_string().contains("not permitted"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn without_net_admin_it_does_not_capture() -> Result<()> {
    let stand = Stand::make()?;
    let mut container = Container::start(&stand.bench, "ambient", Some("NET_ADMIN"))?;
    container.wait_for("/readyz")?;
    let error = enroll(&stand, &container).expect_err("it is captured");
    ensure!(error.to_string().contains("NET_ADMIN"), "{error:#}");
    Ok(())
}
