//! The page: who gets it, what is on it, and what a browser may do with it.

use std::{
    fs,
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use sluice_tests::{
    Agent, Bench, PATIENCE, Pod,
    bench::{
        addresses::{REGISTERED, UNREGISTERED},
        ip,
    },
    http::{self, Answer},
    manifest::Policy,
};

const ADDRESS: &str = "127.0.0.1:9465";

struct Stand {
    agent: Agent,
    client: Pod,
    gateway: Pod,
    bench: Bench,
}

impl Stand {
    fn start() -> Result<Self> {
        let bench = Bench::create()?;
        let client = bench.pod("app", "client")?;
        let gateway = bench.pod("egress", "gateway")?;
        for pod in [&client, &gateway] {
            bench.state().declare(pod)?;
        }
        bench
            .state()
            .register("registered", &REGISTERED, &[(443, "TLS")])?;
        bench.state().policy(&Policy {
            on_deny: "Reject",
            ..Policy::default()
        })?;
        let mut agent = Agent::prepare(&bench)?.with_arguments(&["--admin-address", ADDRESS]);
        agent.restart()?;
        Ok(Self {
            agent,
            client,
            gateway,
            bench,
        })
    }

    fn request(&self, text: &str) -> Result<Answer> {
        let address: SocketAddr = ADDRESS.parse()?;
        self.bench.node().run(|| http::request(address, text))?
    }

    fn get(&self, path: &str) -> Result<Answer> {
        self.get_with(path, &format!("Host: {ADDRESS}\r\n"))
    }

    fn get_with(&self, path: &str, headers: &str) -> Result<Answer> {
        self.request(&format!(
            "GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n"
        ))
    }

    /// The page, once it has all of this on it.
    fn page_with(&self, wanted: &[&str]) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get("/")?;
            ensure!(answer.status == 200, "{answer:?}");
            let lacking: Vec<_> = wanted
                .iter()
                .filter(|text| !answer.body.contains(**text))
                .collect();
            if lacking.is_empty() {
                return Ok(answer.body);
            }
            ensure!(
                Instant::now() < deadline,
                "the page lacks {lacking:?}: {}",
                answer.body
            );
            thread::sleep(Duration::from_millis(100));
        }
    }
}

#[test]
fn the_page_shows_pods_policies_and_what_was_refused() -> Result<()> {
    let stand = Stand::start()?;
    // From the first look on, what is allowed is shown as well.
    stand.page_with(&[
        "app/client",
        "egress/gateway",
        "pod_out",
        "ENDPOINTS",
        "enforcing",
        "subject",
    ])?;
    // A pod chooses the names of its processes.
    let call = stand.client.run(|| -> Result<bool> {
        fs::write("/proc/thread-self/comm", "<script>alert")?;
        let address = SocketAddr::new(ip(UNREGISTERED[0]), 443);
        Ok(TcpStream::connect_timeout(&address, PATIENCE).is_err())
    })??;
    ensure!(call, "the call went through");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let frame = stand.gateway.sender().syn(ip(REGISTERED[0]), 443);
        stand.gateway.send(&frame)?;
        if stand.get("/")?.body.contains("path class=\"allow\"") {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "what the gateway may is not in the picture"
        );
        thread::sleep(Duration::from_millis(200));
    }
    let page = stand.page_with(&[
        "not-gateway",
        UNREGISTERED[0],
        "path class=\"deny\"",
        "/registered 443/TCP",
        "&lt;script&gt;alert",
    ])?;
    ensure!(!page.contains("<script"), "{page}");
    Ok(())
}

