//! What goes where.

use std::collections::BTreeMap;

use super::{judge::SIDECAR_SOURCES, *};
use crate::{
    Addr, DropReason, Verdict,
    packet::Protocol,
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
    for source in SIDECAR_SOURCES {
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
    let overruled = overrule(Verdict::Deny(DropReason::NotGateway), redirect);
    assert_eq!(overruled, Verdict::Redirect(RedirectReason::Outbound));
    for reason in [
        DropReason::ForgedSource,
        DropReason::UnknownEndpoint,
        DropReason::Martian,
    ] {
        assert_eq!(overrule(Verdict::Deny(reason), redirect), Verdict::Deny(reason));
    }
    let left = Fate::Leave(LeaveReason::Own);
    assert_eq!(
        overrule(Verdict::Deny(DropReason::NotGateway), left),
        Verdict::Deny(DropReason::NotGateway)
    );
}
