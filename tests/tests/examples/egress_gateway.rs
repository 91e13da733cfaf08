//! An ambient mesh's egress waypoint.

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_tests::bench::{addresses::REGISTERED, ip};

use crate::{
    proxy::{
        Listener, OUTBOUND, chain, cluster, config, host, http, http_with, only_get, over_tls, to, trust,
    },
    stand::{Stand, WORLD_DNS},
};

const HTTP: u16 = 80;

#[test]
fn examples_egress_gateway() -> Result<()> {
    let mut stand = Stand::of("egress-gateway", "", &["--resolver", WORLD_DNS[0]])?;
    let waypoint = stand.pod("waypoint").v4();
    let routes = http(&[
        host("httpbin.org", &to("waypoint")),
        host("other.example", &to("waypoint")),
    ]);
    let ztunnel = config(
        [Listener::new(OUTBOUND, vec![chain(Some(80), None, &routes)])],
        &[cluster("waypoint", waypoint, HTTP)],
    );
    let trust = trust(&stand.certificates);
    let mut registered = to("httpbin.org");
    registered["request_headers_to_add"] =
        json!([{"header": {"key": "my-added-header", "value": "added-value"}}]);
    let routes = http_with(
        &[
            host("httpbin.org", &registered),
            host("other.example", &to("other.example")),
        ],
        vec![only_get("/anything")],
    );
    let [v4, _] = REGISTERED.map(ip);
    let other = ip("198.51.100.20");
    let gateway = config(
        [Listener::new(HTTP, vec![chain(None, None, &routes)])],
        &[
            over_tls(cluster("httpbin.org", v4, 443), "httpbin.org", &trust),
            over_tls(cluster("other.example", other, 443), "other.example", &trust),
        ],
    );
    stand.envoy("waypoint", &gateway, &[HTTP])?;
    stand.readme_holds()?;
    stand.in_pod("client-a", &ztunnel, &[OUTBOUND])?;

    // Captured: the address is one that Istio allocates, which no network has.
    let get = |host: &str, path: &str| {
        let resolved = format!("{host}:80:240.240.0.4");
        stand.curl(
            "client-a",
            &["--resolve", &resolved, &format!("http://{host}{path}")],
        )
    };
    let answer = get("httpbin.org", "/anything")?;
    answer.came_from(stand.pod("waypoint"), Some("TLSv1.3"))?;
    ensure!(answer.served()?["added"] == "added-value", "{answer:?}");
    let refused = get("httpbin.org", "/get")?;
    ensure!(
        refused.status == 403 && refused.text.contains("RBAC: access denied"),
        "{refused:?}"
    );
    let other_host = get("other.example", "/anything")?;
    ensure!(other_host.status == 503, "{other_host:?}");
    stand.reported("waypoint", "not-registered", other)?;

    // Captured or not, what they send themselves stays inside.
    stand.cannot_leave("client-a")?;
    stand.calls_are_refused("client-b")?;
    stand.cannot_leave("client-b")?;
    stand.reported("client-b", "not-gateway", v4)?;
    stand.calls_are_refused("resolver")?;
    stand.cannot_leave("resolver")?;
    for server in WORLD_DNS.map(ip) {
        let question = stand.pod("resolver").sender().udp(server, 53);
        stand.gets_out("resolver", &question).context("the exception")?;
    }
    Ok(())
}
