//! The devices of a pod, seen from inside.

use netlink_packet_core::NLM_F_DUMP;
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{LinkAttribute, LinkLayerType, LinkMessage},
};

use super::Error;
use crate::{facts::IfIndex, netlink::Talk};

/// A device in a pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Device {
    pub(super) index: IfIndex,
    pub(super) name: String,
    pub(super) loopback: bool,
    /// Its frames begin with an Ethernet header; else packets come as they are, as out of a tunnel.
    pub(super) ethernet: bool,
}

/// All of them, whether they are up or not: what comes up later has its program before.
pub(super) fn dump(talk: &Talk) -> Result<Vec<Device>, Error> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = talk.ask(question, NLM_F_DUMP).map_err(|source| Error::Netlink {
        what: "devices",
        source,
    })?;
    let device = |answer| {
        if let RouteNetlinkMessage::NewLink(link) = answer {
            read(link)
        } else {
            None
        }
    };
    Ok(answers.into_iter().filter_map(device).collect())
}

fn read(link: LinkMessage) -> Option<Device> {
    let name = link.attributes.into_iter().find_map(|attribute| {
        if let LinkAttribute::IfName(name) = attribute {
            Some(name)
        } else {
            None
        }
    });
    Some(Device {
        index: IfIndex(link.header.index),
        name: name?,
        loopback: link.header.link_layer_type == LinkLayerType::Loopback,
        ethernet: link.header.link_layer_type == LinkLayerType::Ether,
    })
}
