//! Why a packet passed or did not: one list for counters, events, metrics, the command line and the documents.

/// Declares an enum whose numbers, names and explanations come from one table.
macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[doc = $doc:literal])+ $variant:ident = $number:literal => $word:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl $name {
            /// Every value, in the order of their numbers.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The word for it in commands, JSON and metric labels.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// What it means, in a sentence.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)+ }
            }

            /// The value of a number that a program wrote, if this version knows it.
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                f.write_str(self.word())
            }
        }
    };
}

reasons! {
    /// Why a packet or a call is refused.
    #[expect(clippy::doc_markdown, reason = "the explanations are shown as plain text")]
    DropReason {
        /// The frame is neither IPv4, IPv6 nor ARP.
        UnknownEthertype = 0 => "unknown-ethertype",
        /// The frame carries a VLAN tag; a pod has no VLAN.
        VlanTag = 1 => "vlan-tag",
        /// The packet ends before the headers that it announces.
        Truncated = 2 => "truncated",
        /// A header contradicts itself.
        Malformed = 3 => "malformed",
        /// The transport protocol is none of TCP, UDP, SCTP, ICMP and ICMPv6: tunnels made in a pod end here.
        UnknownProtocol = 4 => "unknown-protocol",
        /// More IPv6 extension headers than are followed, or one that is not known.
        HeaderChain = 5 => "header-chain",
        /// The sender chose the route (IPv4 source route, IPv6 routing header).
        SourceRoute = 6 => "source-route",
        /// A later fragment whose first fragment was not let through before it.
        FragmentWithoutFirst = 7 => "fragment-without-first",
        /// The source MAC address is not the pod's.
        ForgedMac = 8 => "forged-mac",
        /// The source address is not the pod's.
        ForgedSource = 9 => "forged-source",
        /// ARP or neighbour discovery that speaks for an address that is not the pod's.
        ForgedNeighbour = 10 => "forged-neighbour",
        /// A multicast or broadcast destination.
        Multicast = 11 => "multicast",
        /// A destination that may not be on a wire: loopback, unspecified, reserved, IPv4-mapped.
        Martian = 12 => "martian",
        /// Nothing is known of the sender (yet), and an EgressPolicy exists.
        UnknownEndpoint = 13 => "unknown-endpoint",
        /// An external destination, and the pod is no gateway and no exception covers it.
        NotGateway = 14 => "not-gateway",
        /// A gateway's destination that no ServiceEntry declares.
        NotRegistered = 15 => "not-registered",
        /// The address is permitted, but not with this protocol and port.
        Port = 16 => "port",
        /// An ICMP error that belongs to no flow that may be.
        UnrelatedError = 17 => "unrelated-error",
        /// Forwarded to an external address without having been approved for one on the pod's device.
        NotApproved = 18 => "not-approved",
        /// The rules in the kernel cannot be read; nothing is let through on a guess.
        NoRules = 19 => "no-rules",
        /// UDP into the cluster on a port where nodes unwrap tunnels (VXLAN 4789 and 8472, Geneve 6081).
        Tunnel = 20 => "tunnel",
        /// The node proxy is not listening: what belongs to it is refused, not let past.
        NoProxy = 21 => "no-proxy",
        /// A port that only the node proxy may use.
        ProxyPort = 22 => "proxy-port",
        /// A call that did not pass the hooks that hand it to the proxy: made by a raw socket, or for a network inside the pod.
        Uncaptured = 23 => "uncaptured",
        /// TCP in fragments from or to a captured pod: which call it belongs to cannot be told.
        TcpFragment = 24 => "tcp-fragment",
        /// Somebody else listens on the proxy's port.
        Impostor = 25 => "impostor",
        /// There is no memory to keep where the call wanted to go: the proxy would not know.
        NoMemory = 26 => "no-memory",
    }
}

reasons! {
    /// Why a call goes to the node proxy.
    RedirectReason {
        /// A call of a captured pod.
        Outbound = 0 => "outbound",
        /// A call to a captured pod.
        Inbound = 1 => "inbound",
        /// A question to a DNS server.
        Dns = 2 => "dns",
        /// A call that came by an interface inside the pod, as of a virtual machine.
        VirtualInterface = 3 => "virtual-interface",
    }
}

reasons! {
    /// Why a call of or to a captured pod does not go to the node proxy.
    LeaveReason {
        /// The proxy itself calls.
        Proxy = 0 => "proxy",
        /// The pod talks to itself.
        Own = 1 => "own",
        /// Neither TCP nor DNS.
        Protocol = 2 => "protocol",
        /// The port is excluded.
        ExcludedPort = 3 => "excluded-port",
        /// The range is excluded.
        ExcludedRange = 4 => "excluded-range",
        /// Neither the port nor the range is included.
        NotIncluded = 5 => "not-included",
        /// It is for the proxy's HBONE port, which is not captured.
        Hbone = 6 => "hbone",
        /// Calls to the pod are not captured.
        Bypass = 7 => "bypass",
        /// The kubelet probes the pod.
        Probe = 8 => "probe",
        /// No call, but a part of a connection.
        Established = 9 => "established",
    }
}

