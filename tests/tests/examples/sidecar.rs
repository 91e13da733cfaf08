//! A sidecar, and a range that it does not see.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::{bench::ip, command};

use crate::{
    proxy::{Listener, OUTBOUND, chain, config, host, http, original, to},
    stand::Stand,
};

const EXCLUDED: &str = "10.10.0.4";
const INCLUDED: &str = "10.10.0.5";
/// A header of what has passed the sidecar.
const PASSED: &str = "x-passed: istio-proxy";

#[test]
fn examples_sidecar_excluded_range() -> Result<()> {
    let mut stand = Stand::of("sidecar-excluded-range", "", &["--sidecar"])?;
    stand.bench.outside().run(|| {
        command::ip(&format!(
            "addr add {EXCLUDED} dev lo\naddr add {INCLUDED} dev lo\n"
        ))
    })??;
    let mut everywhere = to("original");
    everywhere["response_headers_to_add"] = json!([{"header": {"key": "x-passed", "value": "istio-proxy"}}]);
    let routes = http(&[host("*", &everywhere)]);
    let sidecar = config(
        [Listener::new(OUTBOUND, vec![chain(None, None, &routes)])],
        &[original("original")],
    );
    stand.sidecar("hammer", &sidecar, &[OUTBOUND])?;
    stand.readme_holds()?;

    let call = |stand: &Stand, host: &str| stand.curl("hammer", &[&format!("http://{host}/")]);
    let past = call(&stand, EXCLUDED)?;
    past.came_from(stand.pod("hammer"), None)?;
    ensure!(!past.text.contains(PASSED), "the sidecar has seen it: {past:?}");
    let authority = stand.authority();
    let resolved = format!("httpbin.org:443:{EXCLUDED}");
    stand
        .curl(
            "hammer",
            &[
                "--cacert",
                &authority,
                "--resolve",
                &resolved,
                "https://httpbin.org/",
            ],
        )?
        .came_from(stand.pod("hammer"), Some("TLSv1.3"))?;
    let through = call(&stand, INCLUDED)?;
    through.came_from(stand.pod("hammer"), None)?;
    ensure!(
        through.text.contains(PASSED),
        "the sidecar has not seen it: {through:?}"
    );

    // Through the sidecar, it is as far as anything else that has no exception.
    let refused = call(&stand, "203.0.113.10")?;
    ensure!(refused.status == 503, "{refused:?}");
    stand.reported("hammer", "not-gateway", ip("203.0.113.10"))?;

    // The annotation alone opens nothing.
    stand.change_policy("cidr: 10.10.0.0/29", "cidr: 10.10.9.0/29")?;
    for (host, status) in [(EXCLUDED, 0), (INCLUDED, 503)] {
        let refused = call(&stand, host)?;
        ensure!(refused.status == status, "{refused:?}");
        stand.reported("hammer", "not-gateway", ip(host))?;
    }
    stand.forget_outside();
    stand.cannot_leave("hammer")
}
