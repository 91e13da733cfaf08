use proptest::prelude::*;
use rstest::rstest;

use super::*;

/// As read by an agent on a node whose process 1 is here, and that was told to look there.
fn read(text: &str, node: &str, told: &str) -> Membership {
    super::read(text, &Start::new(node, told))
}

const UID: &str = "7fda01c4-0ece-403d-88b4-c371d66d132a";
const OTHER: &str = "2c48913c-b29f-11e7-9350-020968147796";
const CONTAINER: &str = "e58a24d4a722c99712cff74ef69d93311089584eb32617b3890e0dcb996133f1";

/// A path with the pod's names in it.
fn path(template: &str) -> String {
    template
        .replace("{uid}", UID)
        .replace("{_uid}", &UID.replace('-', "_"))
        .replace("{other}", OTHER)
        .replace("{_other}", &OTHER.replace('-', "_"))
        .replace("{id}", CONTAINER)
}

fn pod(is_monitor: bool) -> Membership {
    let pod = PodUid::new(UID).expect("a UID");
    Membership::Pod(Owner { pod, is_monitor })
}

#[rstest]
// containerd, systemd driver: most of today's distributions.
#[case(
    "0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/cri-containerd-{id}.scope"
)]
#[case(
    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope"
)]
#[case("0::/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope")]
// CRI-O, and crun below it.
#[case("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/crio-{id}.scope")]
#[case(
    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/crio-{id}.scope/container"
)]
#[case("0::/kubepods/besteffort/pod{uid}/crio-{id}")]
// cri-dockerd.
#[case(
    "12:pids:/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{_uid}.slice/docker-{id}.scope"
)]
// cgroupfs driver: k3s, GKE, Talos.
#[case("0::/kubepods/burstable/pod{uid}/{id}")]
#[case("0::/kubepods/besteffort/pod{uid}/{id}")]
#[case("0::/kubepods/pod{uid}/{id}")]
// A sandbox of gVisor or Kata, a cgroup that has been removed, a cgroup that the pod has made.
#[case("0::/kubepods/pod{uid}")]
#[case("0::/kubepods/pod{uid}/{id} (deleted)")]
#[case("0::/kubepods/burstable/pod{uid}/{id}/init.scope")]
// kind, of both drivers.
#[case(
    "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{_uid}.slice/cri-containerd-{id}.scope"
)]
#[case("0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{_uid}.slice/cri-containerd-{id}.scope")]
#[case("0::/kubelet/kubepods/besteffort/pod{uid}/{id}")]
// A containerd that is not told to use systemd, as k3s' and GKE's once.
#[case(
    "1:name=systemd:/system.slice/containerd.service/kubepods-besteffort-pod{_uid}.slice:cri-containerd:{id}"
)]
#[case("0::/system.slice/k3s.service/kubepods-pod{_uid}.slice:cri-containerd:{id}")]
#[case("11:devices:/kubepods-burstable-pod{_uid}.slice:cri-containerd:{id}")]
// Both versions: one line of each hierarchy; what is in no pod's cgroup says nothing.
#[case(
    "12:cpuset:/\n11:cpu,cpuacct:/kubepods/pod{uid}/{id}\n1:name=systemd:/kubepods/pod{uid}/{id}\n0::/system.slice/containerd.service"
)]
fn a_process_of_a_pod(#[case] text: &str) {
    assert_eq!(read(&path(text), "0::/init.scope", ""), pod(false), "{text}");
}

#[rstest]
#[case(
    "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{_uid}.slice/crio-conmon-{id}.scope"
)]
#[case("0::/kubepods/burstable/pod{uid}/crio-conmon-{id}")]
fn the_monitor_of_a_container_is_not_in_the_pod(#[case] text: &str) {
    assert_eq!(read(&path(text), "0::/", ""), pod(true));
}

#[rstest]
#[case("0::/")]
#[case("0::/init.scope")]
#[case("0::/system.slice/kubelet.service")]
#[case("0::/system.slice/crio-conmon-{id}.scope")]
#[case("0::/kubepods.slice")]
#[case("0::/kubepods/burstable")]
#[case("0::/kubepods/burstable/{uid}")]
#[case("0::/kubepods/pod")]
// Somebody's container beside the kubelet's, which names its cgroups as it likes.
#[case("0::/docker/{id}/kubepods/pod{uid}/{id}")]
#[case("0::/docker/{id}/kubelet/kubepods/pod{uid}/{id}")]
#[case(
    "0::/system.slice/docker-{id}.scope/kubepods.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope"
)]
#[case("0::/docker/{id}/kubepods-burstable-pod{_uid}.slice:cri-containerd:{id}")]
#[case("0::/user.slice/user-1000.slice/kubepods/pod{uid}/{id}")]
// Slices that systemd would have put elsewhere.
#[case("0::/kubepods.slice/kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope")]
#[case("0::/kubepods.slice/kubepods-burstable.slice/kubepods-pod{_uid}.slice/cri-containerd-{id}.scope")]
#[case("0::/kubepods.slice/kubepods-pod{uid}.slice/cri-containerd-{id}.scope")]
#[case("0::/kubepods-burstable-pod{_uid}.slice:cri-containerd:short")]
#[case("")]
#[case("nonsense")]
fn a_process_of_nobody(#[case] text: &str) {
    assert_eq!(
        read(&path(text), "0::/init.scope", ""),
        Membership::Nobody,
        "{text}"
    );
}

