//! What goes where.

use std::collections::BTreeMap;

use super::{judge::SIDECAR_SOURCES, *};
use crate::{
    Addr, DropReason,
    event::Outcome,
    packet::{ETH_IPV4, ETH_IPV6, Packet, Protocol, Tuple},
    reason::{LeaveReason, RedirectReason},
};

const POD: Addr = Addr::v4([10, 0, 0, 5]);
const OUTSIDE: Addr = Addr::v4([203, 0, 113, 9]);
const COOKIE: u64 = 0x1_0000_0007;

#[derive(Default)]
struct Said {
    ranges: BTreeMap<Addr, Scope>,
    ports: BTreeMap<u16, Scope>,
}

impl Lookup for Said {
    fn range(&self, netns: u64, addr: Addr) -> Scope {
        assert_eq!(netns, COOKIE);
        self.ranges.get(&addr).copied().unwrap_or(Scope::NONE)
    }

    fn port(&self, netns: u64, port: u16) -> Scope {
        assert_eq!(netns, COOKIE);
        self.ports.get(&port).copied().unwrap_or(Scope::NONE)
    }

    fn owner(&self, addr: Addr) -> u64 {
        if addr == POD { COOKIE } else { 0 }
    }
}

const fn sidecar() -> Capture {
    Capture::new(COOKIE, Mode::Sidecar)
        .at(Some(POD), None)
        .dns_to(port::DNS)
        .every_range(true)
        .inbound(true)
        .every_port(true)
}

const fn tcp(dst: Addr, dport: u16) -> Call {
    Call {
        src: Addr::UNSPECIFIED,
        dst,
        dport,
        protocol: Protocol::TCP,
        by_proxy: false,
    }
}

#[test]
fn what_is_excluded_goes_before_what_is_included_and_ports_before_ranges() {
    let said = Said {
        ranges: BTreeMap::from([(OUTSIDE, Scope::EXCLUDED.and(Scope::INCLUDED))]),
        ports: BTreeMap::from([(22, Scope::EXCLUDED), (8080, Scope::INCLUDED)]),
    };
    let capture = sidecar().with_ranges(true).with_ports(true);
    let other = Addr::v4([203, 0, 113, 10]);
    let judge = |call_: Call| call(&said, &capture, &call_);
    assert_eq!(judge(tcp(OUTSIDE, 80)), Fate::Leave(LeaveReason::ExcludedRange));
    assert_eq!(judge(tcp(OUTSIDE, 8080)), Fate::Leave(LeaveReason::ExcludedRange));
    assert_eq!(judge(tcp(other, 22)), Fate::Leave(LeaveReason::ExcludedPort));
    assert_eq!(judge(tcp(other, 80)), Fate::Redirect(RedirectReason::Outbound));
    let some = capture.every_range(false);
    assert_eq!(
        call(&said, &some, &tcp(other, 80)),
        Fate::Leave(LeaveReason::NotIncluded)
    );
    assert_eq!(
        call(&said, &some, &tcp(other, 8080)),
        Fate::Redirect(RedirectReason::Outbound)
    );
}

#[test]
fn dns_is_captured_for_both_protocols_and_nothing_else_of_udp_is() {
    let said = Said::default();
    let udp = |dport| Call {
        protocol: Protocol::UDP,
        ..tcp(OUTSIDE, dport)
    };
    assert_eq!(
        call(&said, &sidecar(), &udp(53)),
        Fate::Redirect(RedirectReason::Dns)
    );
    assert_eq!(
        call(&said, &sidecar(), &tcp(OUTSIDE, 53)),
        Fate::Redirect(RedirectReason::Dns)
    );
    assert_eq!(
        call(&said, &sidecar(), &udp(443)),
        Fate::Leave(LeaveReason::Protocol)
    );
    let excluded = Said {
        ports: BTreeMap::from([(53, Scope::EXCLUDED)]),
        ..Said::default()
    };
    let capture = sidecar().with_ports(true);
    assert_eq!(
        call(&excluded, &capture, &udp(53)),
        Fate::Leave(LeaveReason::ExcludedPort)
    );
}

#[test]
fn a_pod_that_talks_to_itself_is_left_alone_but_not_on_the_proxys_ports() {
    let said = Said::default();
    for own in [POD, Addr::v4([127, 0, 0, 1]), Addr::UNSPECIFIED] {
        assert_eq!(
            call(&said, &sidecar(), &tcp(own, 80)),
            Fate::Leave(LeaveReason::Own)
        );
        for port in [15000, 15001, 15004, 15006] {
            assert_eq!(
                call(&said, &sidecar(), &tcp(own, port)),
                Fate::Refuse(DropReason::ProxyPort)
            );
        }
    }
}

#[test]
fn the_proxy_goes_where_it_wants_but_never_to_itself() {
    let said = Said::default();
    let by_proxy = |dst, dport| Call {
        by_proxy: true,
        ..tcp(dst, dport)
    };
    assert_eq!(
        call(&said, &sidecar(), &by_proxy(OUTSIDE, 80)),
        Fate::Leave(LeaveReason::Proxy)
    );
    assert_eq!(
        call(&said, &sidecar(), &by_proxy(POD, 15001)),
        Fate::Refuse(DropReason::ProxyPort)
    );
    // A Service that leads back to the pod.
    assert_eq!(
        call(&said, &sidecar(), &by_proxy(POD, 80)),
        Fate::Redirect(RedirectReason::Inbound)
    );
    for source in SIDECAR_SOURCES.into_iter().chain([OUTSIDE]) {
        let passed_on = Call {
            src: source,
            ..by_proxy(POD, 80)
        };
        assert_eq!(
            call(&said, &sidecar(), &passed_on),
            Fate::Leave(LeaveReason::Proxy)
        );
    }
    let ztunnel = Capture::new(COOKIE, Mode::InPod)
        .at(Some(POD), None)
        .inbound(true);
    assert_eq!(
        call(&said, &ztunnel, &by_proxy(POD, 80)),
        Fate::Leave(LeaveReason::Proxy)
    );
}

