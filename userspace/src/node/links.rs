//! Devices, addresses and default routes.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures_util::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkLayerType, LinkMessage},
    route::{RouteAttribute, RouteMessage},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Error;
use crate::facts::IfIndex;

/// What a device is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The host side of a pod's device, or of any other namespace's.
    Pod,
    /// Anything else: packets may leave the node by it.
    Uplink,
    /// A bridge, or a tunnel without keys that is not the way out. What comes in by it was sent by a pod, or by whoever
    /// reaches the tunnel's port; calls from outside come in by an uplink before.
    Passage,
}

/// A device of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: IfIndex,
    /// Its name.
    pub name: String,
    /// What it is to us.
    pub role: Role,
    /// Its frames begin with an Ethernet header.
    pub ethernet: bool,
    /// It is a port of a bridge.
    pub bridged: bool,
    /// Index of the device's other side.
    pub(super) peer: Option<u32>,
    /// The node's number for the other side's namespace.
    pub(super) peer_netns: Option<i32>,
}

/// Index and hardware address of a device inside a pod, and the index of its other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Inner {
    pub(super) index: u32,
    pub(super) mac: [u8; 6],
    pub(super) peer: u32,
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "a device has dozens of attributes, and more with every kernel"
)]
fn attributes(message: &LinkMessage) -> Attributes<'_> {
    let mut found = Attributes::default();
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => found.name = Some(name),
            LinkAttribute::Link(peer) => found.peer = Some(*peer),
            LinkAttribute::LinkNetNsId(id) => found.netns = Some(*id),
            LinkAttribute::Controller(bridge) => found.controller = Some(*bridge),
            LinkAttribute::Address(mac) => found.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        found.veth = *kind == InfoKind::Veth;
                        found.bridge = *kind == InfoKind::Bridge;
                        found.tunnel = is_open_tunnel(kind);
                    }
                }
            }
            _ => {}
        }
    }
    found
}

#[derive(Default)]
struct Attributes<'a> {
    name: Option<&'a str>,
    peer: Option<u32>,
    netns: Option<i32>,
    mac: Option<[u8; 6]>,
    veth: bool,
    controller: Option<u32>,
    bridge: bool,
    tunnel: bool,
}

/// A tunnel that takes a packet from anybody who knows its port or protocol.
const fn is_open_tunnel(kind: &InfoKind) -> bool {
    matches!(
        kind,
        InfoKind::Vxlan
            | InfoKind::Geneve
            | InfoKind::IpIp
            | InfoKind::Ip6Tnl
            | InfoKind::SitTun
            | InfoKind::GreTun
            | InfoKind::GreTun6
            | InfoKind::GreTap
            | InfoKind::GreTap6
    )
}

/// All devices but loopback.
pub(super) async fn dump(
    handle: &Handle,
    routes: &BTreeSet<u32>,
    uplinks: &[String],
) -> Result<Vec<Link>, Error> {
    let what = |source| Error::Netlink {
        what: "devices",
        source,
    };
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await.map_err(what)?;
    Ok(messages
        .iter()
        .filter_map(|message| read(message, routes, uplinks))
        .collect())
}

fn read(message: &LinkMessage, routes: &BTreeSet<u32>, uplinks: &[String]) -> Option<Link> {
    let index = message.header.index;
    let Attributes {
        name,
        peer,
        netns,
        veth,
        bridge,
        controller,
        tunnel,
        ..
    } = attributes(message);
    let name = name?.to_owned();
    if message.header.link_layer_type == LinkLayerType::Loopback {
        return None;
    }
    // A veth whose other side is elsewhere leads to a pod, unless the node's own way out goes through it.
    let way_out = uplinks.contains(&name);
    let has_default = routes.contains(&index);
    let pod = veth && netns.is_some() && !has_default && !way_out;
    let passage = !way_out && (bridge || tunnel && !has_default);
    Some(Link {
        index: IfIndex(index),
        role: match (pod, passage) {
            (true, _) => Role::Pod,
            (_, true) => Role::Passage,
            (_, _) => Role::Uplink,
        },
        ethernet: message.header.link_layer_type == LinkLayerType::Ether,
        bridged: controller.is_some(),
        peer,
        peer_netns: netns,
        name,
    })
}

/// The devices of the calling thread's namespace that have another side.
pub(super) async fn inner(handle: &Handle) -> Result<Vec<Inner>, rtnetlink::Error> {
    let messages: Vec<LinkMessage> = handle.link().get().execute().try_collect().await?;
    let links = messages.iter().filter_map(|message| {
        let Attributes { peer, mac, netns, .. } = attributes(message);
        // A VLAN or the like has its other side in the same namespace.
        netns?;
        Some(Inner {
            index: message.header.index,
            mac: mac?,
            peer: peer?,
        })
    });
    Ok(links.collect())
}

/// Addresses of all devices.
pub(super) async fn addresses(handle: &Handle) -> Result<BTreeSet<IpAddr>, Error> {
    let what = |source| Error::Netlink {
        what: "addresses",
        source,
    };
    let messages: Vec<_> = handle
        .address()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(what)?;
    let mut addresses = BTreeSet::new();
    for message in messages {
        let mut of: BTreeMap<bool, IpAddr> = BTreeMap::new();
        for attribute in message.attributes {
            // On a link with two ends `Address` is the other end's.
            if let AddressAttribute::Local(address) = attribute {
                of.insert(true, address);
            } else if let AddressAttribute::Address(address) = attribute {
                of.insert(false, address);
            }
        }
        addresses.extend(of.pop_last().map(|(_, address)| address));
    }
    Ok(addresses)
}

/// Devices with a default route, in any table.
pub(super) async fn default_routes(handle: &Handle) -> Result<BTreeSet<u32>, Error> {
    let what = |source| Error::Netlink {
        what: "routes",
        source,
    };
    let mut devices = BTreeSet::new();
    let v4 = RouteMessageBuilder::<std::net::Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<std::net::Ipv6Addr>::new().build();
    for query in [v4, v6] {
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(what)?;
        for route in routes.iter().filter(|route| is_default(route)) {
            devices.extend(outputs(route));
        }
    }
    Ok(devices)
}

fn is_default(route: &RouteMessage) -> bool {
    let family = matches!(
        route.header.address_family,
        AddressFamily::Inet | AddressFamily::Inet6
    );
    family && route.header.destination_prefix_length == 0
}

pub(super) fn outputs(route: &RouteMessage) -> Vec<u32> {
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        if let RouteAttribute::Oif(index) = attribute {
            devices.push(*index);
        } else if let RouteAttribute::MultiPath(hops) = attribute {
            devices.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    devices
}