#[rstest]
#[case::in_a_namespace("0::/../../kubepods-burstable-pod{_uid}.slice/cri-containerd-{id}.scope")]
#[case::of_two("0::/kubepods/pod{uid}/{id}\n1:name=systemd:/kubepods/pod{other}/{id}")]
fn it_cannot_be_told(#[case] text: &str) {
    assert_eq!(read(&path(text), "0::/", ""), Membership::Unclear);
}

#[rstest]
// A node that is a container, seen from outside its cgroup namespace.
#[case("/docker/{id}/init.scope", "/docker/{id}/kubelet/kubepods/pod{uid}/{id}")]
#[case("/docker/{id}", "/docker/{id}/kubepods/burstable/pod{uid}/{id}")]
#[case(
    "/system.slice/docker-{id}.scope/init.scope",
    "/system.slice/docker-{id}.scope/kubepods.slice/kubepods-pod{_uid}.slice/x"
)]
// A node that is a pod of another cluster.
#[case(
    "/kubepods/pod{other}/{id}/init.scope",
    "/kubepods/pod{other}/{id}/kubepods/pod{uid}/{id}"
)]
// k3s moves itself out of the way.
#[case("/k3s", "/kubepods/burstable/pod{uid}/{id}")]
fn the_node_has_a_root_of_its_own(#[case] first: &str, #[case] process: &str) {
    let (first, process) = (path(&format!("0::{first}")), path(&format!("0::{process}")));
    assert_eq!(read(&process, &first, ""), pod(false));
}

#[test]
fn the_agent_is_told_where_to_look() {
    let process = path("0::/bench/1/kubepods/pod{uid}/{id}");
    assert_eq!(read(&process, "0::/", "bench/1"), pod(false));
    assert_eq!(read(&process, "0::/", "bench/2"), Membership::Nobody);
    // It says nothing of other hierarchies.
    let first_version = process.replace("0::", "5:cpu:");
    assert_eq!(read(&first_version, "0::/", "bench/1"), Membership::Nobody);
}

#[test]
fn a_pods_cgroup_is_where_its_processes_are() {
    let uid = PodUid::new(UID).expect("a UID");
    let places: Vec<_> = directories(&uid).collect();
    assert_eq!(places.len(), 12);
    for place in places {
        let process = format!("0::/{}/{CONTAINER}", place.display());
        assert_eq!(read(&process, "0::/", ""), pod(false), "{process}");
        assert!(roots().any(|root| place.starts_with(root)), "{process}");
    }
}

#[rstest]
#[case("containerd://{id}", true)]
#[case("cri-o://{id}", true)]
#[case("{id}", false)]
#[case("containerd://", false)]
#[case("containerd://../../{id}", false)]
fn a_containers_id_is_part_of_a_path(#[case] text: &str, #[case] is_one: bool) {
    assert_eq!(ContainerId::of_status(&path(text)).is_some(), is_one);
}

#[rstest]
#[case("..")]
#[case("a/b")]
#[case("")]
#[case("a.slice")]
fn what_is_no_uid(#[case] text: &str) {
    assert_eq!(PodUid::new(text), None);
}

/// Names that somebody who wants to be another pod would give his cgroups.
fn name() -> impl Strategy<Value = String> {
    let known = [
        "kubepods",
        "kubepods.slice",
        "kubelet",
        "kubelet.slice",
        "kubelet-kubepods.slice",
        "burstable",
        "kubepods-burstable.slice",
        "system.slice",
        "containerd.service",
        "pod{other}",
        "kubepods-pod{_other}.slice",
        "kubepods-burstable-pod{_other}.slice",
        "kubepods-pod{_other}.slice:cri-containerd:{id}",
        "cri-containerd-{id}.scope",
        "{id}",
        "init.scope",
    ];
    prop_oneof![
        3 => proptest::sample::select(known.to_vec()).prop_map(path),
        1 => "[^\n]{1,20}",
    ]
}

proptest! {
    #[test]
    fn nothing_below_a_pods_cgroup_makes_it_another(
        place in 0..12_usize,
        names in proptest::collection::vec(name(), 0..8),
        first in proptest::sample::select(vec!["", "0::/", "0::/init.scope", "0::/system.slice/x.service"]),
    ) {
        let uid = PodUid::new(UID).expect("a UID");
        let place = directories(&uid).nth(place).expect("one of twelve");
        let text = format!("0::/{}/{}", place.display(), names.join("/"));
        let found = read(&text, first, "");
        prop_assert!(
            matches!(&found, Membership::Pod(owner) if owner.pod == uid),
            "{} is {:?}",
            text,
            found
        );
    }

    #[test]
    fn nobody_outside_becomes_a_pod(outer in "[a-z]{1,9}", names in proptest::collection::vec(name(), 0..8)) {
        prop_assume!(outer != "kubepods" && outer != "kubelet");
        let text = format!("0::/{outer}/{}", names.join("/"));
        prop_assert_eq!(read(&text, "0::/init.scope", ""), Membership::Nobody);
    }
}
