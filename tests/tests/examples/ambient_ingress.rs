//! A way in, and no way out.

use anyhow::{Context as _, Result};
use sluice_tests::bench::ip;

use crate::{
    proxy::{Listener, application, chain, cluster, config, host, http, to},
    stand::Stand,
};

const HTTP: u16 = 80;
const SERVICE: u16 = 8000;
const APPLICATION: u16 = 8080;

#[test]
fn examples_ambient_ingress() -> Result<()> {
    let mut stand = Stand::of("ambient-ingress", "", &[])?;
    let passing = |port, name: &str, cluster| {
        let routes = http(&[host(name, &to("next"))]);
        config(
            [Listener::new(port, vec![chain(None, None, &routes)])],
            &[cluster],
        )
    };
    let [appb, waypoint] = ["appb", "waypoint-appb"].map(|name| stand.pod(name).v4());
    let gateway = passing(HTTP, "*.opssec.in", cluster("next", waypoint, SERVICE));
    let to_appb = passing(SERVICE, "*", cluster("next", appb, APPLICATION));
    stand.envoy("appb", &application("appb", APPLICATION), &[APPLICATION])?;
    stand.envoy("waypoint-appb", &to_appb, &[SERVICE])?;
    stand.envoy("gateway-istio", &gateway, &[HTTP])?;
    stand.readme_holds()?;

    // In, by both families, and the answer out again.
    for way in stand.pod("gateway-istio").addresses() {
        let way_in = format!("::{}", std::net::SocketAddr::new(way, HTTP));
        stand
            .curl_outside(&["--connect-to", &way_in, "http://appb.opssec.in/get"])?
            .came_from(stand.pod("waypoint-appb"), None)
            .with_context(|| format!("through {way}"))?;
    }
    let inside = format!("http://{waypoint}:{SERVICE}/get");
    stand
        .curl("appa", &["-H", "Host: appb:8000", &inside])?
        .came_from(stand.pod("waypoint-appb"), None)?;

    // The gateway has just been talking to the outside; what it begins itself does not get there.
    for name in ["appa", "appb", "waypoint-appb"] {
        stand.cannot_leave(name)?;
        stand.reported(name, "not-gateway", ip("203.0.113.10"))?;
    }
    stand.sends_in_vain("gateway-istio")?;
    // Who is not selected goes on as before.
    let other = stand.curl("other", &["http://203.0.113.10/"])?;
    other.came_from(stand.pod("other"), None)
}
