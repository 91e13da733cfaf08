//! What tests use that run against a real server as well.

use std::sync::Arc;

use kube::api::ListParams;
use sluice_tests::{apiserver::Cluster, command, netns::Netns};

use super::*;

fn netns() -> Result<Arc<Netns>> {
    let netns = Netns::create(&Cluster::unique("apiserver"))?;
    command::run("ip", &["-n", netns.name(), "link", "set", "lo", "up"], "")?;
    Ok(Arc::new(netns))
}

/// Lists pods as whoever has that configuration, where the agent is.
fn pods(netns: &Netns, config: &Kubeconfig) -> Result<usize> {
    netns.run(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(async {
            let pods: Api<Pod> = Api::all(faults::client(config).await?);
            let list = timeout(PATIENCE, pods.list(&ListParams::default())).await;
            Ok(list.context("no answer came")??.items.len())
        })
    })?
}

fn check(cluster: &mut Cluster, netns: &Netns) -> Result<()> {
    let namespace = Cluster::unique("app");
    let account = Cluster::unique("agent");
    cluster.apply(&format!(
        "
{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {{name: {account}}},
  rules: [{{apiGroups: [''], resources: [pods], verbs: [list]}}]}}
---
{{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {{name: {account}}},
  roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {account}}},
  subjects: [{{kind: ServiceAccount, name: {account}, namespace: {namespace}}}]}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: one, namespace: {namespace}}},
  spec: {{containers: [{{name: main, image: none}}]}}, status: {{phase: Running}}}}
"
    ))?;
    let path = format!("/api/v1/namespaces/{namespace}/pods/one");
    assert_eq!(cluster.get(&path)?["status"]["phase"], "Running");
    let labels = json!({"metadata": {"labels": {"app": "one"}}});
    assert_eq!(cluster.patch(&path, &labels)?["metadata"]["labels"]["app"], "one");

    let config = cluster.kubeconfig(&namespace, &account)?;
    assert!(pods(netns, &config)? >= 1);
    let nobody = cluster.kubeconfig(&namespace, &Cluster::unique("nobody"))?;
    let refused = pods(netns, &nobody).err().context("it was let in")?.to_string();
    assert!(refused.contains("pods is forbidden"), "{refused}");
    cluster.cut();
    assert!(pods(netns, &config).is_err());
    cluster.mend()?;
    assert!(pods(netns, &config)? >= 1);
    cluster.delete(&path)
}

#[test]
fn a_cluster_is_reached_from_where_the_agent_is() -> Result<()> {
    let netns = netns()?;
    check(&mut Cluster::start_in(&netns)?, &netns)
}

/// Another server of this kind stands for the real one: what is between it and the test is the same.
#[test]
fn a_real_cluster_is_reached_and_left_as_it_was() -> Result<()> {
    let server = ApiServer::start()?;
    let before = server.get("/api/v1/namespaces")?;
    let netns = netns()?;
    let config = server.kubeconfig(&User::Admin)?;
    let mut cluster = Cluster::reach(&config, Some(Arc::clone(&netns)))?;
    check(&mut cluster, &netns)?;
    assert_ne!(server.get("/api/v1/namespaces")?["items"], before["items"]);
    drop(cluster);
    assert_eq!(server.get("/api/v1/namespaces")?["items"], before["items"]);
    let roles = server.get("/apis/rbac.authorization.k8s.io/v1/clusterroles")?;
    assert_eq!(roles["items"], json!([]));
    Ok(())
}
