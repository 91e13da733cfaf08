//! Addresses and routes inside a pod's network namespace.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures_util::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    link::LinkAttribute,
    route::{RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType},
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::{Error, links};
use crate::facts::{Depth, Inside, Route};

/// Looks at the calling thread's namespace.
pub(super) async fn look(handle: &Handle, depth: Depth) -> Result<Inside, Error> {
    let mut inside = Inside::default();
    if depth >= Depth::Addresses {
        let addresses = links::addresses(handle).await?;
        inside.addresses = addresses.into_iter().filter(is_its_own).collect();
    }
    if depth >= Depth::Routes {
        inside.routes = routes(handle).await?;
    }
    Ok(inside)
}

/// An address that tells the namespace from others.
fn is_its_own(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local() && !v6.is_unspecified(),
    }
}

/// The routes of the main table, of each range the one with the best metric.
async fn routes(handle: &Handle) -> Result<Vec<Route>, Error> {
    let what = |what| move |source| Error::Netlink { what, source };
    let links: Vec<_> = handle
        .link()
        .get()
        .execute()
        .try_collect()
        .await
        .map_err(what("devices"))?;
    let mut names = BTreeMap::new();
    for link in links {
        for attribute in link.attributes {
            if let LinkAttribute::IfName(name) = attribute {
                names.insert(link.header.index, name);
            }
        }
    }
    let mut best: BTreeMap<IpNet, (u32, Route)> = BTreeMap::new();
    let v4 = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let v6 = RouteMessageBuilder::<Ipv6Addr>::new().build();
    for query in [v4, v6] {
        let routes: Vec<RouteMessage> = handle
            .route()
            .get(query)
            .execute()
            .try_collect()
            .await
            .map_err(what("routes"))?;
        for message in &routes {
            let Some(range) = range(message) else { continue };
            let metric = metric(message);
            if best.get(&range).is_some_and(|(known, _)| *known <= metric) {
                continue;
            }
            let devices = links::outputs(message);
            let devices = devices.iter().filter_map(|index| names.get(index).cloned());
            let route = Route {
                range,
                devices: devices.collect(),
            };
            best.insert(range, (metric, route));
        }
    }
    Ok(best.into_values().map(|(_, route)| route).collect())
}

/// Whereto a route of the main table leads; link-local ones are every device's.
fn range(route: &RouteMessage) -> Option<IpNet> {
    let header = &route.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Destination(address) = attribute {
            Some(address)
        } else {
            None
        }
    });
    let unspecified = if header.address_family == AddressFamily::Inet6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let address = match destination {
        None => unspecified,
        Some(RouteAddress::Inet(v4)) => IpAddr::V4(*v4),
        Some(RouteAddress::Inet6(v6)) => IpAddr::V6(*v6),
        Some(_) => return None,
    };
    let is_everything = header.destination_prefix_length == 0;
    let known = is_everything || is_its_own(&address);
    let range = IpNet::new(address, header.destination_prefix_length).ok()?;
    known.then(|| range.trunc())
}

fn metric(route: &RouteMessage) -> u32 {
    let found = route.attributes.iter().find_map(|attribute| {
        if let RouteAttribute::Priority(metric) = attribute {
            Some(*metric)
        } else {
            None
        }
    });
    found.unwrap_or_default()
}