#[test]
fn the_form_explains() -> Result<()> {
    let stand = Stand::start()?;
    let empty = stand.get("/explain")?;
    ensure!(
        empty.status == 200 && empty.body.contains("app/client"),
        "{empty:?}"
    );
    let denied = stand.get(&format!("/explain?pod=app%2Fclient&to={}%3A443", UNREGISTERED[0]))?;
    ensure!(
        denied.body.contains("class=\"deny\"") && denied.body.contains("not-gateway"),
        "{denied:?}"
    );
    let allowed = stand.get(&format!(
        "/explain?pod=egress%2Fgateway&to={}%3A443",
        REGISTERED[0]
    ))?;
    ensure!(
        allowed.body.contains("class=\"allow\"") && allowed.body.contains("ServiceEntry"),
        "{allowed:?}"
    );
    for (question, said) in [
        ("pod=app%2Fnobody&to=203.0.113.5%3A443", "no pod app/nobody"),
        (
            "pod=app%2Fclient&to=%22%3E%3Cscript%3E",
            "class=\"problem error\"",
        ),
        ("pod=nobody&to=203.0.113.5", "is no NAMESPACE/NAME"),
    ] {
        let answer = stand.get(&format!("/explain?{question}"))?;
        ensure!(
            answer.status == 200 && answer.body.contains(said),
            "{question}: {answer:?}"
        );
        ensure!(!answer.body.contains("<script"), "{question}: {answer:?}");
    }
    Ok(())
}

#[test]
fn strangers_get_nothing() -> Result<()> {
    let stand = Stand::start()?;
    let own = format!("Host: {ADDRESS}\r\n");
    for (headers, status) in [
        ("Host: evil.example\r\n", 403),
        ("Host: evil.example:9465\r\n", 403),
        ("Host: 127.0.0.1.evil.example\r\n", 403),
        (&format!("{own}Sec-Fetch-Site: cross-site\r\n"), 403),
        (&format!("{own}Sec-Fetch-Site: same-origin\r\n"), 200),
        ("Host: localhost:31337\r\n", 200),
        ("Host: [::1]:9465\r\n", 200),
    ] {
        for path in ["/", "/explain", "/style.css"] {
            let answer = stand.get_with(path, headers)?;
            ensure!(answer.status == status, "{path} {headers:?}: {answer:?}");
            ensure!(status == 200 || !answer.body.contains("app/client"), "{answer:?}");
            let policy = answer.header("content-security-policy").unwrap_or_default();
            ensure!(
                policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
                "{answer:?}"
            );
            for (name, value) in [
                ("x-frame-options", "DENY"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
            ] {
                ensure!(answer.header(name) == Some(value), "{name}: {answer:?}");
            }
        }
    }
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = stand.request(&format!(
            "{method} / HTTP/1.1\r\n{own}Content-Length: 0\r\nConnection: close\r\n\r\n"
        ))?;
        ensure!(answer.status == 405, "{method}: {answer:?}");
    }
    Ok(())
}

#[test]
fn the_page_is_for_this_machine_alone() -> Result<()> {
    let bench = Bench::create()?;
    let mut agent = Agent::prepare(&bench)?
        .quiet()
        .with_arguments(&["--admin-address", "0.0.0.0:9465"]);
    let Err(error) = agent.restart() else {
        bail!("everybody may see the page");
    };
    ensure!(
        format!("{error:#}").contains("not a loopback address"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn nobody_pays_for_what_is_allowed_once_the_page_is_closed() -> Result<()> {
    let stand = Stand::start()?;
    stand.get("/")?;
    // Longer than a look counts.
    thread::sleep(Duration::from_secs(22));
    let frame = stand.gateway.sender().syn(ip(REGISTERED[0]), 443);
    // Observers that are gone are noticed at the next pass.
    stand.agent.status()?;
    stand.gateway.send(&frame)?;
    thread::sleep(Duration::from_millis(500));
    let output = stand.agent.command(&[
        "observe",
        "--verdict",
        "allow",
        "--pod",
        "egress/gateway",
        "-o",
        "json",
    ])?;
    let shown = String::from_utf8(output.stdout)?;
    ensure!(
        !shown.contains(&format!("\"sport\":{}", frame.source_port())),
        "{shown}"
    );
    Ok(())
}
