//! The node, its pods and the outside.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    os::fd::OwnedFd,
    process,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    capture::Capture,
    cgroup::Cgroup,
    command,
    frame::{Cookie, Frame, Sender},
    manifest::State,
    netns::{Netns, on_thread},
    sys,
};

/// Addresses of the bench.
pub mod addresses {
    /// IPv4 addresses of pods.
    pub const PODS_V4: &str = "10.244.0.0/24";
    /// IPv6 addresses of pods.
    pub const PODS_V6: &str = "fd00:10:244::/64";
    /// The node on its uplink.
    pub const NODE_V4: &str = "192.0.2.2";
    /// The node on its uplink.
    pub const NODE_V6: &str = "2001:db8:0:1::2";
    /// The outside's side of the uplink.
    pub const ROUTER_V4: &str = "192.0.2.1";
    /// The outside's side of the uplink.
    pub const ROUTER_V6: &str = "2001:db8:0:1::1";
    /// Destinations that tests register.
    pub const REGISTERED: [&str; 2] = ["203.0.113.10", "2001:db8:ffff::10"];
    /// Destinations that nobody registers.
    pub const UNREGISTERED: [&str; 2] = ["198.51.100.20", "2001:db8:ffff::20"];
    /// Where clouds keep their secrets.
    pub const METADATA: [&str; 2] = ["169.254.169.254", "fd00:ec2::254"];
}

use addresses::{METADATA, NODE_V4, NODE_V6, REGISTERED, ROUTER_V4, ROUTER_V6, UNREGISTERED};

/// Name of the node's uplink.
pub const UPLINK: &str = "up0";
/// The outside, as a sender of frames to the node.
pub const OUTSIDER: Sender = Sender {
    mac: [2, 0, 0, 0, 0, 1],
    node_mac: [2, 0, 0, 0, 0, 2],
    v4: IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
    v6: IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0x10)),
};
/// Where the sentinel goes.
const SENTINEL_PORT: u16 = 9;

/// One node with an outside.
#[derive(Debug)]
pub struct Bench {
    id: String,
    node: Arc<Netns>,
    outside: Netns,
    cgroup: Cgroup,
    state: State,
    next_pod: AtomicU8,
}

impl Bench {
    /// A node without pods, and an outside that has many addresses.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let id = format!("slt{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let node = Arc::new(Netns::create(&format!("{id}-node"))?);
        let outside = Netns::create(&format!("{id}-outside"))?;
        let cgroup = Cgroup::create(&id)?;
        let bench = Self {
            id,
            node,
            outside,
            cgroup,
            state: State::create()?,
            next_pod: AtomicU8::new(0),
        };
        for netns in [&*bench.node, &bench.outside] {
            prepare(netns)?;
        }
        bench
            .node
            .sysctls(&[("ipv4.ip_forward", "1"), ("ipv6.conf.all.forwarding", "1")])?;
        bench.connect_outside()?;
        Ok(bench)
    }

    fn connect_outside(&self) -> Result<()> {
        let outside = self.outside.name();
        let (mac, node_mac) = (mac_text(OUTSIDER.mac), mac_text(OUTSIDER.node_mac));
        self.node.run(|| {
            command::ip(&format!(
                "link set lo up
link add {UPLINK} address {node_mac} type veth peer name eth0 address {mac} netns {outside}
addr add {NODE_V4}/24 dev {UPLINK}
addr add {NODE_V6}/64 dev {UPLINK} nodad
link set {UPLINK} up
route add default via {ROUTER_V4}
route add default via {ROUTER_V6} dev {UPLINK}
"
            ))
        })??;
        let mut batch = format!(
            "link set lo up
addr add {ROUTER_V4}/24 dev eth0
addr add {ROUTER_V6}/64 dev eth0 nodad
link set eth0 up
route add 10.244.0.0/16 via {NODE_V4}
route add 10.96.0.0/16 via {NODE_V4}
route add fd00:10::/32 via {NODE_V6} dev eth0
"
        );
        for address in [REGISTERED, UNREGISTERED, METADATA].concat() {
            let nodad = if address.contains(':') { "nodad" } else { "" };
            writeln!(batch, "addr add {address} dev lo {nodad}")?;
        }
        self.outside.run(|| command::ip(&batch))?
    }

    /// The node's network namespace.
    pub fn node(&self) -> &Arc<Netns> {
        &self.node
    }

    /// The outside's network namespace.
    pub fn outside(&self) -> &Netns {
        &self.outside
    }

    /// The cgroup that pods' cgroups are in, and to which the agent is bound.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// The manifests.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// A name that no other bench has.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Makes a pod: namespace, device, cgroup. Its manifest is not written.
    pub fn pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        let number = self.next_pod.fetch_add(1, Ordering::Relaxed) + 10;
        let netns = self.sandbox(name)?;
        let sender = Sender {
            mac: [2, 0, 0, 0, number, 1],
            node_mac: [2, 0, 0, 0, number, 2],
            v4: IpAddr::from([10, 244, 0, number]),
            v6: IpAddr::from([0xfd00, 0x10, 0x244, 0, 0, 0, 0, u16::from(number)]),
        };
        let device = format!("p{number}");
        self.connect(&netns, &device, &sender)?;
        let pod = Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host: false,
            cgroup: self.cgroup.child(name)?,
            socket: Some(
                netns
                    .run(|| sys::packet_socket("eth0", false))?
                    .context("opening a packet socket")?,
            ),
            netns: Arc::new(netns),
            device,
            sender,
        };
        Ok(pod)
    }

    /// Makes a pod in the node's own network namespace. Its manifest is not written.
    pub fn host_pod(&self, namespace: &str, name: &str) -> Result<Pod> {
        Ok(Pod {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            host: true,
            cgroup: self.cgroup.child(name)?,
            socket: None,
            netns: Arc::clone(&self.node),
            device: String::new(),
            sender: Sender {
                mac: [0; 6],
                node_mac: [0; 6],
                v4: ip(NODE_V4),
                v6: ip(NODE_V6),
            },
        })
    }

    /// A network namespace that is prepared like a pod's, and has nothing in it.
    pub fn sandbox(&self, name: &str) -> Result<Netns> {
        let netns = Netns::create(&format!("{}-{name}", self.id))?;
        prepare(&netns)?;
        Ok(netns)
    }

    fn connect(&self, netns: &Netns, device: &str, sender: &Sender) -> Result<()> {
        let Sender {
            mac,
            node_mac,
            v4,
            v6,
        } = sender;
        let (mac, node_mac) = (mac_text(*mac), mac_text(*node_mac));
        let name = netns.name();
        self.node.run(|| {
            command::ip(&format!(
                "link add {device} address {node_mac} type veth peer name eth0 address {mac} netns {name}
addr add 169.254.1.1/32 dev {device} scope link
addr add fe80::1/64 dev {device} nodad
link set {device} up
route add {v4}/32 dev {device} src {NODE_V4}
route add {v6}/128 dev {device} src {NODE_V6}
"
            ))
        })??;
        netns.run(|| {
            command::ip(&format!(
                "link set lo up
addr add {v4}/32 dev eth0
addr add {v6}/128 dev eth0 nodad
link set eth0 up
route add 169.254.1.1 dev eth0 scope link
route add default via 169.254.1.1 dev eth0
route add default via fe80::1 dev eth0
"
            ))
        })?
    }

    /// Records what arrives outside.
    pub fn capture_outside(&self) -> Result<Capture> {
        Capture::start(&self.outside, "eth0")
    }

    /// Sends a frame of [`OUTSIDER`] to the node.
    pub fn send_from_outside(&self, frame: &Frame) -> Result<()> {
        let socket = self
            .outside
            .run(|| sys::packet_socket("eth0", false))?
            .context("opening a packet socket")?;
        sys::send(&socket, &frame.bytes()).context("sending a frame from outside")
    }

    /// Sends a packet of the node's own to the outside and waits until `capture` has it: everything that was sent
    /// before has then arrived, or will not.
    pub fn flush(&self, capture: &Capture) -> Result<()> {
        let cookie = Cookie::unique();
        self.node.run(|| -> Result<()> {
            let socket = UdpSocket::bind((NODE_V4, 0))?;
            socket.send_to(&cookie.times(2), (ROUTER_V4, SENTINEL_PORT))?;
            Ok(())
        })??;
        ensure!(
            capture.wait_for_cookie(cookie).is_some(),
            "the node's own packet did not arrive outside"
        );
        Ok(())
    }
}

