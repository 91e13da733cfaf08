//! As many objects as the agent is measured with.

use std::time::{Duration, Instant};

use kube::api::{ApiResource, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use sluice_tests::apiserver::crds;

use super::*;

const NODES: usize = 5_000;
const ENTRIES: usize = 10_000;
/// Without optimisation and beside other tests; what it takes is a tenth of it.
const LONGEST: Duration = Duration::from_secs(20);

fn node(number: usize) -> Value {
    let (high, low) = (number / 256, number % 256);
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": format!("node-{number}")},
        "spec": {"podCIDRs": [format!("10.{high}.{low}.0/24")]},
        "status": {"addresses": [{"type": "InternalIP", "address": format!("192.168.{high}.{low}")}]},
    })
}

fn entry(number: usize) -> Value {
    let (high, low) = (number / 256, number % 256);
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": format!("entry-{number}"), "namespace": "egress"},
        "spec": {
            "hosts": [format!("host-{number}.example.com")],
            "ports": [{"number": 443, "name": "tls", "protocol": "TLS"}],
            "resolution": "STATIC",
            "endpoints": [{"address": format!("203.{high}.{low}.1")}],
        },
    })
}

/// Reads all pages and gives how many objects there were.
async fn read<K>(api: &Api<K>) -> Result<usize>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let mut params = ListParams::default().limit(500);
    let mut count = 0;
    loop {
        let page = api.list(&params).await?;
        count += page.items.len();
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(count),
        }
    }
}

#[tokio::test]
async fn thousands_of_objects_are_served_in_seconds() -> Result<()> {
    let (server, client) = stand()?;
    server.apply(crds::SERVICE_ENTRY)?;
    let start = Instant::now();
    server.load((0..NODES).map(node).chain((0..ENTRIES).map(entry)))?;
    let loaded = start.elapsed();
    let nodes: Api<Node> = Api::all(client.clone());
    let gvk = GroupVersionKind::gvk("networking.istio.io", "v1", "ServiceEntry");
    let resource = ApiResource::from_gvk_with_plural(&gvk, "serviceentries");
    let entries: Api<DynamicObject> = Api::all_with(client, &resource);
    let start = Instant::now();
    assert_eq!(read(&nodes).await?, NODES);
    assert_eq!(read(&entries).await?, ENTRIES);
    let listed = start.elapsed();
    println!(
        "{NODES} nodes and {ENTRIES} ServiceEntries: loaded in {loaded:?}, listed and read in {listed:?}"
    );
    assert!(loaded < LONGEST && listed < LONGEST, "{loaded:?}, {listed:?}");
    Ok(())
}
