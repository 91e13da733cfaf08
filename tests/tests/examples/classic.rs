//! Sidecars and `istio-egressgateway`, three ways.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::bench::ip;

use crate::{
    proxy::{
        Listener, OUTBOUND, chain, cluster, config, host, http, identity, over_tls, tcp, terminated, to,
        trust,
    },
    stand::Stand,
};

const ARGUMENTS: [&str; 3] = ["--sidecar", "--resolver", "203.0.113.53"];
const GATEWAY: &str = "istio-egressgateway";
/// Where the gateway's pod listens for its Service's ports 80 and 443.
const HTTP: u16 = 8080;
const TLS: u16 = 8443;
/// An address of the host that is registered, and one of the host that is not.
const REGISTERED: &str = "203.0.113.10";
const OTHER: &str = "198.51.100.20";
/// Names are resolved by hand: what they are is not the question here.
const RESOLVED: [&str; 8] = [
    "--resolve",
    "httpbin.org:80:203.0.113.10",
    "--resolve",
    "httpbin.org:443:203.0.113.10",
    "--resolve",
    "other.example:80:198.51.100.20",
    "--resolve",
    "other.example:443:198.51.100.20",
];

fn start(variant: &str) -> Result<Stand> {
    Stand::of("classic-egress-gateway", variant, &ARGUMENTS)
}

/// What holds whatever the routes are.
fn nobody_but_the_gateway_leaves(stand: &Stand) -> Result<()> {
    stand.calls_are_refused("bypass")?;
    stand.cannot_leave("bypass")?;
    stand.reported("bypass", "not-gateway", ip(REGISTERED))?;
    // Its sidecar takes what is TCP; the rest is its own.
    stand.cannot_leave("curl")?;
    stand.readme_holds()
}

#[test]
fn examples_classic_http() -> Result<()> {
    let mut stand = start("http")?;
    let gateway = stand.pod(GATEWAY).v4();
    let routes = http(&[host("httpbin.org", &to("gateway"))]);
    let sidecar = config(
        [Listener::new(OUTBOUND, vec![chain(Some(80), None, &routes)])],
        &[cluster("gateway", gateway, HTTP)],
    );
    // It would send to the other host as readily: the registry decides.
    let routes = http(&[
        host("httpbin.org", &to("httpbin.org")),
        host("other.example", &to("other.example")),
    ]);
    let gateway_config = config(
        [Listener::new(HTTP, vec![chain(None, None, &routes)])],
        &[
            cluster("httpbin.org", ip(REGISTERED), 80),
            cluster("other.example", ip(OTHER), 80),
        ],
    );
    stand.envoy(GATEWAY, &gateway_config, &[HTTP])?;
    stand.sidecar("curl", &sidecar, &[OUTBOUND])?;
    nobody_but_the_gateway_leaves(&stand)?;

    let answer = stand.curl("curl", &[&RESOLVED[..], &["http://httpbin.org/headers"]].concat())?;
    answer.came_from(stand.pod(GATEWAY), None)?;
    // IPv6 as well, which the sidecar takes by its own address of that family.
    let resolved = [
        "--resolve",
        "httpbin.org:80:[2001:db8:ffff::10]",
        "http://httpbin.org/",
    ];
    stand
        .curl("curl", &resolved)?
        .came_from(stand.pod(GATEWAY), None)?;
    // Who has no sidecar may use the gateway as well: it is inside.
    let inside = format!("http://{}", SocketAddr::new(gateway, HTTP));
    stand
        .curl("bypass", &["-H", "Host: httpbin.org", &inside])?
        .came_from(stand.pod(GATEWAY), None)?;
    let other = stand.curl("bypass", &["-H", "Host: other.example", &inside])?;
    ensure!(
        other.status == 503,
        "the gateway went to the other host: {other:?}"
    );
    stand.reported(GATEWAY, "not-registered", ip(OTHER))?;
    Ok(())
}

#[test]
fn examples_classic_tls_passthrough() -> Result<()> {
    let mut stand = start("tls-passthrough")?;
    let gateway = stand.pod(GATEWAY).v4();
    let by_name = |port, name, cluster| chain(port, Some(name), &tcp(cluster));
    let sidecar = config(
        [Listener::new(
            OUTBOUND,
            vec![by_name(Some(443), "httpbin.org", "gateway")],
        )],
        &[cluster("gateway", gateway, TLS)],
    );
    let gateway_config = config(
        [Listener::new(
            TLS,
            vec![
                by_name(None, "httpbin.org", "httpbin.org"),
                by_name(None, "other.example", "other.example"),
            ],
        )],
        &[
            cluster("httpbin.org", ip(REGISTERED), 443),
            cluster("other.example", ip(OTHER), 443),
        ],
    );
    stand.envoy(GATEWAY, &gateway_config, &[TLS])?;
    stand.sidecar("curl", &sidecar, &[OUTBOUND])?;
    nobody_but_the_gateway_leaves(&stand)?;

    let authority = stand.authority();
    let https = |pod: &str, more: &[&str]| {
        let arguments = [&RESOLVED[..], &["--cacert", &authority], more].concat();
        stand.curl(pod, &arguments)
    };
    // The application's own TLS: it has seen the server's certificate, and the server was called by the gateway.
    https("curl", &["https://httpbin.org/headers"])?.came_from(stand.pod(GATEWAY), Some("TLSv1.3"))?;
    let other = https("curl", &["https://other.example/"])?;
    ensure!(other.status == 0, "the sidecar let it pass: {other:?}");
    let other = format!("other.example:443:{}", SocketAddr::new(gateway, TLS));
    let other = https("bypass", &["--connect-to", &other, "https://other.example/"])?;
    ensure!(other.status == 0, "the gateway went to the other host: {other:?}");
    stand.reported(GATEWAY, "not-registered", ip(OTHER))?;
    Ok(())
}

#[test]
fn examples_classic_tls_origination() -> Result<()> {
    let mut stand = start("tls-origination")?;
    let gateway = stand.pod(GATEWAY).v4();
    let certificates = stand.certificates.clone();
    let routes = http(&[host("httpbin.org", &to("gateway"))]);
    let sidecar = config(
        [Listener::new(OUTBOUND, vec![chain(Some(80), None, &routes)])],
        &[over_tls(
            cluster("gateway", gateway, HTTP),
            "httpbin.org",
            &identity(&certificates),
        )],
    );
    let routes = http(&[host("httpbin.org", &to("httpbin.org"))]);
    let mutual = json!({"require_client_certificate": true, "common_tls_context": identity(&certificates)});
    let gateway_config = config(
        [Listener::new(
            HTTP,
            vec![terminated(chain(None, None, &routes), &mutual)],
        )],
        &[over_tls(
            cluster("httpbin.org", ip(REGISTERED), 443),
            "httpbin.org",
            &trust(&certificates),
        )],
    );
    stand.envoy(GATEWAY, &gateway_config, &[HTTP])?;
    stand.sidecar("curl", &sidecar, &[OUTBOUND])?;
    nobody_but_the_gateway_leaves(&stand)?;

    // Plain from the application, TLS outside.
    let answer = stand.curl("curl", &[&RESOLVED[..], &["http://httpbin.org/headers"]].concat())?;
    answer.came_from(stand.pod(GATEWAY), Some("TLSv1.3"))?;
    // Who has no certificate of the mesh does not get past the gateway.
    let inside = format!("http://{}", SocketAddr::new(gateway, HTTP));
    let plain = stand.curl("bypass", &["-H", "Host: httpbin.org", &inside])?;
    ensure!(plain.status == 0, "the gateway took plain HTTP: {plain:?}");
    Ok(())
}