/// A pod: a network namespace with a device, a cgroup, and a packet socket.
#[derive(Debug)]
pub struct Pod {
    namespace: String,
    name: String,
    host: bool,
    cgroup: Cgroup,
    socket: Option<OwnedFd>,
    netns: Arc<Netns>,
    device: String,
    sender: Sender,
}

impl Pod {
    /// Its Kubernetes namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Its name, which is its label `app`, too.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is in the node's network namespace.
    pub fn is_host(&self) -> bool {
        self.host
    }

    /// Its network namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// The same, for those who have sockets there as well.
    pub fn shared_netns(&self) -> Arc<Netns> {
        Arc::clone(&self.netns)
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Name of its pod device on the node.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// What its frames begin with.
    pub fn sender(&self) -> &Sender {
        &self.sender
    }

    /// Its IPv4 address.
    pub fn v4(&self) -> IpAddr {
        self.sender.v4
    }

    /// Its IPv6 address.
    pub fn v6(&self) -> IpAddr {
        self.sender.v6
    }

    /// Its addresses of both families.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4(), self.v6()]
    }

    /// Calls `f` as a process of the pod would: in its network namespace and in its cgroup.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        on_thread(|| {
            self.cgroup.join()?;
            self.netns.enter()?;
            Ok(f())
        })
    }

    /// Calls `f` in its network namespace, but outside of every cgroup that the agent has a hook on: packets are
    /// judged, calls are not.
    pub fn run_without_cgroup<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        self.netns.run(f)
    }

    /// Sends a frame by a packet socket.
    pub fn send(&self, frame: &Frame) -> Result<()> {
        self.send_bytes(&frame.bytes())
    }

    /// Sends octets by a packet socket.
    pub fn send_bytes(&self, bytes: &[u8]) -> Result<()> {
        let socket = self
            .socket
            .as_ref()
            .context("a pod in the node's network namespace has no device")?;
        sys::send(socket, bytes).with_context(|| format!("sending a frame from {}", self.name))
    }

    /// Records what arrives in the pod.
    pub fn capture(&self) -> Result<Capture> {
        Capture::start(&self.netns, "eth0")
    }
}

/// No duplicate address detection, no reverse path filter, nothing that takes time or filters for itself.
fn prepare(netns: &Netns) -> Result<()> {
    for family in ["all", "default"] {
        netns.sysctls(&[
            (&format!("ipv4.conf.{family}.rp_filter"), "0"),
            (&format!("ipv6.conf.{family}.accept_dad"), "0"),
            (&format!("ipv6.conf.{family}.dad_transmits"), "0"),
            (&format!("ipv6.conf.{family}.accept_ra"), "0"),
            (&format!("ipv6.conf.{family}.router_solicitations"), "0"),
        ])?;
    }
    Ok(())
}

/// An address of the bench.
///
/// # Panics
///
/// If `text` is none.
pub fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is no address"))
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|octet| format!("{octet:02x}")).join(":")
}
