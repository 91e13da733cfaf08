//! Ingress, egress and mesh, one of which is a way out.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_tests::bench::{addresses::REGISTERED, ip};

use crate::{
    proxy::{
        Listener, application, chain, cluster, config, host, http, http_with, identity, only_get, over_tls,
        terminated, to, trust,
    },
    stand::{Stand, WORLD_DNS},
};

const HTTP: u16 = 80;
const HTTPS: u16 = 443;
const SERVICE: u16 = 9080;

#[test]
fn examples_one_api() -> Result<()> {
    let mut stand = Stand::of("one-api", "", &["--resolver", WORLD_DNS[0]])?;
    start_proxies(&mut stand)?;
    stand.readme_holds()?;
    ingress(&stand).context("ingress")?;
    egress(&stand).context("egress")?;
    mesh(&stand).context("mesh")?;
    for name in ["productpage", "reviews-v1", "bookinfo-proxy"] {
        stand.calls_are_refused(name)?;
        stand.cannot_leave(name)?;
    }
    stand.calls_are_refused("shared-gateway-istio")?;
    stand.sends_in_vain("shared-gateway-istio")
}

fn start_proxies(stand: &mut Stand) -> Result<()> {
    let of = |name| stand.pod(name).v4();
    let (productpage, reviews) = (of("productpage"), [of("reviews-v1"), of("reviews-v2")]);

    let redirect = json!({"redirect": {"https_redirect": true}});
    let redirect = http(&[host("bookinfo.example.com", &redirect)]);
    let routes = http(&[host("bookinfo.example.com", &to("productpage"))]);
    let tls = json!({"common_tls_context": identity(&stand.certificates)});
    let shared_gateway = config(
        [
            Listener::new(HTTP, vec![chain(None, None, &redirect)]),
            Listener::new(HTTPS, vec![terminated(chain(None, None, &routes), &tls)]),
        ],
        &[cluster("productpage", productpage, SERVICE)],
    );

    let routes = http_with(&[host("httpbin.org", &to("httpbin.org"))], vec![only_get("/get")]);
    let [v4, _] = REGISTERED.map(ip);
    let egress_gateway = config(
        [Listener::new(HTTP, vec![chain(None, None, &routes)])],
        &[over_tls(
            cluster("httpbin.org", v4, HTTPS),
            "httpbin.org",
            &trust(&stand.certificates),
        )],
    );

    let halves = json!({"route": {"weighted_clusters": {"clusters": [
        {"name": "reviews-v1", "weight": 50},
        {"name": "reviews-v2", "weight": 50},
    ]}}});
    let halves = http(&[host("reviews:9080", &halves)]);
    let bookinfo_proxy = config(
        [Listener::new(SERVICE, vec![chain(None, None, &halves)])],
        &[
            cluster("reviews-v1", reviews[0], SERVICE),
            cluster("reviews-v2", reviews[1], SERVICE),
        ],
    );

    for name in ["productpage", "reviews-v1", "reviews-v2"] {
        stand.envoy(name, &application(name, SERVICE), &[SERVICE])?;
    }
    stand.envoy("shared-gateway-istio", &shared_gateway, &[HTTP, HTTPS])?;
    stand.envoy("egress-gateway", &egress_gateway, &[HTTP])?;
    stand.envoy("bookinfo-proxy", &bookinfo_proxy, &[SERVICE])
}

fn ingress(stand: &Stand) -> Result<()> {
    let authority = stand.authority();
    for address in stand.pod("shared-gateway-istio").addresses() {
        let way_in = |port| format!("::{}", SocketAddr::new(address, port));
        let call =
            |port, url| stand.curl_outside(&["--cacert", &authority, "--connect-to", &way_in(port), url]);
        let answer = call(HTTPS, "https://bookinfo.example.com/productpage")?;
        answer.came_from(stand.pod("shared-gateway-istio"), None)?;
        ensure!(answer.served()?["name"] == "productpage", "{answer:?}");
        let plain = call(HTTP, "http://bookinfo.example.com/productpage")?;
        ensure!(plain.status == 301, "{plain:?}");
    }
    Ok(())
}

fn egress(stand: &Stand) -> Result<()> {
    let way_out = format!("::{}", SocketAddr::new(stand.pod("egress-gateway").v4(), HTTP));
    let call = |url| stand.curl("productpage", &["--connect-to", &way_out, url]);
    call("http://httpbin.org/get")?.came_from(stand.pod("egress-gateway"), Some("TLSv1.3"))?;
    let refused = call("http://httpbin.org/headers")?;
    ensure!(refused.status == 403, "{refused:?}");
    // The gateway itself, past its own configuration.
    let elsewhere = stand.curl("egress-gateway", &["http://198.51.100.20/"])?;
    ensure!(elsewhere.status == 0, "{elsewhere:?}");
    stand.reported("egress-gateway", "not-registered", ip("198.51.100.20"))?;
    Ok(())
}

fn mesh(stand: &Stand) -> Result<()> {
    let waypoint = format!("::{}", SocketAddr::new(stand.pod("bookinfo-proxy").v4(), SERVICE));
    let mut versions = BTreeSet::new();
    for _ in 0..40 {
        let answer = stand.curl(
            "productpage",
            &["--connect-to", &waypoint, "http://reviews:9080/reviews/1"],
        )?;
        answer.came_from(stand.pod("bookinfo-proxy"), None)?;
        versions.insert(answer.served()?["name"].to_string());
        if versions.len() == 2 {
            return Ok(());
        }
    }
    anyhow::bail!("40 calls, and all went to {versions:?}")
}
