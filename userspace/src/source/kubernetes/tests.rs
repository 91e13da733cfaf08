use serde_json::{Value, json};

use super::{super::stores::AnyObject, item::Item, table::Table, target::Target};
use crate::objects::{Kind, ObjectRef, Selector};

fn item(kind: Kind, object: &Value) -> Item {
    Item::read(kind, &object.to_string()).expect("an object")
}

fn node(name: &str, cidr: &str, version: u32) -> Item {
    let object = json!({
        "metadata": {"name": name, "resourceVersion": version.to_string()},
        "spec": {"podCIDR": cidr},
    });
    item(Kind::Node, &object)
}

fn names(table: &Table) -> Vec<&str> {
    table.objects().nodes.keys().map(String::as_str).collect()
}

/// A table in which these have been listed.
fn listed(nodes: &[(&str, &str)]) -> Table {
    let mut table = Table::default();
    table.begin();
    for (name, cidr) in nodes {
        table.listed(node(name, cidr, 1));
    }
    assert!(table.finish(), "a first list is always news");
    table
}

#[test]
fn a_list_takes_effect_as_a_whole() {
    let mut table = Table::default();
    assert!(!table.is_listed());
    table.begin();
    table.listed(node("a", "10.0.0.0/24", 1));
    assert!(names(&table).is_empty() && !table.is_listed());
    table.finish();
    assert_eq!((names(&table), table.is_listed()), (vec!["a"], true));

    // Half of another one, then a third: what is missing in it is gone.
    table.begin();
    table.listed(node("b", "10.0.1.0/24", 2));
    assert_eq!(names(&table), ["a"]);
    table.begin();
    table.listed(node("c", "10.0.2.0/24", 3));
    assert!(table.finish());
    assert_eq!(names(&table), ["c"]);
}

#[test]
fn an_empty_list_is_news_only_once() {
    let mut table = listed(&[]);
    table.begin();
    assert!(!table.finish());
}

#[test]
fn what_changes_without_meaning_is_no_change() {
    let mut table = listed(&[("a", "10.0.0.0/24")]);
    let first = table.objects().nodes["a"].clone();
    assert!(!table.apply(node("a", "10.0.0.0/24", 2)));
    table.begin();
    table.listed(node("a", "10.0.0.0/24", 3));
    assert!(!table.finish(), "the same list again");
    assert!(std::sync::Arc::ptr_eq(&first, &table.objects().nodes["a"]));
    assert!(table.apply(node("a", "10.0.9.0/24", 4)));
    assert!(table.delete(&ObjectRef::cluster(Kind::Node, "a")));
    assert!(!table.delete(&ObjectRef::cluster(Kind::Node, "a")));
}

#[test]
fn an_object_that_cannot_be_read_keeps_its_last_good_version() {
    let mut table = listed(&[("a", "10.0.0.0/24")]);
    let unreadable = |table: &Table| -> Vec<(String, bool)> {
        let unreadable = table.unreadable();
        unreadable
            .map(|(name, _, older)| (name.to_string(), older))
            .collect()
    };
    assert!(table.apply(node("a", "nonsense", 2)));
    assert!(table.apply(node("b", "nonsense", 3)));
    assert!(!table.apply(node("b", "nonsense", 4)), "known already");
    assert_eq!(names(&table), ["a"]);
    assert_eq!(
        unreadable(&table),
        [("Node a".to_owned(), true), ("Node b".to_owned(), false)]
    );

    // A list with the same in it says nothing else.
    table.begin();
    table.listed(node("a", "nonsense", 5));
    assert!(table.finish());
    assert_eq!(names(&table), ["a"]);
    assert_eq!(unreadable(&table), [("Node a".to_owned(), true)]);
    assert!(table.apply(node("a", "10.0.0.0/24", 6)));
    assert_eq!(unreadable(&table), []);
}

#[test]
fn a_pod_does_not_say_where_it_is() {
    let object = json!({
        "metadata": {
            "name": "a", "namespace": "b", "resourceVersion": "1",
            "annotations": {
                "sluice.dev/netns": "/proc/1/ns/net",
                "sluice.dev/cgroup": "/",
                "sluice.dev/proxy-cgroup": "/kubepods/gateway",
                "ambient.istio.io/redirection": "enabled",
            },
        },
    });
    let item = item(Kind::Pod, &object);
    assert!(item.names_places);
    let Ok(AnyObject::Pod(pod)) = item.read else {
        panic!("not read")
    };
    assert_eq!(
        (&pod.netns, &pod.cgroup, &pod.proxy_cgroup),
        (&None, &None, &None)
    );
    assert!(!pod.is_local("n"), "it is bound to no node");
    assert_eq!(pod.mesh.annotations.len(), 1);
}

#[test]
fn a_policy_is_read_with_or_without_what_it_is() {
    let mut object = json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": "p", "resourceVersion": "7", "managedFields": [{"manager": "kubectl"}]},
        "spec": {
            "gateways": [{"namespace": "egress", "gateway": "waypoint"}],
            "exceptions": [{"name": "time", "podSelector": {}, "to": [{"cidr": "192.0.2.0/24"}]}],
        },
        "status": {"conditions": []},
    });
    let read = |object: &Value| item(Kind::EgressPolicy, object).read;
    let Ok(AnyObject::EgressPolicy(policy)) = read(&object) else {
        panic!("{:?}", read(&object))
    };
    assert_eq!((policy.gateways.len(), policy.exceptions.len()), (1, 1));
    assert_eq!(policy.origin.to_string(), "resource version 7");
    object["spec"]["exceptions"][0]["to"][0]["cidr"] = json!("192.0.2.1/24");
    insta::assert_snapshot!(read(&object).expect_err("bits"), @"spec.exceptions[0].to[0].cidr: 192.0.2.1/24 has bits behind its prefix; write 192.0.2.0/24");
    object["spec"]["nonsense"] = json!(1);
    assert!(
        read(&object)
            .expect_err("unknown")
            .contains("unknown field `nonsense`")
    );
}

#[test]
fn gateways_are_asked_for_by_their_labels() {
    let gateway = |yaml: &str| {
        let text = format!(
            "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p}}\nspec:\n  gateways: [{yaml}]\n"
        );
        let manifest: crate::objects::EgressPolicyManifest = serde_saphyr::from_str(&text).expect("YAML");
        let policy = crate::objects::EgressPolicy::try_from(manifest).expect("a policy");
        let target = Target::gateway(&policy.gateways[0]);
        (target.path("v1"), target.labels)
    };
    let (path, labels) = gateway("{namespace: egress, gateway: waypoint}");
    assert_eq!(path, "/api/v1/namespaces/egress/pods");
    assert_eq!(
        labels.as_deref(),
        Some("gateway.networking.k8s.io/gateway-name=waypoint")
    );
    let expressions = "[{key: a, operator: In, values: [x, y]}, {key: b, operator: NotIn, values: [z]}, \
                       {key: c, operator: Exists}, {key: d, operator: DoesNotExist}]";
    let (_, labels) = gateway(&format!(
        "{{namespace: n, podSelector: {{matchExpressions: {expressions}}}}}"
    ));
    assert_eq!(labels.as_deref(), Some("a in (x,y),b notin (z),c,!d"));
    let (_, labels) = gateway("{namespace: n, podSelector: {}}");
    assert_eq!((labels, Selector::default().to_string()), (None, String::new()));
}
