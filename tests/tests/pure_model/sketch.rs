//! Descriptions of frames.

use std::net::IpAddr;

use proptest::prelude::*;
use sluice_tests::frame::{Frame, Sender, Tcp, Transport};

/// Addresses of the pod, by family.
pub(crate) const OWN: [[u8; 16]; 2] = [
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 244, 0, 10],
    [0xfd, 0, 0, 0x10, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10],
];
/// The pod's hardware address.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 10, 1];

const DESTINATIONS_V4: [&str; 16] = [
    "10.244.0.11",
    "10.96.0.10",
    "203.0.113.10",
    "203.0.113.11",
    "203.0.114.1",
    "198.51.100.20",
    "169.254.169.254",
    "192.0.2.2",
    "224.0.0.1",
    "239.1.2.3",
    "255.255.255.255",
    "127.0.0.1",
    "0.0.0.0",
    "240.0.0.1",
    "10.244.0.10",
    "8.8.8.8",
];
const DESTINATIONS_V6: [&str; 13] = [
    "fd00:10:244::11",
    "fd00:10:96::10",
    "2001:db8:ffff::10",
    "2001:db8:ffff::11",
    "2001:db8:fffe::1",
    "fd00:ec2::254",
    "ff02::1",
    "ff0e::1",
    "::1",
    "::",
    "fe80::1",
    "fd00:10:244::a",
    "2606:4700::1111",
];
const PORTS: [u16; 7] = [0, 53, 80, 443, 8080, 8472, 65535];

/// Whose source address it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Own,
    Foreign,
    LinkLocal,
    Unspecified,
}

/// What it carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Tcp {
        flags: u8,
    },
    Udp,
    Sctp,
    Echo {
        reply: bool,
    },
    /// An ICMP error that quotes TCP or UDP from the destination's `port` to the pod's `sport`; or to somebody else.
    Error {
        tcp: bool,
        to_us: bool,
    },
    /// A message by which routers guide hosts.
    Guidance,
    Neighbour {
        advertises: bool,
        own_target: bool,
        hop_limit: u8,
    },
    Other {
        protocol: u8,
    },
}

/// What is out of the ordinary in its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    None,
    /// An option or extension header that is nobody's business.
    Harmless,
    SourceRoute,
    /// An extension header that is refused for itself; with IPv4, an option that does not fit in.
    Strange,
    /// Authentication header; with IPv4 nothing.
    Opaque,
    TooMany,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    First,
    Later,
}

#[derive(Clone, Debug)]
pub(crate) struct Sketch {
    pub(crate) v4: bool,
    pub(crate) source: Source,
    pub(crate) dst: IpAddr,
    pub(crate) forged_mac: bool,
    pub(crate) tagged: bool,
    pub(crate) what: What,
    pub(crate) sport: u16,
    pub(crate) port: u16,
    pub(crate) oddity: Oddity,
    pub(crate) part: Part,
}

/// Any of them.
pub(crate) fn sketches() -> impl Strategy<Value = Sketch> {
    let source = prop_oneof![
        16 => Just(Source::Own), 1 => Just(Source::Foreign), 1 => Just(Source::LinkLocal), 1 => Just(Source::Unspecified)
    ];
    let oddity = prop_oneof![
        16 => Just(Oddity::None), 2 => Just(Oddity::Harmless), 1 => Just(Oddity::SourceRoute),
        1 => Just(Oddity::Strange), 1 => Just(Oddity::Opaque), 1 => Just(Oddity::TooMany),
    ];
    let part = prop_oneof![8 => Just(Part::Whole), 1 => Just(Part::First), 2 => Just(Part::Later)];
    let rare = || prop::bool::weighted(0.03);
    let numbers = (
        0..DESTINATIONS_V4.len(),
        0..DESTINATIONS_V6.len(),
        0..PORTS.len(),
        0..PORTS.len(),
    );
    (
        any::<bool>(),
        source,
        numbers,
        rare(),
        rare(),
        whats(),
        oddity,
        part,
    )
        .prop_map(
            |(v4, source, (d4, d6, sport, port), forged_mac, tagged, what, oddity, part)| {
                let dst = if v4 {
                    DESTINATIONS_V4[d4]
                } else {
                    DESTINATIONS_V6[d6]
                };
                Sketch {
                    v4,
                    source,
                    dst: dst.parse().expect("a constant address"),
                    forged_mac,
                    tagged,
                    what,
                    sport: PORTS[sport],
                    port: PORTS[port],
                    oddity,
                    part,
                }
                .possible()
            },
        )
}

