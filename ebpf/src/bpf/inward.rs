//! What comes in: `pod_in` and `node_in` note the calls from outside, so that their answers may leave.
//!
//! Two places, because kube-proxy translates addresses between them: `pod_out` sees an answer with the pod's
//! address, `node_out` the same answer with the Service's.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use ebpf::{
    decide::Lookup as _,
    flow::FlowKey,
    packet::{ETH_IPV4, ETH_IPV6, Link},
    reason::Approval,
    rules::Enforcement,
};

use super::{flows, probes, rules::Generation, skb::Skb};

/// tc egress of a pod device.
#[classifier]
pub fn pod_in(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let Some(rules) = Generation::active() else {
        return TC_ACT_UNSPEC;
    };
    if let Some(endpoint) = rules.endpoint_on(skb.device()) {
        // A pod that no program is on yet could send with an outsider's address; what node_in has seen is no pod's.
        if endpoint.is_subject() && Approval::read(skb.mark()) == Approval::Arrived {
            note_call(&rules, &skb, Link::Ethernet, skb.device());
        } else if endpoint.captured() != 0 && rules.header.kubelet().holds(|level| skb.cgroup_at(level)) {
            note_probe(&skb);
        }
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn note_probe(skb: &Skb) {
    if let Some(desk) = skb.parse(Link::Ethernet)
        && desk.parsed().is_ok()
    {
        probes::note(desk.packet());
    }
}

/// tc ingress of an uplink with Ethernet frames.
#[classifier]
pub fn node_in(ctx: TcContext) -> i32 {
    node_in_of(&Skb::new(&ctx), Link::Ethernet)
}

/// tc ingress of an uplink without link headers.
#[classifier]
pub fn node_in_ip(ctx: TcContext) -> i32 {
    let skb = Skb::new(&ctx);
    let link = Link::Ip(skb.ether_type());
    node_in_of(&skb, link)
}

#[inline(always)]
fn node_in_of(skb: &Skb, link: Link) -> i32 {
    if let Some(rules) = Generation::active()
        && rules.header.enforcement() != Enforcement::Off
    {
        skb.approve(Approval::Arrived);
        note_call(&rules, skb, link, FlowKey::NODE);
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn note_call(rules: &Generation, skb: &Skb, link: Link, scope: u32) {
    let Some(desk) = skb.parse(link) else {
        return;
    };
    let (packet, parsed) = (desk.packet(), desk.parsed());
    let ip = matches!(packet.ether_type, ETH_IPV4 | ETH_IPV6);
    if parsed.is_ok() && ip && !rules.groups(packet.tuple.src).is_internal() {
        flows::note_inward(scope, packet);
    }
}
