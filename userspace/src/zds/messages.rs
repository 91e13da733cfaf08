//! The messages, as bytes. One datagram is one of them.
//!
//! Names, tags and types are those of ztunnel's `proto/zds.proto` (package `istio.workload.zds`), which both ends of
//! the socket have to agree on; unknown fields are skipped, as protobuf has it.

use prost::Message;

use super::{PodUid, Workload};

/// The longest message that ztunnel reads, in octets (the buffer in its `src/inpod/protocol.rs`). It takes a longer one
/// for a fault, leaves, comes back and is sent the same again.
pub(super) const MAX_REQUEST: usize = 1024;
/// The longest answer that is read, in octets. It is longer than what istio-cni reads, as the text of a refusal holds
/// whatever went wrong in the proxy.
pub(super) const MAX_RESPONSE: usize = 4096;

/// Versions of the protocol (`enum Version`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Version {
    /// `NOT_USED`: what a message without the field says.
    NotUsed = 0,
    /// `V1`: the only one there is.
    V1 = 1,
}

/// What a proxy says first, unasked.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct ZdsHello {
    /// `version = 1`.
    #[prost(enumeration = "Version", tag = "1")]
    pub(super) version: i32,
}

/// Who a workload is, as the mesh knows it by other ways too: ztunnel denies what it does not find under these names.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WorkloadInfo {
    /// `name = 1`: the pod's.
    #[prost(string, tag = "1")]
    pub(super) name: String,
    /// `namespace = 2`: the pod's.
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    /// `service_account = 3`: its name. (4 is reserved: the trust domain was there.)
    #[prost(string, tag = "3")]
    pub(super) service_account: String,
}

/// Serve a pod; the descriptor of its network namespace comes along.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AddWorkload {
    /// `uid = 1`: the pod's.
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    /// `workload_info = 2`: ztunnel exits if it is not there.
    #[prost(message, optional, tag = "2")]
    pub(super) workload_info: Option<WorkloadInfo>,
}

/// A pod whose namespace is not known: go on serving it if you do. In a snapshot only.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeepWorkload {
    /// `uid = 1`: the pod's.
    #[prost(string, tag = "1")]
    pub(super) uid: String,
}

/// Serve a pod no longer.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DelWorkload {
    /// `uid = 2`: the pod's. Not 1, as elsewhere.
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

/// That was all: serve nobody whom this connection has not named.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SnapshotSent {}

/// What the agent sends.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WorkloadRequest {
    /// `oneof payload`.
    #[prost(oneof = "RequestPayload", tags = "1, 2, 3, 5")]
    pub(super) payload: Option<RequestPayload>,
}

/// What a request asks for.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum RequestPayload {
    /// `add = 1`.
    #[prost(message, tag = "1")]
    Add(AddWorkload),
    /// `del = 2`.
    #[prost(message, tag = "2")]
    Del(DelWorkload),
    /// `snapshot_sent = 3`. (4 was a message that no version in use has.)
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    /// `keep = 5`.
    #[prost(message, tag = "5")]
    Keep(KeepWorkload),
}

/// What a proxy answers.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WorkloadResponse {
    /// `oneof payload`.
    #[prost(oneof = "ResponsePayload", tags = "1")]
    pub(super) payload: Option<ResponsePayload>,
}

/// What a response says.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum ResponsePayload {
    /// `ack = 1`.
    #[prost(message, tag = "1")]
    Ack(Ack),
}

/// Done, or not.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Ack {
    /// `error = 1`: why not; empty if it was done.
    #[prost(string, tag = "1")]
    pub(super) error: String,
}

/// Asks to serve a pod.
pub(super) fn add(uid: &PodUid, workload: &Workload) -> WorkloadRequest {
    request(RequestPayload::Add(AddWorkload {
        uid: uid.0.clone(),
        workload_info: Some(WorkloadInfo {
            name: workload.pod.name.clone(),
            namespace: workload.pod.namespace.clone(),
            service_account: workload.service_account.clone(),
        }),
    }))
}

/// Asks to go on with a pod.
pub(super) fn keep(uid: &PodUid) -> WorkloadRequest {
    request(RequestPayload::Keep(KeepWorkload { uid: uid.0.clone() }))
}

/// Asks to leave a pod.
pub(super) fn del(uid: &PodUid) -> WorkloadRequest {
    request(RequestPayload::Del(DelWorkload { uid: uid.0.clone() }))
}

/// Ends a snapshot.
pub(super) fn snapshot_sent() -> WorkloadRequest {
    request(RequestPayload::SnapshotSent(SnapshotSent {}))
}

/// Whether ztunnel can read what there may be to say of a workload.
pub(super) fn fits(uid: &PodUid, workload: &Workload) -> bool {
    add(uid, workload).encoded_len() <= MAX_REQUEST
}

fn request(payload: RequestPayload) -> WorkloadRequest {
    WorkloadRequest {
        payload: Some(payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::PodName;

    #[test]
    fn the_bytes_are_those_of_the_protocol() {
        let uid = PodUid("u".into());
        let workload = Workload {
            pod: PodName {
                namespace: "s".into(),
                name: "n".into(),
            },
            service_account: "a".into(),
            netns: None,
        };
        // Tag and wire type, length, content; written down by hand from the .proto.
        assert_eq!(
            add(&uid, &workload).encode_to_vec(),
            b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a"
        );
        assert_eq!(keep(&uid).encode_to_vec(), b"\x2a\x03\x0a\x01u");
        assert_eq!(del(&uid).encode_to_vec(), b"\x12\x03\x12\x01u");
        assert_eq!(snapshot_sent().encode_to_vec(), b"\x1a\x00");
        assert_eq!(
            ZdsHello::decode(&b"\x08\x01"[..]).map(|hello| hello.version()),
            Ok(Version::V1)
        );
        let ack = |bytes: &'static [u8]| WorkloadResponse::decode(bytes).expect("an answer").payload;
        let said = |error: &str| Some(ResponsePayload::Ack(Ack { error: error.into() }));
        assert_eq!(ack(b"\x0a\x00"), said(""));
        assert_eq!(ack(b"\x0a\x04\x0a\x02no"), said("no"));
        assert_eq!(ack(b""), None);
    }
}
