//! The node as the kernel shows it: devices, addresses, the namespaces and cgroups of pods.
//!
//! The network namespace that the agent runs in is the node.

mod cgroups;
mod finder;
mod inside;
mod kubelet;
mod kubepods;
mod links;
mod listener;
mod netns;
mod pace;
mod processes;
mod unfound;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use futures_channel::mpsc::UnboundedReceiver;
use futures_util::{FutureExt as _, StreamExt as _};
use netlink_packet_core::NetlinkMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::SocketAddr;
use rtnetlink::{Handle, MulticastGroup};

use self::netns::Namespace;
pub use self::{
    cgroups::{cgroup, cgroup_mount, cgroup_root, enter_cgroup_namespace, sees_all_cgroups, set_root_level},
    finder::{Finder, Wanted},
    kubelet::kubelet_cgroup,
    kubepods::{ContainerId, PodUid},
    links::{Link, Role},
    listener::listener_cgroup,
    netns::open_netns,
};
use crate::{
    facts::{Depth, Inside, NetnsCookie, PodDevice, PodNetwork},
    sys,
};

/// Why something about the node cannot be known.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel's netlink socket fails.
    #[error("cannot ask the kernel for {what} (rtnetlink): {source}")]
    Netlink {
        /// What was asked for.
        what: &'static str,
        /// What the kernel said.
        source: rtnetlink::Error,
    },
    /// No netlink socket.
    #[error("cannot open a netlink socket: {0}")]
    Open(#[source] io::Error),
    /// Who listens cannot be found out.
    #[error("cannot find out who listens on port {port}: {source}")]
    Listeners {
        /// The port.
        port: u16,
        /// What the kernel said.
        source: io::Error,
    },
    /// The path of a namespace leads nowhere, or to something else.
    #[error("{path} is no network namespace: {source} (is the pod still there?)")]
    Path {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The namespace cannot be looked into.
    #[error("cannot look into the network namespace {path}: {source}")]
    Inspect {
        /// The path.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pod without a namespace of its own.
    #[error(
        "{0} is the node's own network namespace: a pod in it has to say spec.hostNetwork and its cgroup"
    )]
    Own(PathBuf),
    /// Another namespace is where a pod's was.
    #[error("{0} is another network namespace than it was (has the pod gone?)")]
    Replaced(PathBuf),
    /// No device leads from the namespace to this node.
    #[error("no device of {0} has its other side on this node (has the CNI plugin run?)")]
    NoDevice(PathBuf),
    /// The cgroup is not there.
    #[error("{path} is no cgroup below {root}: {reason}")]
    Cgroup {
        /// The path.
        path: PathBuf,
        /// Where cgroups of the second version are mounted.
        root: PathBuf,
        /// Why not.
        reason: String,
    },
    /// Paths of cgroups do not lead to what the kernel's programs see.
    #[error(
        "the agent is not below {root}, so nobody can tell how deep the kernel has the cgroups in there: the agent must be a \
         process of the node's own, in a cgroup of the node (is --proc-root another node's?)"
    )]
    UnknownLevel {
        /// Where cgroups of the second version are mounted.
        root: PathBuf,
    },
    /// The pod has no cgroup.
    #[error("there is no cgroup of pod {pod} below {mount}: has the kubelet made it?")]
    NoPodCgroup {
        /// The pod.
        pod: PodUid,
        /// Where cgroups of the second version are mounted.
        mount: PathBuf,
    },
    /// No pod has one.
    #[error(
        "there are no cgroups of pods (kubepods) below {mount}: if this node has them in cgroups of the first version, \
         pods in its network namespace cannot be told apart"
    )]
    NoPods {
        /// Where cgroups of the second version are mounted.
        mount: PathBuf,
    },
    /// The container has no cgroup.
    #[error("there is no cgroup of container {container} below {pod}: does it run?")]
    NoContainerCgroup {
        /// The container.
        container: ContainerId,
        /// Its pod's cgroup.
        pod: PathBuf,
    },
    /// There is no second version of cgroups.
    #[error("cgroup2 is not mounted as a whole: pods in the node's network namespace cannot be told apart")]
    NoCgroups,
}

impl Error {
    /// Whether a path leads to no pod's namespace, whoever looks and whenever.
    pub fn is_elsewhere(&self) -> bool {
        const NOTHING: [io::ErrorKind; 2] = [io::ErrorKind::NotFound, io::ErrorKind::InvalidInput];
        if let Self::Path { source, .. } = self {
            return NOTHING.contains(&source.kind());
        }
        matches!(self, Self::Own(_))
    }
}

/// What a look at the node brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// All devices but loopback.
    pub links: Vec<Link>,
    /// Addresses of all devices.
    pub addresses: BTreeSet<IpAddr>,
}

/// The node.
pub struct Node {
    handle: Handle,
    messages: UnboundedReceiver<(NetlinkMessage<RouteNetlinkMessage>, SocketAddr)>,
    namespaces: HashMap<PathBuf, Namespace>,
    /// The node's devices that lead to each of them, by the node's numbers.
    leading: BTreeMap<i32, Leading>,
    /// Something has changed since the last look.
    is_told: bool,
}

