//! What the source makes of what a server does.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use sluice::source::WatchState;
use sluice_tests::{ApiServer, apiserver::User};

use crate::common::{
    CLUSTER, Stand, definition, names, namespace, pod, policies, policy, says, service_entries, share,
};

const POLICY: &str = "/apis/sluice.dev/v1alpha1/egresspolicies/one";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_listed_and_what_changes_comes() -> Result<()> {
    let elsewhere = pod("b", "").replace("node-1", "node-2");
    let mut stand = Stand::with(&[namespace("app"), pod("a", ""), elsewhere, policy("one")]).await?;
    let stores = stand.complete().await?.stores;
    let pods: Vec<_> = stores.pods.keys().map(ToString::to_string).collect();
    assert_eq!(pods, ["app/a"], "only the node's own");
    assert_eq!((names(&stores), stores.nodes.len()), (vec!["one"], 1));
    assert!(stores.only_local_pods);

    stand.server.apply(&policy("two"))?;
    let loaded = stand
        .until("another policy", |loaded| names(&loaded.stores) == ["one", "two"])
        .await?;
    assert!(share(&stores.policies["one"], &loaded.stores.policies["one"]));
    stand.server.patch(POLICY, &json!({"spec": {"mode": "Audit"}}))?;
    let audits =
        |loaded: &sluice::source::Loaded| loaded.stores.policies["one"].mode == sluice::objects::Mode::Audit;
    stand.until("a change", audits).await?;
    stand.server.delete(POLICY)?;
    stand
        .until("one less", |loaded| names(&loaded.stores) == ["two"])
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_on_other_nodes_are_watched_while_a_policy_names_them() -> Result<()> {
    let gateway = pod(
        "waypoint",
        ", labels: {gateway.networking.k8s.io/gateway-name: waypoint}",
    );
    let gateway = gateway
        .replace("node-1", "node-2")
        .replace("namespace: app", "namespace: egress");
    let mut stand = Stand::with(&[gateway]).await?;
    assert!(stand.complete().await?.stores.pods.is_empty());
    let gateways = "spec: {gateways: [{namespace: egress, gateway: waypoint}]}";
    stand.server.apply(&policy("one").replace("spec: {}", gateways))?;
    stand
        .until("the gateway", |loaded| loaded.stores.pods.len() == 1)
        .await?;
    stand.server.delete(POLICY)?;
    stand
        .until("nobody", |loaded| loaded.stores.pods.is_empty())
        .await?;
    assert!(
        !stand
            .source
            .status()
            .kinds
            .keys()
            .any(|name| name.contains("waypoint"))
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_not_taken_for_missing_before_its_pods_are_listed() -> Result<()> {
    let gateway = pod(
        "waypoint",
        ", labels: {gateway.networking.k8s.io/gateway-name: waypoint}",
    );
    let mut stand = Stand::with(&[gateway.replace("node-1", "node-2")]).await?;
    stand.complete().await?;
    stand.server.delay(Duration::from_millis(300));
    let gateways = "spec: {gateways: [{namespace: app, gateway: waypoint}]}";
    stand.server.apply(&policy("one").replace("spec: {}", gateways))?;
    let stores = stand
        .until("the policy", |loaded| names(&loaded.stores) == ["one"])
        .await?
        .stores;
    assert!(stores.pods.is_empty(), "nobody has listed them");
    assert_eq!(stores.awaited_gateways, stores.policies["one"].gateways);
    let listed = stand
        .until("the gateway", |loaded| loaded.stores.pods.len() == 1)
        .await?;
    assert_eq!(listed.stores.awaited_gateways, []);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_forgets_is_listed_again() -> Result<()> {
    let mut stand = Stand::with(&[policy("one"), policy("two")]).await?;
    let before = stand.complete().await?.stores;
    // What has happened meanwhile is in no watch.
    stand.server.stop();
    stand.server.delete(POLICY)?;
    stand.server.apply(&policy("three"))?;
    stand.server.expire();
    stand.server.restart()?;
    let after = stand
        .until("a new list", |loaded| names(&loaded.stores) == ["three", "two"])
        .await?
        .stores;
    assert!(share(&before.policies["two"], &after.policies["two"]));
    // While nothing is wrong with the server, too.
    stand.server.expire();
    stand.server.drop_watches();
    stand.well().await?;
    stand.server.apply(&policy("four"))?;
    stand
        .until("a change", |loaded| loaded.stores.policies.len() == 3)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_last_known_stays_while_the_server_is_away() -> Result<()> {
    let mut stand = Stand::with(&[policy("one")]).await?;
    stand.complete().await?;
    stand.well().await?;
    stand.server.stop();
    let away = stand.problem("egresspolicies: cannot be watched since").await?;
    assert!(away.stores.is_complete());
    assert_eq!((names(&away.stores), away.stores.nodes.len()), (vec!["one"], 1));
    assert!(says(&away, "the server cannot be reached"));
    let status = stand.source.status();
    assert_eq!(status.kinds["egresspolicies"].state, WatchState::Failing);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert!(stand.source.status().age_seconds >= Some(1), "it grows older");

    stand.server.apply(&policy("two"))?;
    stand.server.restart()?;
    stand
        .until("what was missed", |loaded| {
            names(&loaded.stores) == ["one", "two"]
        })
        .await?;
    let loaded = stand.well().await?;
    assert!(!says(&loaded, "cannot be watched"), "{:?}", loaded.problems);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_nothing_is_complete() -> Result<()> {
    let mut server = ApiServer::start()?;
    server.apply(CLUSTER)?;
    server.stop();
    let mut stand = Stand::watching(server, User::Admin, true).await?;
    let loaded = stand.problem("nodes: cannot be watched").await?;
    assert!(!loaded.stores.is_complete() && says(&loaded, "missing: pods"));
    assert_eq!(stand.source.status().age_seconds, None);
    stand.server.apply(&policies())?;
    stand.server.restart()?;
    stand.complete().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_breaks_off_takes_nothing_away() -> Result<()> {
    let mut stand = Stand::with(
        &(0..600)
            .map(|number| namespace(&format!("n{number}")))
            .collect::<Vec<_>>(),
    )
    .await?;
    let before = stand.complete().await?.stores.namespaces.len();
    assert!(before >= 600);
    // Lists take three pages, and the server goes away again and again.
    stand.server.delay(Duration::from_millis(40));
    for _ in 0..6 {
        stand.server.expire();
        stand.server.restart()?;
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(15)).await;
            let stores = stand.source.load().stores;
            assert!(stores.is_complete());
            assert_eq!(stores.namespaces.len(), before);
        }
    }
    stand.server.delay(Duration::ZERO);
    stand.well().await?;
    stand.server.apply(&namespace("new"))?;
    stand
        .until("a new one", |loaded| loaded.stores.namespaces.len() == before + 1)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_there_is_waited_for() -> Result<()> {
    let server = ApiServer::start()?;
    server.apply(CLUSTER)?;
    let mut stand = Stand::watching(server, User::Admin, false).await?;
    let loaded = stand.complete().await?;
    assert!(
        says(&loaded, "install the CustomResourceDefinition"),
        "{:?}",
        loaded.problems
    );
    assert!(says(
        &loaded,
        "the server has no serviceentries.networking.istio.io"
    ));
    assert!(says(
        &loaded,
        "the server has no gateways.gateway.networking.k8s.io"
    ));

    stand.server.apply(&policies())?;
    stand.server.apply(&policy("one"))?;
    stand.server.apply(&service_entries(&["v1alpha3", "v1beta1"]))?;
    let gateways = definition(
        "gateway.networking.k8s.io",
        "Gateway",
        "gateways",
        &["v1beta1"],
        "Namespaced",
    );
    stand.server.apply(&gateways)?;
    stand.server.apply(
        "apiVersion: networking.istio.io/v1beta1\nkind: ServiceEntry\nmetadata: {name: a, namespace: app}\n\
         spec: {hosts: [example.com], ports: [{number: 443, name: tls, protocol: TLS}]}\n",
    )?;
    let patience = Duration::from_mins(1);
    let found = |loaded: &sluice::source::Loaded| {
        names(&loaded.stores) == ["one"]
            && loaded.stores.service_entries.len() == 1
            && loaded.problems.is_empty()
    };
    stand.within(patience, "all kinds", found).await?;
    let kinds = stand.source.status().kinds;
    let version = |name: &str| kinds[name].api_version.clone().unwrap_or_default();
    assert_eq!(
        version("serviceentries"),
        "networking.istio.io/v1beta1",
        "the newest of those served"
    );
    assert_eq!(version("gateways"), "gateway.networking.k8s.io/v1beta1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_that_enforce_are_not_ended_by_a_definition_that_is_missing() -> Result<()> {
    let server = ApiServer::start()?;
    server.apply(CLUSTER)?;
    let mut stand = Stand::watching(server, User::Admin, true).await?;
    let loaded = stand
        .problem("the rules in the kernel, which enforce policies, stay")
        .await?;
    stand.well().await?;
    assert!(!loaded.stores.is_complete() && !stand.source.load().stores.is_complete());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_end_with_their_definition_only_if_they_are_seen_to() -> Result<()> {
    let definition = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/egresspolicies.sluice.dev";
    let mut stand = Stand::with(&[policy("one")]).await?;
    stand.complete().await?;
    stand.well().await?;
    // Behind the agent's back.
    stand.server.stop();
    stand.server.delete(definition)?;
    stand.server.expire();
    stand.server.restart()?;
    let loaded = stand
        .problem("the policies that were last known stay in force")
        .await?;
    assert_eq!(
        (names(&loaded.stores), loaded.stores.is_complete()),
        (vec!["one"], true)
    );

    // Before its eyes.
    stand.server.apply(&policies())?;
    stand.server.apply(&policy("one"))?;
    stand.well().await?;
    let watches = |stand: &Stand| stand.source.status().kinds["egresspolicies"].state == WatchState::Watching;
    while !watches(&stand) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stand.server.delete(definition)?;
    stand
        .until("no policy", |loaded| loaded.stores.policies.is_empty())
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_cannot_be_read_keeps_its_last_good_version() -> Result<()> {
    let mut stand = Stand::with(&[policy("one"), policy("two")]).await?;
    let before = stand.complete().await?.stores;
    stand.server.patch(POLICY, &json!({"spec": {"nonsense": true}}))?;
    let loaded = stand
        .problem("EgressPolicy one: cannot be read: unknown field `nonsense`")
        .await?;
    assert_eq!(names(&loaded.stores), ["one", "two"]);
    assert!(share(&before.policies["one"], &loaded.stores.policies["one"]));
    // The others are not held up, and a new list does not lose it.
    stand.server.delete(&POLICY.replace("one", "two"))?;
    stand
        .until("one less", |loaded| names(&loaded.stores) == ["one"])
        .await?;
    stand.server.expire();
    stand.server.drop_watches();
    stand.well().await?;
    let loaded = stand.source.load();
    assert_eq!(names(&loaded.stores), ["one"]);
    assert!(says(&loaded, "its last version that could be read stays"));
    stand.server.patch(POLICY, &json!({"spec": {"nonsense": null}}))?;
    stand
        .until("no problem", |loaded| !says(loaded, "cannot be read"))
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_never_could_be_read_is_not_taken_for_none() -> Result<()> {
    let mut stand = Stand::with(&[policy("one").replace("spec: {}", "spec: {nonsense: 1}")]).await?;
    let loaded = stand.problem("EgressPolicy one: cannot be read").await?;
    stand.well().await?;
    assert!(!loaded.stores.is_complete() && !stand.source.load().stores.is_complete());
    stand.server.apply(&policy("one"))?;
    stand.server.patch(POLICY, &json!({"spec": {"nonsense": null}}))?;
    stand.complete().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tenant_writes_of_places_is_not_believed() -> Result<()> {
    let annotations = ", annotations: {sluice.dev/netns: /proc/1/ns/net, sluice.dev/cgroup: /}";
    let mut stand = Stand::with(&[pod("a", annotations), pod("b", annotations)]).await?;
    let loaded = stand.complete().await?;
    assert!(
        says(&loaded, "Pod app/a: the annotations sluice.dev/netns"),
        "{:?}",
        loaded.problems
    );
    assert!(
        loaded
            .stores
            .pods
            .values()
            .all(|pod| pod.netns.is_none() && pod.cgroup.is_none())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_right_that_is_missing_is_named() -> Result<()> {
    let server = ApiServer::start()?;
    for yaml in [CLUSTER, &policies()] {
        server.apply(yaml)?;
    }
    let role = |resources: &str| {
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {{name: agent}}\nrules:\n\
             - {{apiGroups: ['', discovery.k8s.io, networking.k8s.io, sluice.dev], verbs: [list, watch], resources: \
             [{resources}]}}\n"
        )
    };
    let most = "pods, namespaces, nodes, services, servicecidrs, egresspolicies";
    server.apply(&role(most))?;
    server.apply(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRoleBinding\nmetadata: {name: agent}\n\
         roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: agent}\n\
         subjects: [{kind: ServiceAccount, namespace: sluice, name: agent}]\n",
    )?;
    let user = User::ServiceAccount("sluice".into(), "agent".into());
    let mut stand = Stand::watching(server, user, false).await?;
    let words = "does the agent's ClusterRole have list and watch on endpointslices.discovery.k8s.io?";
    let loaded = stand.problem(words).await?;
    assert!(!loaded.stores.is_complete());
    stand.server.apply(&role(&format!("{most}, endpointslices")))?;
    stand.complete().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_replaced_is_read_again() -> Result<()> {
    let mut stand = Stand::with(&[policy("one")]).await?;
    stand.complete().await?;
    let user = stand.user.clone();
    stand.server.rotate(&user, &stand.kubeconfig)?;
    stand.server.drop_watches();
    stand.problem("has its token expired?").await?;
    stand.server.apply(&policy("two"))?;
    // The client keeps what it has read of the file for most of a minute.
    let patience = Duration::from_secs(90);
    let found = |loaded: &sluice::source::Loaded| names(&loaded.stores) == ["one", "two"];
    stand.within(patience, "the new token", found).await?;
    Ok(())
}
