//! Configurations of Envoy, as Istio would have made them of the examples' routes. Addresses are written out: who is where is
//! the concern of these tests, not who resolves which name.

use std::{net::IpAddr, path::Path};

use serde_json::{Value, json};

/// Where Istio's proxies take the calls of their pod.
pub(crate) const OUTBOUND: u16 = 15001;

/// A whole configuration.
pub(crate) fn config(listeners: impl IntoIterator<Item = Listener>, clusters: &[Value]) -> Value {
    let listeners: Vec<Value> = listeners
        .into_iter()
        .flat_map(Listener::of_both_families)
        .collect();
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

/// A listener on a port of all addresses.
pub(crate) struct Listener {
    port: u16,
    filters: Vec<Value>,
    chains: Vec<Value>,
}

impl Listener {
    pub(crate) fn new(port: u16, chains: Vec<Value>) -> Self {
        let mut filters = vec![typed(
            "envoy.filters.listener.tls_inspector",
            "extensions.filters.listener.tls_inspector.v3.TlsInspector",
            json!({}),
        )];
        if port == OUTBOUND {
            filters.push(typed(
                "envoy.filters.listener.original_dst",
                "extensions.filters.listener.original_dst.v3.OriginalDst",
                json!({}),
            ));
        }
        Self {
            port,
            filters,
            chains,
        }
    }

    fn of_both_families(self) -> [Value; 2] {
        let Self {
            port,
            filters,
            chains,
        } = self;
        ["0.0.0.0", "::"].map(|address| {
            json!({
                "name": format!("{address}:{port}"),
                "address": {"socket_address": {"address": address, "port_value": port}},
                "enable_reuse_port": false,
                "listener_filters": filters,
                "filter_chains": chains,
            })
        })
    }
}

/// What a listener does with connections for a port that was called, and of a name in TLS.
pub(crate) fn chain(port: Option<u16>, name: Option<&str>, filter: &Value) -> Value {
    let mut wanted = json!({});
    if let Some(port) = port {
        wanted["destination_port"] = json!(port);
    }
    if let Some(name) = name {
        wanted["server_names"] = json!([name]);
    }
    json!({"filter_chain_match": wanted, "filters": [filter]})
}

/// The same, with TLS taken off first.
pub(crate) fn terminated(mut chain: Value, tls: &Value) -> Value {
    chain["transport_socket"] = typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        tls.clone(),
    );
    chain
}

/// Passes on octets.
pub(crate) fn tcp(cluster: &str) -> Value {
    typed(
        "envoy.filters.network.tcp_proxy",
        "extensions.filters.network.tcp_proxy.v3.TcpProxy",
        json!({"stat_prefix": cluster, "cluster": cluster}),
    )
}

/// Passes on requests: by their host and their path.
pub(crate) fn http(hosts: &[Value]) -> Value {
    http_with(hosts, Vec::new())
}

/// The same, with filters of requests before.
pub(crate) fn http_with(hosts: &[Value], mut filters: Vec<Value>) -> Value {
    filters.push(typed(
        "envoy.filters.http.router",
        "extensions.filters.http.router.v3.Router",
        json!({}),
    ));
    typed(
        "envoy.filters.network.http_connection_manager",
        "extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        json!({"stat_prefix": "http", "http_filters": filters, "route_config": {"virtual_hosts": hosts}}),
    )
}

/// Requests for a host.
pub(crate) fn host(name: &str, route: &Value) -> Value {
    json!({"name": name, "domains": [name], "routes": [with_prefix(route)]})
}

fn with_prefix(route: &Value) -> Value {
    let mut route = route.clone();
    route["match"] = json!({"prefix": "/"});
    route
}

/// They go to a cluster.
pub(crate) fn to(cluster: &str) -> Value {
    json!({"route": {"cluster": cluster}})
}

/// Nothing but `GET` of one path, as an `AuthorizationPolicy` has it.
pub(crate) fn only_get(path: &str) -> Value {
    let rule = json!({"and_rules": {"rules": [
        {"header": {"name": ":method", "string_match": {"exact": "GET"}}},
        {"url_path": {"path": {"exact": path}}},
    ]}});
    typed(
        "envoy.filters.http.rbac",
        "extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "ALLOW", "policies": {
            "only": {"permissions": [rule], "principals": [{"any": true}]},
        }}}),
    )
}

/// A server that says who it is and who called.
pub(crate) fn application(name: &str, port: u16) -> Value {
    let answer = json!({"direct_response": {"status": 200, "body_format": {"json_format": {
        "name": name,
        "from": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    }}}});
    let filter = http(&[host("*", &answer)]);
    config([Listener::new(port, vec![chain(None, None, &filter)])], &[])
}

/// Somebody at an address.
pub(crate) fn cluster(name: &str, address: IpAddr, port: u16) -> Value {
    json!({
        "name": name,
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": {"socket_address": {"address": address, "port_value": port}}}},
        ]}]},
    })
}

/// Wherever the caller wanted to go.
pub(crate) fn original(name: &str) -> Value {
    json!({"name": name, "connect_timeout": "5s", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED"})
}

/// The same, who is to show a certificate for this name.
pub(crate) fn over_tls(mut cluster: Value, name: &str, tls: &Value) -> Value {
    let mut tls = tls.clone();
    // By itself Envoy goes no higher than 1.2 with servers.
    tls["tls_params"] = json!({"tls_maximum_protocol_version": "TLSv1_3"});
    cluster["transport_socket"] = typed(
        "envoy.transport_sockets.tls",
        "extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        json!({"sni": name, "common_tls_context": tls}),
    );
    cluster
}

/// Whom to believe.
pub(crate) fn trust(certificates: &Path) -> Value {
    json!({"validation_context": {"trusted_ca": {"filename": certificates.join("ca.crt")}}})
}

/// The same, and a certificate to show.
pub(crate) fn identity(certificates: &Path) -> Value {
    let mut tls = trust(certificates);
    tls["tls_certificates"] = json!([{
        "certificate_chain": {"filename": certificates.join("server.crt")},
        "private_key": {"filename": certificates.join("server.key")},
    }]);
    tls
}

fn typed(name: &str, kind: &str, mut config: Value) -> Value {
    config["@type"] = json!(format!("type.googleapis.com/envoy.{kind}"));
    json!({"name": name, "typed_config": config})
}
