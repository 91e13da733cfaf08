//! Frames, made by hand: what a pod with raw sockets can send.

use std::{
    net::IpAddr,
    process,
    sync::atomic::{AtomicU16, AtomicU32, Ordering},
};

use etherparse::{IpFragOffset, IpNumber, Ipv4Header, Ipv4Options, Ipv6FlowLabel, Ipv6Header};

mod transport;

pub use transport::{Tcp, Transport};

/// IP protocol numbers, as tests use them.
pub mod protocol {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IPv4 in IP.
    pub const IPIP: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// `ICMPv6`.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

const ETH_IPV4: u16 = 0x0800;
const ETH_IPV6: u16 = 0x86dd;

/// Eight octets that no other frame of any test has: by them a frame is known again, however it is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie([u8; 8]);

impl Cookie {
    /// A new one.
    pub fn unique() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let process = u64::from(process::id() & 0xffff);
        let number = u64::from(NEXT.fetch_add(1, Ordering::Relaxed));
        Self((0xc00c << 48 | process << 32 | number).to_be_bytes())
    }

    /// Its octets, `count` times: any sixteen octets of them hold it whole.
    pub fn times(self, count: usize) -> Vec<u8> {
        self.0.repeat(count)
    }

    /// Whether `bytes` have it in them.
    pub fn is_in(self, bytes: &[u8]) -> bool {
        bytes.windows(self.0.len()).any(|window| window == self.0)
    }
}

/// A port or ICMP identifier that no other frame of this process has for a while.
pub fn unique_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 12_000
}

/// Who sends: addresses of a pod and of the other side of its device.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The pod's hardware address.
    pub mac: [u8; 6],
    /// The hardware address of the node's side.
    pub node_mac: [u8; 6],
    /// The pod's IPv4 address.
    pub v4: IpAddr,
    /// The pod's IPv6 address.
    pub v6: IpAddr,
}

impl Sender {
    /// The pod's own address of the family of `peer`.
    pub fn own_for(&self, peer: IpAddr) -> IpAddr {
        if peer.is_ipv4() { self.v4 } else { self.v6 }
    }

    /// A frame to `dst`.
    pub fn frame(&self, dst: IpAddr, transport: Transport) -> Frame {
        let cookie = Cookie::unique();
        Frame {
            src_mac: self.mac,
            dst_mac: self.node_mac,
            tags: Vec::new(),
            src: self.own_for(dst),
            dst,
            ttl: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            transport,
            sport: unique_port(),
            part: None,
            cookie,
            data: cookie.times(4),
        }
    }

    /// UDP to `dst`.
    pub fn udp(&self, dst: IpAddr, port: u16) -> Frame {
        self.frame(dst, Transport::Udp(port))
    }

    /// A TCP call to `dst`.
    pub fn syn(&self, dst: IpAddr, port: u16) -> Frame {
        self.frame(
            dst,
            Transport::Tcp(Tcp {
                port,
                flags: Tcp::SYN,
                seq: 1_000,
                ack: 0,
            }),
        )
    }

    /// An SCTP call to `dst`.
    pub fn sctp(&self, dst: IpAddr, port: u16) -> Frame {
        self.frame(dst, Transport::Sctp(port))
    }

    /// An echo request to `dst`.
    pub fn echo(&self, dst: IpAddr) -> Frame {
        self.frame(dst, Transport::Echo { reply: false })
    }

    /// A packet of another IP protocol to `dst`, with these octets before the cookie.
    pub fn other(&self, dst: IpAddr, protocol: u8, head: &[u8]) -> Frame {
        self.frame(
            dst,
            Transport::Other {
                protocol,
                head: head.to_vec(),
            },
        )
    }
}

/// Which octets of the IP payload a fragment holds.
#[derive(Clone, Copy, Debug)]
struct Part {
    id: u16,
    from: usize,
    to: usize,
}

/// One frame; [`Frame::bytes`] puts it together and sums it up.
#[derive(Clone, Debug)]
pub struct Frame {
    src_mac: [u8; 6],
    dst_mac: [u8; 6],
    tags: Vec<(u16, u16)>,
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    options: Vec<u8>,
    extensions: Vec<(u8, Vec<u8>)>,
    transport: Transport,
    sport: u16,
    part: Option<Part>,
    cookie: Cookie,
    data: Vec<u8>,
}

impl Frame {
    /// With another source address.
    #[must_use]
    pub fn from(mut self, src: IpAddr) -> Self {
        self.src = src;
        self
    }

    /// With another hardware source address.
    #[must_use]
    pub fn from_mac(mut self, mac: [u8; 6]) -> Self {
        self.src_mac = mac;
        self
    }

    /// To another hardware address.
    #[must_use]
    pub fn to_mac(mut self, mac: [u8; 6]) -> Self {
        self.dst_mac = mac;
        self
    }

    /// With a VLAN tag: ethertype of the tag, and VLAN number. The first one is the outermost.
    #[must_use]
    pub fn tagged(mut self, tag_type: u16, vlan: u16) -> Self {
        self.tags.push((tag_type, vlan));
        self
    }

    /// With another source port (or identifier).
    #[must_use]
    pub fn sport(mut self, port: u16) -> Self {
        self.sport = port;
        self
    }

    /// With IPv4 options, padded to whole words.
    #[must_use]
    pub fn options(mut self, options: &[u8]) -> Self {
        self.options = options.to_vec();
        self.options.resize(options.len().next_multiple_of(4), 0);
        self
    }

    /// With one more IPv6 extension header: its number, and what follows its two first octets, padded.
    #[must_use]
    pub fn extension(mut self, number: u8, body: &[u8]) -> Self {
        let mut body = body.to_vec();
        body.resize((body.len() + 2).next_multiple_of(8) - 2, 0);
        self.extensions.push((number, body));
        self
    }

