//! A stand-in for the proxy: real sockets in a cgroup of its own, on the ports that ztunnel and Istio's sidecar have.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, AsRawFd as _},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        socket::{
            self, AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, setsockopt,
            sockopt::{Ip6tOriginalDst, IpTransparent, OriginalDst, ReuseAddr, ReusePort, SendTimeout},
        },
        time::{TimeVal, TimeValLike as _},
    },
    unistd::{Gid, Uid},
};

use crate::{
    Bench, PATIENCE, Pod,
    cgroup::Cgroup,
    netns::{Netns, on_thread},
};

/// Where captured calls of the pod arrive.
pub const OUTBOUND: u16 = 15001;
/// Where captured calls to the pod arrive.
pub const INBOUND: u16 = 15006;
/// Where calls to the pod by HBONE arrive, which nobody captures.
pub const HBONE: u16 = 15008;
/// Where questions of the pod to DNS servers arrive, on the loopback addresses.
pub const DNS: u16 = 15053;

/// A proxy: a cgroup, and a network namespace for its sockets.
#[derive(Debug)]
pub struct Proxy {
    cgroup: Cgroup,
    netns: Arc<Netns>,
}

impl Proxy {
    /// As ztunnel: its sockets are in the pod's network namespace, its cgroup is not the pod's.
    pub fn in_pod(bench: &Bench, pod: &Pod) -> Result<Self> {
        Ok(Self {
            cgroup: bench.cgroup().child(&format!("proxy-of-{}", pod.name()))?,
            netns: pod.shared_netns(),
        })
    }

    /// As a sidecar: a container of the pod.
    pub fn sidecar(pod: &Pod) -> Result<Self> {
        Ok(Self {
            cgroup: pod.cgroup().child("istio-proxy")?,
            netns: pod.shared_netns(),
        })
    }

    /// In the node's network namespace.
    pub fn on_node(bench: &Bench) -> Result<Self> {
        Ok(Self {
            cgroup: bench.cgroup().child("node-proxy")?,
            netns: Arc::clone(bench.node()),
        })
    }

    /// The same proxy with sockets in another pod's network namespace, too.
    pub fn also_in(&self, pod: &Pod) -> ProxyIn<'_> {
        ProxyIn {
            cgroup: &self.cgroup,
            netns: pod.shared_netns(),
        }
    }

    /// Its cgroup.
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Calls `f` as a process of the proxy would.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> Result<T> {
        run_in(&self.cgroup, &self.netns, f)
    }

    /// Listens on a port of all addresses, of both families.
    pub fn listen(&self, port: u16) -> Result<Listener> {
        self.run(|| Listener::on(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)))?
    }

    /// A resolver on a loopback address.
    pub fn resolver(&self, address: IpAddr) -> Result<Resolver> {
        self.run(|| Resolver::on(SocketAddr::new(address, DNS)))?
    }

    /// Calls.
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> Result<io::Result<TcpStream>> {
        self.run(|| TcpStream::connect_timeout(&to, patience))
    }

    /// Calls in somebody else's name, by whatever port is free.
    pub fn connect_as(
        &self,
        from: IpAddr,
        to: SocketAddr,
        patience: Duration,
    ) -> Result<io::Result<TcpStream>> {
        self.run(|| connect_as(from, to, patience))
    }
}

/// A proxy as far as one of several pods is concerned.
#[derive(Debug)]
pub struct ProxyIn<'a> {
    cgroup: &'a Cgroup,
    netns: Arc<Netns>,
}

impl ProxyIn<'_> {
    /// Listens on a port of all addresses, of both families.
    pub fn listen(&self, port: u16) -> Result<Listener> {
        let place = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        run_in(self.cgroup, &self.netns, || Listener::on(place))?
    }
}

fn run_in<T: Send>(cgroup: &Cgroup, netns: &Netns, f: impl FnOnce() -> T + Send) -> Result<T> {
    on_thread(|| {
        cgroup.join()?;
        netns.enter()?;
        Ok(f())
    })
}

/// A TCP listener that does not wait for ever.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
}

impl Listener {
    /// Listens in the network namespace and the cgroup of this thread; transparently, as ztunnel does, so that a call
    /// may be for any address.
    pub fn on(place: SocketAddr) -> Result<Self> {
        Self::new(TcpListener::bind(place).with_context(|| format!("listening on {place}"))?)
    }