/// Devices that lead to one namespace.
struct Leading {
    /// Their numbers on both sides.
    devices: BTreeSet<(u32, Option<u32>)>,
    /// When that changed.
    since: Instant,
}

/// For so long after its device a namespace gets its addresses and routes, of which the node is not told: whatever is told
/// meanwhile, it is looked into again. Later only as often, for a node with many pods is always told something.
const SETTLING: Duration = Duration::from_secs(10);

impl Node {
    /// Opens the node that the calling thread is on, and listens for changes. Needs tokio.
    pub fn open() -> Result<Self, Error> {
        let groups = [
            MulticastGroup::Link,
            MulticastGroup::Ipv4Ifaddr,
            MulticastGroup::Ipv6Ifaddr,
            MulticastGroup::Ipv4Route,
            MulticastGroup::Ipv6Route,
            MulticastGroup::Ipv4Rule,
            MulticastGroup::Ipv6Rule,
        ];
        let (connection, handle, messages) =
            rtnetlink::new_multicast_connection(&groups).map_err(Error::Open)?;
        tokio::spawn(connection);
        Ok(Self {
            handle,
            messages,
            namespaces: HashMap::new(),
            leading: BTreeMap::new(),
            is_told: false,
        })
    }

    /// Waits until a device, an address, a route or a rule changes.
    pub async fn changed(&mut self) {
        if self.messages.next().await.is_none() {
            // The socket is gone; there is nothing to wait for.
            return std::future::pending().await;
        }
        // One look serves all changes that are there already.
        while let Some(Some(_)) = self.messages.next().now_or_never() {}
        self.is_told = true;
    }

    /// Looks anew into this namespace the next time: something inside has changed, of which the node is not told.
    pub fn forget(&mut self, path: &Path) {
        self.namespaces.remove(path);
    }

    /// Looks at all devices and addresses. `uplinks` are devices that are uplinks whatever they look like.
    pub async fn look(&mut self, uplinks: &[String]) -> Result<View, Error> {
        let routes = links::default_routes(&self.handle).await?;
        let links = links::dump(&self.handle, &routes, uplinks).await?;
        let addresses = links::addresses(&self.handle).await?;
        self.forget_changed(&links);
        Ok(View { links, addresses })
    }

    /// Forgets what may be otherwise by now.
    fn forget_changed(&mut self, links: &[Link]) {
        let mut leading: BTreeMap<i32, BTreeSet<(u32, Option<u32>)>> = BTreeMap::new();
        for link in links {
            if let Some(id) = link.peer_netns {
                leading.entry(id).or_default().insert((link.index.0, link.peer));
            }
        }
        let now = Instant::now();
        let before = std::mem::take(&mut self.leading);
        let since = |id, devices: &_| match before.get(&id) {
            Some(known) if known.devices == *devices => known.since,
            Some(_) | None => now,
        };
        let leading = leading.into_iter().map(|(id, devices)| {
            let since = since(id, &devices);
            (id, Leading { devices, since })
        });
        self.leading = leading.collect();
        if std::mem::take(&mut self.is_told) {
            let is_settled = |since: Instant| now.duration_since(since) > SETTLING;
            self.namespaces.retain(|_, namespace| {
                let leading = self.leading.get(&namespace.id);
                leading.is_some_and(|leading| is_settled(leading.since)) && !is_settled(namespace.looked)
            });
        }
    }

    /// Finds a pod's devices from its namespace: those of the node whose other side is in there, as both sides say.
    /// `depth` says how much of what is inside shall be known.
    pub async fn pod(&mut self, path: &Path, view: &View, depth: Depth) -> Result<PodNetwork, Error> {
        let is_known = |namespace: &Namespace| namespace.is_as_deep_as(depth);
        if !self.namespaces.get(path).is_some_and(is_known) {
            let namespace = Namespace::inspect(path.to_owned(), self.handle.clone(), depth).await?;
            self.namespaces.insert(path.to_owned(), namespace);
        }
        let namespace = &self.namespaces[path];
        let by_index: BTreeMap<u32, &Link> = view.links.iter().map(|link| (link.index.0, link)).collect();
        let devices: Vec<PodDevice> = namespace
            .links
            .iter()
            .filter_map(|inner| {
                let outer = by_index.get(&inner.peer)?;
                let points_back = outer.peer == Some(inner.index) && outer.peer_netns == Some(namespace.id);
                points_back.then(|| PodDevice {
                    index: outer.index,
                    name: outer.name.clone(),
                    mac: inner.mac,
                    bridged: outer.bridged,
                })
            })
            .collect();
        if devices.is_empty() {
            // It may come, without a word to this namespace's groups if it comes by another way than a new link.
            self.namespaces.remove(path);
            return Err(Error::NoDevice(path.to_owned()));
        }
        Ok(PodNetwork::Own {
            netns: namespace.cookie,
            devices,
            path: path.to_owned(),
            inside: namespace.inside.clone(),
        })
    }
}

/// The network namespace of the calling thread: the node.
pub fn cookie() -> io::Result<NetnsCookie> {
    sys::cookie()
}

/// Which network namespace `path` leads to, and the addresses inside. Needs tokio.
pub async fn inside(path: &Path) -> Result<(NetnsCookie, Inside), Error> {
    netns::addresses(path.to_owned()).await
}
