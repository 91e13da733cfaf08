//! Somebody behind one of the pod's devices: a virtual machine, or whoever is at the other end of a tunnel.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::OwnedFd,
    thread,
};

use anyhow::{Context as _, Result, ensure};
use sluice_tests::{PATIENCE, Wire, command, netns::Netns, sys};

use crate::{
    rig::{Pod, wait_for},
    way_back::call,
};

/// The machine's addresses, and the pod's on the device between them.
pub(crate) const ADDRESSES: [(&str, &str); 2] = [("10.9.0.2", "10.9.0.1"), ("fd09::2", "fd09::1")];

/// What is between the two.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cable {
    /// Ethernet frames.
    Veth,
    /// Packets.
    Tun,
}

pub(crate) struct Machine {
    netns: Netns,
    _wire: Option<Wire>,
}

impl Machine {
    /// Behind a new device of the pod, to which all of its packets go.
    pub(crate) fn behind(pod: &Pod, device: &str, cable: Cable) -> Result<Self> {
        let netns = Netns::create(&format!("{}m", pod.netns.name()))?;
        let wire = match cable {
            Cable::Veth => {
                let name = netns.name();
                pod.ip(&format!(
                    "link add {device} type veth peer name out netns {name}\n"
                ))?;
                None
            }
            Cable::Tun => Some(Wire::lay([(&pod.netns, device), (&netns, "out")])?),
        };
        netns.sysctls(&[("ipv6.conf.all.disable_ipv6", "0")])?;
        let [(v4, pod_v4), (v6, pod_v6)] = ADDRESSES;
        pod.set(&format!("ipv6.conf.{device}.disable_ipv6"), "0")?;
        pod.ip(&format!(
            "link set {device} addrgenmode none
addr add {pod_v4}/24 dev {device}
addr add {pod_v6}/64 dev {device} nodad
link set {device} up
"
        ))?;
        let batch = format!(
            "link set lo up
link set out addrgenmode none
addr add {v4}/24 dev out
addr add {v6}/64 dev out nodad
link set out up
route add default via {pod_v4}
route add default via {pod_v6}
"
        );
        netns.run(|| command::ip(&batch))??;
        Ok(Self { netns, _wire: wire })
    }

    /// Calls from there.
    pub(crate) fn call(&self, callee: &str, port: u16, own: &str) -> Result<std::io::Result<TcpStream>> {
        self.netns.run(|| call(callee, port, own, PATIENCE))
    }
}

/// The proxy listens in the pod, on every address of a family. Its listener is transparent, as those of ztunnel are and as
/// an Envoy's has to be: without that the kernel sends no answer from an address that is not here.
pub(crate) fn listen(pod: &Pod, callee: IpAddr, port: u16, mark: u32) -> Result<TcpListener> {
    let (any, level, transparent) = match callee {
        IpAddr::V4(_) => ("0.0.0.0", libc::SOL_IP, libc::IP_TRANSPARENT),
        IpAddr::V6(_) => ("::", libc::SOL_IPV6, libc::IPV6_TRANSPARENT),
    };
    pod.inside(|| {
        // The one before it may be open for a moment more: in a process that another test is just starting.
        let mut bound = None;
        wait_for("a listener", || {
            bound = TcpListener::bind((any, port)).ok();
            Ok(bound.is_some())
        })?;
        let socket = OwnedFd::from(bound.context("a listener")?);
        sys::set_option(&socket, libc::SOL_SOCKET, libc::SO_MARK, mark)?;
        sys::set_option(&socket, level, transparent, 1i32)?;
        Ok(socket.into())
    })
}

/// The machine `own` calls `callee`, and `listener` is asked for it and answers.
pub(crate) fn is_answered(
    machine: &Machine,
    listener: TcpListener,
    (own, callee, port): (&str, &str, u16),
) -> Result<()> {
    let answer = thread::spawn(move || -> std::io::Result<[SocketAddr; 2]> {
        let (mut stream, from) = listener.accept()?;
        let mut question = [0; 5];
        stream.read_exact(&mut question)?;
        stream.write_all(&question)?;
        Ok([from, stream.local_addr()?])
    });
    let mut stream = machine.call(callee, port, own)?.context("calling")?;
    stream.write_all(b"hello")?;
    let mut hello = String::new();
    stream
        .read_to_string(&mut hello)
        .context("waiting for the answer")?;
    let [from, to] = answer.join().ok().context("the listener panicked")??;
    ensure!(hello == "hello", "{hello}");
    ensure!(
        from.ip() == own.parse::<IpAddr>()? && to == SocketAddr::new(callee.parse()?, port),
        "it sees a call from {from} to {to}"
    );
    Ok(())
}