fn whats() -> impl Strategy<Value = What> {
    let flags = prop_oneof![
        Just(Tcp::SYN),
        Just(Tcp::SYN | Tcp::ACK),
        Just(Tcp::ACK),
        Just(Tcp::ACK | Tcp::FIN),
        Just(Tcp::RST),
        Just(Tcp::SYN | Tcp::RST),
        any::<u8>(),
    ];
    let hop_limit = prop_oneof![4 => Just(255), 1 => Just(64_u8)];
    prop_oneof![
        4 => flags.prop_map(|flags| What::Tcp { flags }),
        4 => Just(What::Udp),
        1 => Just(What::Sctp),
        2 => any::<bool>().prop_map(|reply| What::Echo { reply }),
        2 => (any::<bool>(), prop::bool::weighted(0.8)).prop_map(|(tcp, to_us)| What::Error { tcp, to_us }),
        1 => Just(What::Guidance),
        2 => (any::<bool>(), any::<bool>(), hop_limit).prop_map(|(advertises, own_target, hop_limit)| {
            What::Neighbour { advertises, own_target, hop_limit }
        }),
        1 => prop::sample::select(vec![2_u8, 4, 41, 47, 89, 103, 112, 255]).prop_map(|protocol| What::Other { protocol }),
    ]
}

impl Sketch {
    /// Only combinations that the description can say.
    fn possible(mut self) -> Self {
        if matches!(self.what, What::Neighbour { .. }) && self.v4 {
            self.what = What::Udp;
        }
        if matches!(
            self.what,
            What::Error { .. } | What::Guidance | What::Neighbour { .. }
        ) {
            self.part = Part::Whole;
        }
        if self.v4 && self.source == Source::LinkLocal {
            self.source = Source::Foreign;
        }
        if self.v4 && matches!(self.oddity, Oddity::Opaque | Oddity::TooMany) {
            self.oddity = Oddity::None;
        }
        self
    }

    /// The same as a call could have made it.
    pub(crate) fn plain(self) -> Self {
        let what = match self.what {
            What::Tcp { .. } => What::Tcp { flags: Tcp::SYN },
            What::Sctp => What::Sctp,
            What::Echo { .. } => What::Echo { reply: false },
            What::Udp | What::Error { .. } | What::Guidance | What::Neighbour { .. } | What::Other { .. } => {
                What::Udp
            }
        };
        Self {
            what,
            source: Source::Own,
            forged_mac: false,
            tagged: false,
            oddity: Oddity::None,
            part: Part::Whole,
            ..self
        }
    }

    /// Whether no router passes it on.
    pub(crate) fn stays_on_link(&self) -> bool {
        match self.dst {
            IpAddr::V4(_) => false,
            IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.segments()[0] == 0xff02,
        }
    }

    pub(crate) fn own(&self) -> IpAddr {
        if self.v4 {
            [10, 244, 0, 10].into()
        } else {
            OWN[1].into()
        }
    }

    fn somebody_else(&self) -> IpAddr {
        if self.v4 {
            [10, 244, 0, 77].into()
        } else {
            [0xfd00, 0x10, 0x244, 0, 0, 0, 0, 0x77].into()
        }
    }

    pub(crate) fn src(&self) -> IpAddr {
        let text = match (self.source, self.v4) {
            (Source::Own, _) => return self.own(),
            (Source::Foreign, true) => "10.244.0.99",
            (Source::Foreign, false) => "fd00:10:244::99",
            (Source::LinkLocal, _) => "fe80::ff:fe00:a01",
            (Source::Unspecified, true) => "0.0.0.0",
            (Source::Unspecified, false) => "::",
        };
        text.parse().expect("a constant address")
    }

