//! The page in a real browser: headless Chromium, in the node's network namespace. Needs the Debian package `chromium`, and
//! does not run in the virtual machines.
//!
//! With `SLUICE_SCREENSHOT=FILE` it leaves the picture that the README shows.

use std::{
    fs,
    net::{SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{
    Agent, Bench, Pod,
    bench::{
        addresses::{METADATA, REGISTERED, UNREGISTERED},
        ip,
    },
    http,
    manifest::Policy,
};

const ADDRESS: &str = "127.0.0.1:9465";
/// A browser takes its time on a busy machine.
const PATIENT: Duration = Duration::from_mins(2);

/// Runs the browser on a page of the node's.
fn browse(bench: &Bench, profile: &Path, path: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new("chromium");
    command
        // Its sandbox wants namespaces of its own, and root may not have it.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--disable-dev-shm-usage",
        ])
        .args(["--hide-scrollbars", "--window-size=1280,1500"])
        .arg(format!("--user-data-dir={}", profile.display()))
        .args(arguments)
        .arg(format!("http://{ADDRESS}{path}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = bench.node().run(|| command.spawn())?;
    let mut child =
        child.context("running chromium (is the Debian package installed? `cargo xtask test` does it)")?;
    let deadline = Instant::now() + PATIENT;
    // What it prints fits into the pipes.
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            anyhow::bail!("chromium does not end");
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok(child.wait_with_output()?)
}

/// Makes some traffic of every kind.
fn stir(client: &Pod, batch: &Pod, gateway: &Pod) -> Result<()> {
    for _ in 0..40 {
        gateway.send(&gateway.sender().syn(ip(REGISTERED[0]), 443))?;
        client.send(&client.sender().udp(ip(UNREGISTERED[0]), 53))?;
    }
    batch.send(&batch.sender().syn(ip(METADATA[0]), 80))?;
    gateway.send(&gateway.sender().syn(ip(UNREGISTERED[0]), 443))?;
    batch.run(|| -> Result<()> {
        fs::write("/proc/thread-self/comm", "nightly-report")?;
        let address = SocketAddr::new(ip(UNREGISTERED[1]), 443);
        // Refused, which is the point.
        let _ = TcpStream::connect_timeout(&address, Duration::from_secs(1));
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        let _ = socket.send_to(b"?", (ip(UNREGISTERED[0]), 123));
        Ok(())
    })?
}

#[test]
fn a_browser_shows_the_page() -> Result<()> {
    let bench = Bench::create()?;
    let client = bench.pod("shop", "web-7d4b9c")?;
    let batch = bench.pod("shop", "reports")?;
    let gateway = bench.pod("egress", "gateway")?;
    for pod in [&client, &batch, &gateway] {
        bench.state().declare(pod)?;
    }
    bench.state().register("payments", &REGISTERED, &[(443, "TLS")])?;
    bench.state().policy(&Policy {
        on_deny: "Reject",
        ..Policy::default()
    })?;
    let mut agent = Agent::prepare(&bench)?.with_arguments(&["--admin-address", ADDRESS]);
    agent.restart()?;
    // From the first look on, what is allowed is shown as well.
    let address: SocketAddr = ADDRESS.parse()?;
    bench.node().run(|| http::get(address, ADDRESS, "/"))??;
    agent.settle()?;
    stir(&client, &batch, &gateway)?;
    thread::sleep(Duration::from_millis(500));

    let directory = tempfile::tempdir()?;
    let profile = directory.path().join("profile");
    let dom = browse(&bench, &profile, "/", &["--dump-dom"])?;
    let dom = String::from_utf8(dom.stdout)?;
    for wanted in [
        "sluice on node-1",
        "shop/reports",
        "nightly-report",
        "not-gateway",
        "/payments 443/TCP",
    ] {
        ensure!(dom.contains(wanted), "the browser has no {wanted:?}: {dom}");
    }

    let picture = std::env::var_os("SLUICE_SCREENSHOT")
        .map_or_else(|| directory.path().join("page.png"), PathBuf::from);
    let argument = format!("--screenshot={}", picture.display());
    let output = browse(&bench, &profile, "/", &[&argument])?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{said}");
    // What the policy of the page forbids is said on the console.
    ensure!(!said.contains("Content Security Policy"), "{said}");
    let image = fs::read(&picture).context("no screenshot")?;
    ensure!(
        image.starts_with(b"\x89PNG") && image.len() > 20_000,
        "the page is empty: {} octets",
        image.len()
    );

    let explained = browse(
        &bench,
        &profile,
        "/explain?pod=shop%2Freports&to=203.0.113.10%3A443",
        &["--dump-dom"],
    )?;
    let explained = String::from_utf8(explained.stdout)?;
    ensure!(explained.contains("not-gateway"), "{explained}");
    Ok(())
}
