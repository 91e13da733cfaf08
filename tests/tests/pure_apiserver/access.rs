//! Who may do what.

use kube::api::{ListParams, Patch, PatchParams};
use sluice_tests::apiserver::Verb;

use super::*;

const ROLES: &str = "
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRole, metadata: {name: agent}, rules: [
  {apiGroups: [''], resources: [nodes], verbs: [get, list, watch]},
  {apiGroups: [''], resources: [nodes/status], verbs: [patch], resourceNames: [node-1]}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: ClusterRoleBinding, metadata: {name: agent},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent},
  subjects: [{kind: ServiceAccount, name: sluice, namespace: sluice-system}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: maps, namespace: sluice-system}, rules: [
  {apiGroups: ['*'], resources: ['*'], verbs: ['*']}]}
---
{apiVersion: rbac.authorization.k8s.io/v1, kind: RoleBinding, metadata: {name: maps, namespace: sluice-system},
  roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: maps},
  subjects: [{kind: Group, name: 'system:serviceaccounts:sluice-system'}]}
---
{apiVersion: v1, kind: Node, metadata: {name: node-1}}
---
{apiVersion: v1, kind: Node, metadata: {name: node-2}}
";

fn stand() -> Result<(ApiServer, Client)> {
    let server = ApiServer::start()?;
    server.apply(ROLES)?;
    let client = server.client(&account())?;
    Ok((server, client))
}

#[tokio::test]
async fn roles_grant_what_they_say() -> Result<()> {
    let (_server, client) = stand()?;
    let nodes: Api<Node> = Api::all(client.clone());
    assert_eq!(nodes.list(&ListParams::default()).await?.items.len(), 2);
    let status = Patch::Merge(json!({"status": {"phase": "Running"}}));
    nodes
        .patch_status("node-1", &PatchParams::default(), &status)
        .await?;
    assert_eq!(
        message(
            nodes
                .patch_status("node-2", &PatchParams::default(), &status)
                .await
        )?,
        "nodes \"node-2\" is forbidden: User \"system:serviceaccount:sluice-system:sluice\" cannot patch resource \
         \"nodes/status\" in API group \"\" at the cluster scope"
    );
    assert_eq!(
        code(nodes.patch("node-1", &PatchParams::default(), &status).await)?,
        403
    );

    let here: Api<ConfigMap> = Api::namespaced(client.clone(), "sluice-system");
    here.list(&ListParams::default()).await?;
    let there: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    assert_eq!(
        message(there.list(&ListParams::default()).await)?,
        "configmaps is forbidden: User \"system:serviceaccount:sluice-system:sluice\" cannot list resource \
         \"configmaps\" in API group \"\" in the namespace \"default\""
    );
    let everywhere: Api<ConfigMap> = Api::all(client);
    assert_eq!(code(everywhere.list(&ListParams::default()).await)?, 403);
    Ok(())
}

#[tokio::test]
async fn a_list_of_one_name_is_granted_by_that_name() -> Result<()> {
    let (server, client) = stand()?;
    server.patch(
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/agent",
        &json!({"rules": [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"], "resourceNames": ["node-1"]}]}),
    )?;
    let nodes: Api<Node> = Api::all(client);
    let one = ListParams::default().fields("metadata.name=node-1");
    assert_eq!(nodes.list(&one).await?.items.len(), 1);
    assert_eq!(code(nodes.list(&ListParams::default()).await)?, 403);
    Ok(())
}

#[tokio::test]
async fn what_was_asked_is_known() -> Result<()> {
    let (server, client) = stand()?;
    let nodes: Api<Node> = Api::all(client.clone());
    nodes.get("node-1").await?;
    let pods: Api<Pod> = Api::namespaced(client, "default");
    assert!(pods.get("one").await.is_err());
    let asked: Vec<_> = server.asked().into_iter().collect();
    let shown: Vec<_> = asked
        .iter()
        .map(|asked| {
            (
                asked.verb,
                asked.resource.as_str(),
                asked.name.as_str(),
                asked.allowed,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Verb::Get, "nodes", "node-1", true),
            (Verb::Get, "pods", "one", false)
        ]
    );
    assert!(asked.iter().all(|asked| asked.user == account()));
    Ok(())
}

#[tokio::test]
async fn nobody_is_let_in_without_a_good_token() -> Result<()> {
    let (server, client) = stand()?;
    server.revoke(&account());
    let nodes: Api<Node> = Api::all(client);
    assert_eq!(code(nodes.get("node-1").await)?, 401);
    let anonymous = Client::try_from(kube::Config::new(server.local_url().parse()?))?;
    let nodes: Api<Node> = Api::all(anonymous);
    assert_eq!(code(nodes.get("node-1").await)?, 403);
    Ok(())
}
