//! Every rule on who is captured.

use rstest::rstest;

use super::*;
use crate::{
    objects::{Labels, Mesh, Pod, SIDECAR_STATUS, Sidecar},
    project::capture::{Eligible, NotCaptured, Settings, eligible},
};

const MODE: &str = "istio.io/dataplane-mode";
const NODE_MODE: &str = "sluice.dev/capture";

fn all() -> Settings {
    Settings {
        ambient: true,
        sidecar: true,
        node_proxy: Some(9001),
        ..Settings::default()
    }
}

fn plain() -> Pod {
    Pod {
        name: pod_name("team/a"),
        uid: None,
        labels: Labels::new(),
        node: Some(NODE.into()),
        host_network: false,
        addresses: Vec::new(),
        finished: false,
        netns: None,
        cgroup: None,
        proxy_cgroup: None,
        kubelet_uid: None,
        sidecar_container: None,
        workload: None,
        service_account: "default".into(),
        mesh: Mesh::default(),
    }
}

fn labelled(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

#[rstest]
// The pod's label, in any namespace.
#[case("istio.io/dataplane-mode=ambient", Some(""), Eligible::InPod)]
#[case("istio.io/dataplane-mode=ambient", None, Eligible::InPod)]
#[case(
    "istio.io/dataplane-mode=ambient",
    Some("istio.io/dataplane-mode=none"),
    Eligible::InPod
)]
// The namespace's, unless the pod's says none.
#[case("", Some("istio.io/dataplane-mode=ambient"), Eligible::InPod)]
#[case(
    "istio.io/dataplane-mode=something",
    Some("istio.io/dataplane-mode=ambient"),
    Eligible::InPod
)]
#[case(
    "istio.io/dataplane-mode=none",
    Some("istio.io/dataplane-mode=ambient"),
    Eligible::No(NotCaptured::OptedOut)
)]
#[case(
    "",
    Some("istio.io/dataplane-mode=none"),
    Eligible::No(NotCaptured::NotSelected)
)]
#[case("", Some(""), Eligible::No(NotCaptured::NotSelected))]
#[case("", None, Eligible::No(NotCaptured::UnknownNamespace))]
// Labels that ask for a sidecar say nothing: only a sidecar that is there does.
#[case(
    "sidecar.istio.io/inject=true",
    Some("istio-injection=enabled,istio.io/dataplane-mode=ambient"),
    Eligible::InPod
)]
// The same shape for the node proxy, which comes after ztunnel.
#[case("sluice.dev/capture=node", None, Eligible::Node)]
#[case("sluice.dev/capture=node", Some(""), Eligible::Node)]
#[case("", Some("sluice.dev/capture=node"), Eligible::Node)]
#[case(
    "sluice.dev/capture=none",
    Some("sluice.dev/capture=node"),
    Eligible::No(NotCaptured::OptedOut)
)]
#[case(
    "istio.io/dataplane-mode=none",
    Some("sluice.dev/capture=node"),
    Eligible::Node
)]
#[case(
    "",
    Some("sluice.dev/capture=node,istio.io/dataplane-mode=ambient"),
    Eligible::InPod
)]
fn labels_ask(#[case] pod: &str, #[case] namespace: Option<&str>, #[case] expected: Eligible) {
    let labels = |text: &str| -> Labels {
        let pairs = text.split(',').filter_map(|pair| pair.split_once('='));
        pairs
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect()
    };
    let pod = Pod {
        labels: labels(pod),
        ..plain()
    };
    let namespace = namespace.map(labels);
    assert_eq!(eligible(&pod, namespace.as_ref(), &all()), expected);
}

#[test]
fn some_are_never_captured() {
    let namespace = labelled(MODE, "ambient");
    let why = |pod: &Pod| eligible(pod, Some(&namespace), &all());
    assert_eq!(why(&plain()), Eligible::InPod);
    let pod = Pod {
        host_network: true,
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::No(NotCaptured::HostNetwork));
    let pod = Pod {
        finished: true,
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::No(NotCaptured::Finished));
    let pod = Pod {
        name: pod_name("kube-system/a"),
        labels: labelled(MODE, "ambient"),
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::No(NotCaptured::ExcludedNamespace));
    let pod = Pod {
        name: pod_name("istio-system/a"),
        labels: labelled("app", "ztunnel"),
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::No(NotCaptured::Proxy));
    // By any other namespace's name that is nothing, and istio-system itself is not excluded.
    let pod = Pod {
        labels: labelled("app", "ztunnel"),
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::InPod);
    let pod = Pod {
        name: pod_name("istio-system/a"),
        ..plain()
    };
    assert_eq!(why(&pod), Eligible::InPod);
}

