//! Who is measured.

use std::fmt;

use serde::Serialize;

/// Where the proxy is, with one uncaptured way to it for the others to be measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    /// In the pod's network namespace.
    Pod,
    /// In the node's, with a transparent listener.
    Node,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pod => "proxy in the pod",
            Self::Node => "proxy on the node",
        })
    }
}

/// How connections get there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The application asks for the proxy's port.
    Uncaptured,
    /// By the agent's `enroll`, as the place of the proxy asks for.
    Enrolled,
    /// By the agent's `--sidecar` and the pod's manifest.
    Sidecar,
    /// By nat's REDIRECT.
    Redirect(Iptables),
    /// By mangle's TPROXY.
    Tproxy(Iptables),
}

/// Which of the two programs of this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Iptables {
    /// On the kernel's `ip_tables`.
    Legacy,
    /// On `nf_tables`.
    Nft,
}

impl Iptables {
    /// The program that reads a whole table.
    pub(crate) fn restore(self) -> &'static str {
        match self {
            Self::Legacy => "iptables-legacy-restore",
            Self::Nft => "iptables-nft-restore",
        }
    }
}

/// One line of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Contender {
    /// Its name in its group.
    pub(crate) name: &'static str,
    /// Its group.
    pub(crate) place: Place,
    /// What it is about.
    pub(crate) way: Way,
}

impl fmt::Display for Contender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.place)
    }
}

const fn contender(place: Place, name: &'static str, way: Way) -> Contender {
    Contender { name, place, way }
}

/// All of them; the uncaptured one is the first of its group.
pub(crate) const CONTENDERS: &[Contender] = &[
    contender(Place::Pod, "uncaptured", Way::Uncaptured),
    contender(Place::Pod, "sluice in-pod", Way::Enrolled),
    contender(Place::Pod, "sluice sidecar", Way::Sidecar),
    contender(
        Place::Pod,
        "iptables-legacy REDIRECT",
        Way::Redirect(Iptables::Legacy),
    ),
    contender(Place::Pod, "iptables-nft REDIRECT", Way::Redirect(Iptables::Nft)),
    contender(Place::Node, "uncaptured", Way::Uncaptured),
    contender(Place::Node, "sluice node", Way::Enrolled),
    contender(Place::Node, "iptables TPROXY", Way::Tproxy(Iptables::Nft)),
    contender(Place::Node, "iptables REDIRECT", Way::Redirect(Iptables::Nft)),
];
