//! What the annotations of a pod with a sidecar say of its calls.

use anyhow::{Result, ensure};
use sluice_tests::{bench::ip, proxy::OUTBOUND};

use crate::{
    common::at,
    sidecar::{FAR, NEAR, NEXT, Sidecar},
};

/// What the pod says, and for destinations whether they are then captured: addresses of both families, a port.
type Outbound = (
    &'static [(&'static str, &'static str)],
    &'static [([&'static str; 2], u16, [bool; 2])],
);

const EXCLUDE_RANGES: &str = "traffic.sidecar.istio.io/excludeOutboundIPRanges";
const INCLUDE_RANGES: &str = "traffic.sidecar.istio.io/includeOutboundIPRanges";
const EXCLUDE_PORTS: &str = "traffic.sidecar.istio.io/excludeOutboundPorts";
const INCLUDE_PORTS: &str = "traffic.sidecar.istio.io/includeOutboundPorts";

#[test]
fn an_excluded_address_is_called_directly() -> Result<()> {
    check_outbound(&[(
        &[(EXCLUDE_RANGES, "10.10.0.4/32")],
        &[
            (NEAR, 80, [false, true]),
            (NEXT, 80, [true; 2]),
            (FAR, 80, [true; 2]),
        ],
    )])
}

#[test]
fn ranges_of_calls() -> Result<()> {
    check_outbound(&[
        (&[], &[(NEAR, 80, [true; 2]), (FAR, 80, [true; 2])]),
        (
            &[(EXCLUDE_RANGES, "2001:db8:ffff::4/126, 10.10.0.0/30")],
            &[
                (NEAR, 80, [true, false]),
                (NEXT, 80, [true, false]),
                (FAR, 80, [true; 2]),
            ],
        ),
        (
            &[(INCLUDE_RANGES, "10.10.0.0/24")],
            &[(NEAR, 80, [true, false]), (FAR, 80, [false; 2])],
        ),
        (
            &[
                (INCLUDE_RANGES, "10.10.0.0/24,2001:db8:ffff::/64"),
                (EXCLUDE_RANGES, "10.10.0.4/32"),
            ],
            &[
                (NEAR, 80, [false, true]),
                (NEXT, 80, [true; 2]),
                (FAR, 80, [false, true]),
            ],
        ),
        // A range that is included inside one that is excluded: what excludes comes first.
        (
            &[(INCLUDE_RANGES, "10.10.0.4/32"), (EXCLUDE_RANGES, "10.10.0.0/24")],
            &[(NEAR, 80, [false; 2]), (NEXT, 80, [false; 2])],
        ),
        // An empty list is nothing.
        (
            &[(INCLUDE_RANGES, "")],
            &[(NEAR, 80, [false; 2]), (FAR, 80, [false; 2])],
        ),
        (
            &[(INCLUDE_RANGES, "*")],
            &[(NEAR, 80, [true; 2]), (FAR, 80, [true; 2])],
        ),
    ])
}

#[test]
fn ports_of_calls() -> Result<()> {
    check_outbound(&[
        (
            &[(EXCLUDE_PORTS, "8080")],
            &[
                (FAR, 8080, [false; 2]),
                (FAR, 80, [true; 2]),
                (NEAR, 8080, [false; 2]),
            ],
        ),
        (
            &[(INCLUDE_RANGES, ""), (INCLUDE_PORTS, "8080")],
            &[(FAR, 8080, [true; 2]), (FAR, 80, [false; 2])],
        ),
        // What excludes comes first, ports before ranges.
        (
            &[
                (INCLUDE_PORTS, "80,8080"),
                (EXCLUDE_RANGES, "10.10.0.4/32"),
                (EXCLUDE_PORTS, "8080"),
            ],
            &[
                (NEAR, 80, [false, true]),
                (FAR, 80, [true; 2]),
                (FAR, 8080, [false; 2]),
            ],
        ),
        // The port of the proxy's own status is excluded unless something else is.
        (&[], &[(FAR, 15020, [false; 2]), (FAR, 15999, [true; 2])]),
        (
            &[("status.sidecar.istio.io/port", "15999")],
            &[(FAR, 80, [true; 2])],
        ),
    ])
}

#[test]
fn modes_of_interception() -> Result<()> {
    const MODE: &str = "sidecar.istio.io/interceptionMode";
    check_outbound(&[
        (&[(MODE, "TPROXY")], &[(FAR, 80, [true; 2])]),
        (&[(MODE, "NONE")], &[(FAR, 80, [false; 2])]),
        (&[(MODE, "REDIRECT")], &[(FAR, 80, [true; 2])]),
        // A wrong value captures more, not less.
        (
            &[(INCLUDE_RANGES, "10.10.0.0/24,nonsense")],
            &[(FAR, 80, [true; 2])],
        ),
        (
            &[(EXCLUDE_RANGES, "10.10.0.4/32,nonsense")],
            &[(NEAR, 80, [false, true]), (FAR, 80, [true; 2])],
        ),
        (&[("sidecar.istio.io/inject", "false")], &[(FAR, 80, [false; 2])]),
    ])
}

fn check_outbound(cases: &[Outbound]) -> Result<()> {
    let mut sidecar = Sidecar::start()?;
    for (annotations, destinations) in cases {
        sidecar.says(annotations)?;
        // With nothing captured, the port is nobody's.
        let listener = sidecar.proxy.listen(OUTBOUND)?;
        for (addresses, port, expected) in *destinations {
            for (to, expected) in at(addresses.map(ip), *port).into_iter().zip(expected) {
                let captured = sidecar.is_captured(&listener, to)?;
                ensure!(
                    captured == *expected,
                    "{annotations:?}: captured is {captured} for {to}"
                );
            }
        }
    }
    Ok(())
}