    /// The frame that it describes.
    pub(crate) fn frame(&self) -> Frame {
        let sender = Sender {
            mac: MAC,
            node_mac: [2, 0, 0, 0, 10, 2],
            v4: [10, 244, 0, 10].into(),
            v6: OWN[1].into(),
        };
        let mut frame = sender
            .frame(self.dst, self.transport())
            .from(self.src())
            .sport(self.sport);
        if let What::Neighbour { hop_limit, .. } = self.what {
            frame = frame.ttl(hop_limit);
        }
        if self.forged_mac {
            frame = frame.from_mac([2, 0, 0, 0, 99, 1]);
        }
        if self.tagged {
            frame = frame.tagged(0x8100, 7);
        }
        frame = self.with_oddity(frame);
        match self.part {
            Part::Whole => frame,
            Part::First => {
                let [first, _] = frame.split();
                first
            }
            Part::Later => {
                let [_, later] = frame.split();
                later
            }
        }
    }

    fn with_oddity(&self, frame: Frame) -> Frame {
        const HOP_BY_HOP: u8 = 0;
        const DESTINATION: u8 = 60;
        match (self.oddity, self.v4) {
            (Oddity::None, _) => frame,
            // Router alert behind a no-operation.
            (Oddity::Harmless, true) => frame.options(&[1, 148, 4, 0, 0]),
            (Oddity::Harmless, false) => frame
                .extension(HOP_BY_HOP, &[5, 2, 0, 0])
                .extension(DESTINATION, &[1, 12]),
            (Oddity::SourceRoute, true) => frame.options(&[1, 131, 7, 4, 203, 0, 113, 10]),
            (Oddity::SourceRoute, false) => frame
                .extension(DESTINATION, &[1, 4])
                .extension(43, &[4, 0, 0, 0, 0, 0]),
            (Oddity::Strange, true) => frame.options(&[7, 39, 4]),
            (Oddity::Strange, false) => frame.extension(135, &[0; 6]),
            (Oddity::Opaque, _) => frame.extension(51, &[0; 14]),
            (Oddity::TooMany, _) => (0..7).fold(frame, |frame, _| frame.extension(DESTINATION, &[1, 4])),
        }
    }

    fn transport(&self) -> Transport {
        match self.what {
            What::Tcp { flags } => Transport::Tcp(Tcp {
                port: self.port,
                flags,
                seq: 1,
                ack: 2,
            }),
            What::Udp => Transport::Udp(self.port),
            What::Sctp => Transport::Sctp(self.port),
            What::Echo { reply } => Transport::Echo { reply },
            What::Other { protocol } => Transport::Other {
                protocol,
                head: vec![0; 8],
            },
            What::Guidance => Transport::Icmp {
                kind: if self.v4 { 5 } else { 134 },
                code: 0,
                body: vec![0; 40],
            },
            What::Neighbour {
                advertises,
                own_target,
                ..
            } => {
                let mut body = vec![0; 4];
                body.extend(if own_target { OWN[1] } else { [0xfd; 16] });
                Transport::Icmp {
                    kind: if advertises { 136 } else { 135 },
                    code: 0,
                    body,
                }
            }
            What::Error { tcp, to_us } => {
                let quoted = Sender {
                    mac: MAC,
                    node_mac: MAC,
                    v4: self.dst,
                    v6: self.dst,
                };
                let target = if to_us { self.src() } else { self.somebody_else() };
                let transport = if tcp {
                    Transport::Tcp(Tcp {
                        port: self.sport,
                        flags: Tcp::ACK,
                        seq: 1,
                        ack: 1,
                    })
                } else {
                    Transport::Udp(self.sport)
                };
                let mut body = vec![0; 4];
                body.extend(quoted.frame(target, transport).sport(self.port).packet());
                Transport::Icmp {
                    kind: if self.v4 { 3 } else { 1 },
                    code: 1,
                    body,
                }
            }
        }
    }
}