#[test]
fn only_what_is_switched_on_is_captured() {
    let ambient = labelled(MODE, "ambient");
    let node = labelled(NODE_MODE, "node");
    let off = Settings::default();
    assert_eq!(
        eligible(&plain(), Some(&ambient), &off),
        Eligible::No(NotCaptured::Off)
    );
    let only_node = Settings {
        ambient: false,
        ..all()
    };
    assert_eq!(
        eligible(&plain(), Some(&ambient), &only_node),
        Eligible::No(NotCaptured::NotSelected)
    );
    let only_ambient = Settings {
        node_proxy: None,
        ..all()
    };
    assert_eq!(
        eligible(&plain(), Some(&node), &only_ambient),
        Eligible::No(NotCaptured::NotSelected)
    );
    let no_sidecars = Settings {
        sidecar: false,
        ..all()
    };
    let pod = injected();
    assert_eq!(
        eligible(&pod, Some(&ambient), &no_sidecars),
        Eligible::No(NotCaptured::HasSidecar)
    );
}

fn injected() -> Pod {
    let mut pod = plain();
    pod.labels = labelled(MODE, "ambient");
    pod.mesh.annotations.insert(SIDECAR_STATUS.into(), String::new());
    pod.mesh.sidecar = Some(Sidecar::default());
    pod
}

fn variable(pod: &mut Pod, key: &str, value: &str) {
    let sidecar = pod.mesh.sidecar.get_or_insert_default();
    sidecar.variables.insert(key.into(), value.into());
}

fn role(pod: &mut Pod, role: &str) {
    pod.mesh.sidecar.get_or_insert_default().role = Some(role.into());
}

fn annotate(pod: &mut Pod, key: &str, value: &str) {
    pod.mesh.annotations.insert(key.into(), value.into());
}

const INJECT: &str = "sidecar.istio.io/inject";
const INTERCEPTION: &str = "sidecar.istio.io/interceptionMode";

/// What a pod is changed to, and what follows.
type Row = (fn(&mut Pod), Eligible);

#[test]
fn a_sidecar_captures_its_pod() {
    let rows: [Row; 15] = [
        (|_| (), Eligible::Sidecar),
        (
            |pod| pod.mesh.sidecar = None,
            Eligible::No(NotCaptured::NoProxyContainer),
        ),
        (
            |pod| pod.mesh.has_init = true,
            Eligible::No(NotCaptured::IstioInit),
        ),
        (
            |pod| variable(pod, "DISABLE_ENVOY", "true"),
            Eligible::No(NotCaptured::EnvoyDisabled),
        ),
        (|pod| variable(pod, "DISABLE_ENVOY", "false"), Eligible::Sidecar),
        (|pod| variable(pod, "DISABLE_ENVOY", "what?"), Eligible::Sidecar),
        (|pod| role(pod, "sidecar"), Eligible::Sidecar),
        (|pod| role(pod, "router"), Eligible::No(NotCaptured::NotASidecar)),
        (
            |pod| annotate(pod, INJECT, "false"),
            Eligible::No(NotCaptured::InjectionDeclined),
        ),
        (|pod| annotate(pod, INJECT, "maybe"), Eligible::Sidecar),
        (
            |pod| drop(pod.labels.insert(INJECT.into(), "F".into())),
            Eligible::No(NotCaptured::InjectionDeclined),
        ),
        (|pod| annotate(pod, INTERCEPTION, "TPROXY"), Eligible::Sidecar),
        (
            |pod| annotate(pod, INTERCEPTION, "NONE"),
            Eligible::No(NotCaptured::InterceptionNone),
        ),
        (
            |pod| pod.host_network = true,
            Eligible::No(NotCaptured::HostNetwork),
        ),
        (
            |pod| pod.name = pod_name("kube-system/a"),
            Eligible::No(NotCaptured::ExcludedNamespace),
        ),
    ];
    for (index, (change, expected)) in rows.into_iter().enumerate() {
        let mut pod = injected();
        change(&mut pod);
        // Its namespace has no say in it, and need not be known.
        assert_eq!(eligible(&pod, None, &all()), expected, "row {index}");
    }
}

#[test]
fn the_label_overrules_the_annotation() {
    let mut pod = injected();
    annotate(&mut pod, INJECT, "false");
    pod.labels.insert(INJECT.into(), "true".into());
    assert_eq!(eligible(&pod, None, &all()), Eligible::Sidecar);
}

#[test]
fn without_the_injectors_word_a_container_is_a_container() {
    let mut pod = injected();
    pod.mesh.annotations.clear();
    assert_eq!(eligible(&pod, None, &all()), Eligible::InPod);
}

#[test]
fn every_word_is_its_serialised_form() {
    for why in [
        NotCaptured::Off,
        NotCaptured::HostNetwork,
        NotCaptured::NotASidecar,
        NotCaptured::Pending,
    ] {
        assert_eq!(serde_json::to_value(why).expect("JSON"), why.word());
    }
}