#[test]
fn calls_to_a_pod_go_to_the_proxy_but_for_hbone_and_what_is_excluded() {
    let said = Said {
        ports: BTreeMap::from([(15021, Scope::INBOUND_EXCLUDED), (9000, Scope::INBOUND_INCLUDED)]),
        ..Said::default()
    };
    let capture = sidecar().with_ports(true);
    assert_eq!(
        inbound(&said, &capture, 80),
        Fate::Redirect(RedirectReason::Inbound)
    );
    assert_eq!(
        inbound(&said, &capture, 15021),
        Fate::Leave(LeaveReason::ExcludedPort)
    );
    assert_eq!(inbound(&said, &capture, 15008), Fate::Leave(LeaveReason::Hbone));
    assert_eq!(
        inbound(&said, &capture, 15006),
        Fate::Refuse(DropReason::ProxyPort)
    );
    let some = capture.every_port(false);
    assert_eq!(inbound(&said, &some, 80), Fate::Leave(LeaveReason::NotIncluded));
    assert_eq!(
        inbound(&said, &some, 9000),
        Fate::Redirect(RedirectReason::Inbound)
    );
    assert_eq!(
        inbound(&said, &capture.inbound(false), 80),
        Fate::Leave(LeaveReason::Bypass)
    );
}

#[test]
fn the_node_itself_is_not_captured() {
    let guard = Capture::new(COOKIE, Mode::Guard).dns_to(port::DNS);
    let udp = Call {
        protocol: Protocol::UDP,
        ..tcp(OUTSIDE, 53)
    };
    assert_eq!(
        call(&Said::default(), &guard, &udp),
        Fate::Leave(LeaveReason::NotIncluded)
    );
}

#[test]
fn capture_overrules_what_the_rules_say_and_nothing_else() {
    let redirect = Fate::Redirect(RedirectReason::Outbound);
    let redirected = Outcome::Redirected(RedirectReason::Outbound);
    assert_eq!(
        overrule(Outcome::Denied(DropReason::NotGateway), redirect),
        redirected
    );
    for reason in [
        DropReason::ForgedSource,
        DropReason::UnknownEndpoint,
        DropReason::Martian,
    ] {
        let denied = Outcome::Denied(reason);
        assert_eq!(overrule(denied, redirect), denied);
    }
    let denied = Outcome::Denied(DropReason::NotGateway);
    assert_eq!(overrule(denied, Fate::Leave(LeaveReason::Own)), denied);
}

#[test]
fn rules_on_trial_do_not_put_capture_on_trial() {
    let redirect = Fate::Redirect(RedirectReason::Outbound);
    let refuse = Fate::Refuse(DropReason::Uncaptured);
    let audited = Outcome::Audited(DropReason::NotGateway);
    assert_eq!(
        overrule(audited, redirect),
        Outcome::Redirected(RedirectReason::Outbound)
    );
    assert_eq!(overrule(audited, refuse), Outcome::Denied(DropReason::Uncaptured));
    let forged = Outcome::Audited(DropReason::ForgedMac);
    for fate in [redirect, refuse] {
        assert_eq!(overrule(forged, fate), Outcome::Denied(DropReason::ForgedMac));
    }
    assert_eq!(overrule(forged, Fate::Leave(LeaveReason::Established)), forged);
}

#[test]
fn what_may_hide_a_call_is_refused_and_what_cannot_is_not() {
    let packet = |ether_type, protocol| Packet {
        ether_type,
        tuple: Tuple {
            protocol,
            ..Tuple::EMPTY
        },
        ..Packet::EMPTY
    };
    let chain = Err(DropReason::HeaderChain);
    let routing = packet(ETH_IPV6, Protocol(43));
    assert_eq!(unreadable(&routing, chain), Some(DropReason::HeaderChain));
    assert_eq!(
        unreadable(&packet(0x8100, Protocol(0)), Err(DropReason::UnknownEthertype)),
        Some(DropReason::VlanTag)
    );
    let tunnel = packet(ETH_IPV6, Protocol(47));
    assert_eq!(unreadable(&tunnel, Err(DropReason::UnknownProtocol)), None);
    let icmp = packet(ETH_IPV6, Protocol::ICMPV6);
    assert_eq!(unreadable(&icmp, Err(DropReason::Malformed)), None);
    assert_eq!(unreadable(&packet(ETH_IPV6, Protocol::TCP), Ok(())), None);
}

#[test]
fn a_question_that_dodged_its_socket_is_refused_on_the_device() {
    let question = Packet {
        ether_type: ETH_IPV4,
        tuple: Tuple {
            src: POD,
            dst: OUTSIDE,
            sport: 4711,
            dport: 53,
            protocol: Protocol::UDP,
        },
        ..Packet::EMPTY
    };
    let said = Said::default();
    for mode in [Mode::Node, Mode::InPod] {
        let capture = Capture::new(COOKIE, mode).dns_to(port::DNS);
        assert_eq!(
            sent(&said, &capture, &question, Ok(()), || false),
            Fate::Refuse(DropReason::Uncaptured)
        );
        assert_eq!(
            sent(&said, &capture, &question, Ok(()), || true),
            Fate::Leave(LeaveReason::Proxy)
        );
    }
    let without = Capture::new(COOKIE, Mode::InPod);
    assert_eq!(
        sent(&said, &without, &question, Ok(()), || false),
        Fate::Leave(LeaveReason::Protocol)
    );
}