    /// With another time to live.
    #[must_use]
    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// With more data: the cookie `count` times.
    #[must_use]
    pub fn cookies(mut self, count: usize) -> Self {
        self.data = self.cookie.times(count);
        self
    }

    /// With this instead of data, and the cookie behind it.
    #[must_use]
    pub fn carrying(mut self, inner: &[u8]) -> Self {
        self.data = inner.to_vec();
        self.data.extend(self.cookie.times(2));
        self
    }

    /// In two fragments; each has a cookie of its own.
    pub fn split(mut self) -> [Self; 2] {
        const COOKIES: usize = 8;
        let second = Cookie::unique();
        self.data = self.cookie.times(COOKIES);
        let head = self.transport.head_len();
        let boundary = (head + self.data.len()).next_multiple_of(8);
        self.data.extend(second.times(COOKIES));
        let end = head + self.data.len();
        let id = unique_port();
        let mut later = self.clone();
        self.part = Some(Part {
            id,
            from: 0,
            to: boundary,
        });
        later.part = Some(Part {
            id,
            from: boundary,
            to: end,
        });
        later.cookie = second;
        [self, later]
    }

    /// The octets by which it is known again.
    pub fn cookie(&self) -> Cookie {
        self.cookie
    }

    /// Its source address.
    pub fn src(&self) -> IpAddr {
        self.src
    }

    /// Its destination address.
    pub fn dst(&self) -> IpAddr {
        self.dst
    }

    /// Its source port or identifier.
    pub fn source_port(&self) -> u16 {
        self.sport
    }

    /// From the Ethernet header on.
    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.dst_mac);
        bytes.extend(self.src_mac);
        for (tag_type, vlan) in &self.tags {
            bytes.extend(tag_type.to_be_bytes());
            bytes.extend(vlan.to_be_bytes());
        }
        let ether_type = if self.dst.is_ipv4() { ETH_IPV4 } else { ETH_IPV6 };
        bytes.extend(ether_type.to_be_bytes());
        bytes.extend(self.packet());
        bytes
    }

    /// From the IP header on.
    pub fn packet(&self) -> Vec<u8> {
        let payload = self.transport.bytes(self.src, self.dst, self.sport, &self.data);
        let part = self.part.unwrap_or(Part {
            id: 0,
            from: 0,
            to: payload.len(),
        });
        let held = payload
            .get(part.from..part.to.min(payload.len()))
            .unwrap_or_default();
        let more = part.to < payload.len();
        let protocol = self.transport.number(self.dst.is_ipv4());
        match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                let mut header = Ipv4Header {
                    total_len: 0,
                    identification: part.id,
                    dont_fragment: self.part.is_none(),
                    more_fragments: more,
                    fragment_offset: fragment_offset(part.from),
                    time_to_live: self.ttl,
                    protocol: IpNumber(protocol),
                    source: src.octets(),
                    destination: dst.octets(),
                    options: Ipv4Options::try_from(&self.options[..]).unwrap_or_default(),
                    ..Ipv4Header::default()
                };
                header.total_len = u16::try_from(header.header_len() + held.len()).unwrap_or(u16::MAX);
                header.header_checksum = header.calc_header_checksum();
                [&header.to_bytes()[..], held].concat()
            }
            (src, dst) => self.packet_v6(octets(src), octets(dst), protocol, held, part, more),
        }
    }

    fn packet_v6(
        &self,
        src: [u8; 16],
        dst: [u8; 16],
        last: u8,
        held: &[u8],
        part: Part,
        more: bool,
    ) -> Vec<u8> {
        const FRAGMENT: u8 = 44;
        let mut chain = self.extensions.clone();
        if self.part.is_some() {
            let field = u16::try_from(part.from).unwrap_or_default() & !7 | u16::from(more);
            let mut body = field.to_be_bytes().to_vec();
            body.extend(u32::from(part.id).to_be_bytes());
            chain.push((FRAGMENT, body));
        }
        let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([last]).collect();
        let mut payload = Vec::new();
        for (place, (number, body)) in chain.iter().enumerate() {
            let len = if *number == FRAGMENT {
                0
            } else {
                u8::try_from((body.len() + 2) / 8 - 1).unwrap_or(u8::MAX)
            };
            payload.extend([numbers[place + 1], len]);
            payload.extend(body);
        }
        payload.extend(held);
        let header = Ipv6Header {
            traffic_class: 0,
            flow_label: Ipv6FlowLabel::ZERO,
            payload_length: u16::try_from(payload.len()).unwrap_or(u16::MAX),
            next_header: IpNumber(numbers[0]),
            hop_limit: self.ttl,
            source: src,
            destination: dst,
        };
        [&header.to_bytes()[..], &payload].concat()
    }
}

fn fragment_offset(octets: usize) -> IpFragOffset {
    u16::try_from(octets / 8)
        .ok()
        .and_then(|units| IpFragOffset::try_new(units).ok())
        .unwrap_or(IpFragOffset::ZERO)
}

/// IPv4 in its mapped form.
fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An ARP packet for IPv4 over Ethernet, with a cookie behind it.
pub fn arp(
    sender: &Sender,
    reply: bool,
    claimed_mac: [u8; 6],
    claimed: [u8; 4],
    target: [u8; 4],
) -> (Vec<u8>, Cookie) {
    let cookie = Cookie::unique();
    let mut bytes = Vec::new();
    bytes.extend(sender.node_mac);
    bytes.extend(sender.mac);
    bytes.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, if reply { 2 } else { 1 }]);
    bytes.extend(claimed_mac);
    bytes.extend(claimed);
    bytes.extend([0; 6]);
    bytes.extend(target);
    bytes.extend(cookie.times(3));
    (bytes, cookie)
}