    /// The same for one of several on the same port (`SO_REUSEPORT`), as those of a ztunnel that takes over from another are.
    pub fn shared(place: SocketAddr) -> Result<Self> {
        let (family, kind) = (AddressFamily::Inet6, SockType::Stream);
        let socket = socket::socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
        // As the standard library has it.
        setsockopt(&socket, ReuseAddr, &true).context("SO_REUSEADDR")?;
        setsockopt(&socket, ReusePort, &true).context("SO_REUSEPORT")?;
        socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(place))
            .with_context(|| format!("listening on {place}"))?;
        Self::new(socket.into())
    }

    fn new(listener: TcpListener) -> Result<Self> {
        // The option of IPv4 serves IPv6 sockets, too.
        setsockopt(&listener, IpTransparent, &true).context("IP_TRANSPARENT")?;
        // A longer queue than the standard library's.
        socket::listen(&listener, Backlog::MAXCONN)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// The next call.
    pub fn accept(&self) -> Result<TcpStream> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(stream) = self.try_accept()? {
                return Ok(stream);
            }
            thread::sleep(Duration::from_millis(2));
        }
        bail!("nobody called {}", self.listener.local_addr()?)
    }

    /// A call that is there already.
    pub fn try_accept(&self) -> Result<Option<TcpStream>> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Ok(Some(stream))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error).context("accepting a call"),
        }
    }

    /// The socket.
    pub fn socket(&self) -> &TcpListener {
        &self.listener
    }
}

/// A DNS server as far as this is about who talks to whom: it answers any question with [`Resolver::ANSWER`].
#[derive(Debug)]
pub struct Resolver {
    datagrams: UdpSocket,
    /// For questions by TCP.
    pub streams: Listener,
}

impl Resolver {
    /// What it answers.
    pub const ANSWER: &'static [u8] = b"answer of the proxy";

    /// In the network namespace and the cgroup of this thread.
    pub fn on(place: SocketAddr) -> Result<Self> {
        let datagrams = UdpSocket::bind(place).with_context(|| format!("listening on {place}"))?;
        datagrams.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            datagrams,
            streams: Listener::on(place)?,
        })
    }

    /// Answers one question, and says what it was.
    pub fn answer(&self) -> Result<Vec<u8>> {
        let mut buffer = [0; 512];
        let (len, from) = self.datagrams.recv_from(&mut buffer).context("no question")?;
        self.datagrams.send_to(Self::ANSWER, from)?;
        Ok(buffer[..len].to_vec())
    }
}

/// Which of the two questions for the original destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// `SOL_IP`, answered with an IPv4 address.
    V4,
    /// `SOL_IPV6`, answered with an IPv6 address.
    V6,
}

/// Asks a connection for its original destination.
pub fn original_at(socket: &impl AsFd, level: Level) -> io::Result<SocketAddr> {
    Ok(match level {
        Level::V4 => {
            let answer = socket::getsockopt(socket, OriginalDst)?;
            let ip = u32::from_be(answer.sin_addr.s_addr).into();
            SocketAddrV4::new(ip, u16::from_be(answer.sin_port)).into()
        }
        Level::V6 => {
            let answer = socket::getsockopt(socket, Ip6tOriginalDst)?;
            let ip = answer.sin6_addr.s6_addr.into();
            SocketAddrV6::new(ip, u16::from_be(answer.sin6_port), 0, 0).into()
        }
    })
}

/// Asks as ztunnel does: for the IPv4 one, then for the IPv6 one, which may be a mapped one.
pub fn original(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let answer = original_at(socket, Level::V4).or_else(|_| original_at(socket, Level::V6))?;
    Ok(canonical(answer))
}

/// An IPv4 address as such.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Calls in somebody else's name (`IP_TRANSPARENT`), in the network namespace and the cgroup of this thread.
pub fn connect_as(from: IpAddr, to: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() {
        AddressFamily::Inet
    } else {
        AddressFamily::Inet6
    };
    let socket = socket::socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, IpTransparent, &true)?;
    let patience_ms = patience.as_millis().try_into().map_err(io::Error::other)?;
    setsockopt(&socket, SendTimeout, &TimeVal::milliseconds(patience_ms))?;
    let raw = socket.as_raw_fd();
    socket::bind(raw, &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
    socket::connect(raw, &SockaddrStorage::from(to))?;
    let stream = TcpStream::from(socket);
    stream.set_write_timeout(None)?;
    stream.set_read_timeout(Some(patience))?;
    Ok(stream)
}

/// Calls `f` on a thread that has become this user and this group, which it stays.
pub fn as_user<T: Send>(id: u32, f: impl FnOnce() -> T + Send) -> Result<T> {
    on_thread(|| {
        crate::sys::process::become_user(Uid::from_raw(id), Gid::from_raw(id))
            .with_context(|| format!("becoming user {id}"))?;
        Ok(f())
    })
}
