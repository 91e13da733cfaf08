mod orders;
mod rules;
mod wire;
mod ztunnel;

use std::{
    collections::BTreeMap,
    fs::File,
    path::Path,
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use prost::Message as _;

use super::{
    Netns, Peer, PodUid, Workload,
    messages::{Ack, ResponsePayload, Version, WorkloadResponse, ZdsHello},
};
use crate::facts::{NetnsCookie, PodName};

fn hello() -> Vec<u8> {
    let version = Version::V1.into();
    ZdsHello { version }.encode_to_vec()
}

/// An acknowledgement, or a refusal if there is an error.
fn ack(error: &str) -> Vec<u8> {
    let ack = Ack { error: error.into() };
    let payload = Some(ResponsePayload::Ack(ack));
    WorkloadResponse { payload }.encode_to_vec()
}

fn open(path: impl AsRef<Path>) -> Arc<std::os::fd::OwnedFd> {
    Arc::new(File::open(path).expect("a file").into())
}

/// A namespace where only the number matters.
fn netns(cookie: u64) -> Netns {
    static NULL: LazyLock<Arc<std::os::fd::OwnedFd>> = LazyLock::new(|| open("/dev/null"));
    Netns {
        descriptor: Arc::clone(&NULL),
        cookie: NetnsCookie(cookie),
    }
}

fn uid(name: &str) -> PodUid {
    PodUid(format!("uid-{name}"))
}

/// A pod of that name.
fn workload(name: &str, netns: Option<Netns>) -> Workload {
    Workload {
        pod: PodName {
            namespace: "team".into(),
            name: name.into(),
        },
        service_account: "default".into(),
        netns,
    }
}

/// Pods with the numbers of their namespaces, 0 for none.
fn pods(pods: &[(&str, u64)]) -> BTreeMap<PodUid, Workload> {
    let pod = |&(name, cookie): &(&str, u64)| {
        let netns = (cookie != 0).then(|| netns(cookie));
        (uid(name), workload(name, netns))
    };
    pods.iter().map(pod).collect()
}

fn peer() -> Peer {
    Peer {
        pid: Some(1),
        cgroup: Some("/proxy".into()),
        since: SystemTime::UNIX_EPOCH,
    }
}