reasons! {
    /// Why a packet or a call is let through.
    AllowReason {
        /// No EgressPolicy exists.
        NotEnforced = 0 => "not-enforced",
        /// No EgressPolicy selects the sender.
        NotSubject = 1 => "not-subject",
        /// ARP or neighbour discovery for the pod's own addresses.
        Neighbour = 2 => "neighbour",
        /// The destination is inside the cluster.
        Internal = 3 => "internal",
        /// A rule permits it: the registry or `Any` for a gateway, an exception for a subject.
        Rule = 4 => "rule",
        /// The answer to a call that came in from outside.
        Reply = 5 => "reply",
        /// An ICMP error that belongs to such a call, or to traffic that a rule permits.
        RelatedError = 6 => "related-error",
        /// A later fragment of a packet that was let through.
        Fragment = 7 => "fragment",
        /// Approved on the pod's device for this class of destination.
        Approved = 8 => "approved",
        /// The pod talks to itself.
        Own = 9 => "own",
    }
}

reasons! {
    /// Where a verdict was given.
    Hook {
        /// tc ingress on a pod's device: what the pod sends.
        PodOut = 0 => "pod_out",
        /// tc egress on an uplink: what leaves the node.
        NodeOut = 1 => "node_out",
        /// `connect()` of an IPv4 socket.
        Connect4 = 2 => "connect4",
        /// `connect()` of an IPv6 socket.
        Connect6 = 3 => "connect6",
        /// `sendto()`, `sendmsg()`, `sendmmsg()` of an IPv4 socket.
        Sendmsg4 = 4 => "sendmsg4",
        /// `sendto()`, `sendmsg()`, `sendmmsg()` of an IPv6 socket.
        Sendmsg6 = 5 => "sendmsg6",
        /// `bind()` of an IPv4 socket.
        Bind4 = 6 => "bind4",
        /// `bind()` of an IPv6 socket.
        Bind6 = 7 => "bind6",
        /// tc ingress on a device inside a captured pod: what it gets.
        CaptureIn = 8 => "capture_in",
        /// tc ingress on an interface inside a captured pod behind which others are.
        CaptureVirtual = 9 => "capture_virtual",
    }
}

impl AllowReason {
    /// What the packet may do further down: leave the cluster, or stay in it.
    ///
    /// Written so that a new reason does not compile until it is decided.
    #[inline(always)]
    pub const fn approval(self) -> Approval {
        match self {
            Self::NotEnforced
            | Self::NotSubject
            | Self::Rule
            | Self::Reply
            | Self::RelatedError
            | Self::Fragment
            | Self::Approved => Approval::External,
            Self::Neighbour | Self::Internal | Self::Own => Approval::Internal,
        }
    }
}

/// What `pod_out` approved a packet for, carried in two bits of `skb->mark` to `node_out`.
///
/// The bits are written on every packet that `pod_out` lets through, so nobody upstream of it can bring
/// their own. The kernel clears the mark when a packet changes its network namespace
/// (`skb_scrub_packet`), so a packet of a device that has no program on it has no approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Approval {
    /// No word of `pod_out`.
    None,
    /// May go to addresses inside the cluster.
    Internal,
    /// May go to any address.
    External,
    /// Not approved for anything, but seen by `node_in`: it came in by an uplink, and no pod of this node can have made it.
    Arrived,
}

impl Approval {
    /// The bits of `skb->mark` that are ours: those that Istio (`0xfff`), kube-proxy (`0xc000`), Cilium
    /// (`0xffff0f00`) and Calico (`0xffff0000`) leave free.
    pub const MASK: u32 = 0x3000;
    const INTERNAL: u32 = 0x1000;
    const EXTERNAL: u32 = 0x2000;
    const ARRIVED: u32 = Self::MASK;

    /// `mark` with our bits saying this.
    #[inline(always)]
    pub const fn write(self, mark: u32) -> u32 {
        let bits = match self {
            Self::None => 0,
            Self::Internal => Self::INTERNAL,
            Self::External => Self::EXTERNAL,
            Self::Arrived => Self::ARRIVED,
        };
        (mark & !Self::MASK) | bits
    }

    /// What our bits in `mark` say.
    #[inline(always)]
    pub const fn read(mark: u32) -> Self {
        match mark & Self::MASK {
            Self::INTERNAL => Self::Internal,
            Self::EXTERNAL => Self::External,
            Self::ARRIVED => Self::Arrived,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_and_read_back() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(DropReason::from_number(*reason as u8), Some(*reason));
            assert!(reason.explanation().ends_with('.'), "{reason}");
        }
        for (index, reason) in AllowReason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        assert_eq!(DropReason::from_number(u8::MAX), None);
    }

    #[test]
    fn an_approval_survives_in_its_own_bits_only() {
        for approval in [
            Approval::None,
            Approval::Internal,
            Approval::External,
            Approval::Arrived,
        ] {
            let mark = approval.write(u32::MAX);
            assert_eq!(Approval::read(mark), approval);
            assert_eq!(mark | Approval::MASK, u32::MAX);
        }
    }
}
