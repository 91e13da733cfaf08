//! What should become of a packet, said a second time.

use std::net::IpAddr;

use ebpf::{AllowReason, DropReason, flow::State};

use super::{
    sketch::{Oddity, Part, Sketch, Source, What},
    world::{INTERNAL, World},
};

type Expected = Result<AllowReason, DropReason>;

const DAY_S: u64 = 24 * 3600;

/// At the pod's device.
pub(crate) fn pod_out(world: &World, sketch: &Sketch) -> Expected {
    if !world.subject {
        return Ok(AllowReason::NotSubject);
    }
    if sketch.tagged {
        return Err(DropReason::VlanTag);
    }
    shape(sketch)?;
    if sketch.forged_mac {
        return Err(DropReason::ForgedMac);
    }
    if is_discovery(sketch) {
        if let What::Neighbour {
            advertises: true,
            own_target: false,
            ..
        } = sketch.what
        {
            return Err(DropReason::ForgedNeighbour);
        }
        let nodes = |address| is_link_local(address) && class_of(world, address) == Some(INTERNAL);
        if nodes(sketch.src()) {
            return Err(DropReason::ForgedNeighbour);
        }
        if sketch.source != Source::Foreign && sketch.stays_on_link() {
            return Ok(AllowReason::Neighbour);
        }
    }
    let from_link = sketch.source == Source::LinkLocal;
    let for_link = is_link_local(sketch.dst) || is_discovery(sketch);
    if sketch.source != Source::Own && !(from_link && for_link) {
        return Err(DropReason::ForgedSource);
    }
    impossible_destination(sketch.dst)?;
    by_rules(world, sketch)
}

/// At the node's uplink.
pub(crate) fn forwarded(world: &World, sketch: &Sketch, enforced: bool, approved: bool) -> Expected {
    if !enforced {
        return Ok(AllowReason::NotEnforced);
    }
    if approved {
        return Ok(AllowReason::Approved);
    }
    shape(sketch)?;
    if is_discovery(sketch) && sketch.stays_on_link() {
        return Ok(AllowReason::Neighbour);
    }
    if class_of(world, sketch.dst) == Some(INTERNAL) {
        return Ok(AllowReason::Internal);
    }
    if sketch.part == Part::Later {
        return fragment(world);
    }
    if matches!(sketch.what, What::Error { .. }) {
        // Here the quoted packet need not be to the sender: addresses are translated on the way.
        if let (true, What::Error { to_us: true, .. }) = (has_flow(world, sketch), sketch.what) {
            return Ok(AllowReason::RelatedError);
        }
    } else if may_answer(sketch) && has_flow(world, sketch) {
        return Ok(AllowReason::Reply);
    }
    Err(DropReason::NotApproved)
}

/// What can be said of the headers alone.
fn shape(sketch: &Sketch) -> Result<(), DropReason> {
    match (sketch.oddity, sketch.v4) {
        (Oddity::None | Oddity::Harmless, _) => {}
        (Oddity::SourceRoute, _) => return Err(DropReason::SourceRoute),
        (Oddity::Strange, true) => return Err(DropReason::Malformed),
        (Oddity::Strange, false) | (Oddity::TooMany, _) => return Err(DropReason::HeaderChain),
        (Oddity::Opaque, _) => return Err(DropReason::UnknownProtocol),
    }
    match sketch.what {
        What::Other { .. } => Err(DropReason::UnknownProtocol),
        What::Guidance => Err(DropReason::ForgedNeighbour),
        What::Tcp { .. }
        | What::Udp
        | What::Sctp
        | What::Echo { .. }
        | What::Error { .. }
        | What::Neighbour { .. } => Ok(()),
    }
}

fn is_discovery(sketch: &Sketch) -> bool {
    matches!(sketch.what, What::Neighbour { hop_limit: 255, .. })
}

fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn impossible_destination(dst: IpAddr) -> Result<(), DropReason> {
    if dst.is_multicast() || matches!(dst, IpAddr::V4(v4) if v4.is_broadcast()) {
        return Err(DropReason::Multicast);
    }
    if dst.is_loopback() || dst.is_unspecified() || matches!(dst, IpAddr::V4(v4) if v4.octets()[0] >= 240) {
        return Err(DropReason::Martian);
    }
    Ok(())
}

fn by_rules(world: &World, sketch: &Sketch) -> Expected {
    let class = class_of(world, sketch.dst);
    if class == Some(INTERNAL) {
        let tunnel = matches!(sketch.what, What::Udp) && [4789, 8472, 6081].contains(&sketch.port);
        // A later part has no port to be known by; without its first part it is nothing.
        return if tunnel && sketch.part != Part::Later {
            Err(DropReason::Tunnel)
        } else {
            Ok(AllowReason::Internal)
        };
    }
    if sketch.part == Part::Later {
        return fragment(world);
    }
    let (protocol, port) = match sketch.what {
        What::Tcp { .. } => (6, sketch.port),
        What::Udp => (17, sketch.port),
        What::Sctp => (132, sketch.port),
        What::Echo { .. } | What::Error { .. } | What::Guidance | What::Neighbour { .. } => (1, 0),
        What::Other { protocol } => (protocol, 0),
    };
    if permitted(world, class, protocol, port) {
        return Ok(AllowReason::Rule);
    }
    if let What::Error { tcp, to_us } = sketch.what {
        let quoted = if tcp { 6 } else { 17 };
        return if to_us && (has_flow(world, sketch) || permitted(world, class, quoted, sketch.port)) {
            Ok(AllowReason::RelatedError)
        } else {
            Err(DropReason::UnrelatedError)
        };
    }
    if may_answer(sketch) && has_flow(world, sketch) {
        return Ok(AllowReason::Reply);
    }
    let some = world
        .rules
        .iter()
        .any(|rule| rule.policy == World::policy() && rule.class == class.unwrap_or(0));
    Err(match (some, world.gateway) {
        (true, _) => DropReason::Port,
        (false, true) => DropReason::NotRegistered,
        (false, false) => DropReason::NotGateway,
    })
}

/// The class of the longest prefix that covers `address`.
fn class_of(world: &World, address: IpAddr) -> Option<u32> {
    let covering = world
        .prefixes
        .iter()
        .filter(|prefix| match (prefix.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                same_bits(&network.octets(), &address.octets(), prefix.len)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                same_bits(&network.octets(), &address.octets(), prefix.len)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        });
    covering
        .max_by_key(|prefix| prefix.len)
        .map(|prefix| prefix.class)
}

fn same_bits(one: &[u8], other: &[u8], count: u8) -> bool {
    (0..usize::from(count)).all(|bit| (one[bit / 8] ^ other[bit / 8]) & (0x80 >> (bit % 8)) == 0)
}

fn permitted(world: &World, class: Option<u32>, protocol: u8, port: u16) -> bool {
    for rule in &world.rules {
        let right_port = match rule.ports {
            Some((first, last)) => port >= first && port <= last,
            None => true,
        };
        let right_protocol = rule.protocol == Some(protocol) || rule.protocol.is_none();
        if rule.policy == World::policy() && rule.class == class.unwrap_or(0) && right_protocol && right_port
        {
            return true;
        }
    }
    false
}

fn fragment(world: &World) -> Expected {
    match world.fragment_age_s {
        Some(age) if age < 30 => Ok(AllowReason::Fragment),
        Some(_) | None => Err(DropReason::FragmentWithoutFirst),
    }
}

/// A call is never an answer.
fn may_answer(sketch: &Sketch) -> bool {
    match sketch.what {
        What::Tcp { flags } => flags & 0x16 != 0x02,
        What::Udp
        | What::Sctp
        | What::Echo { .. }
        | What::Error { .. }
        | What::Guidance
        | What::Neighbour { .. }
        | What::Other { .. } => true,
    }
}

/// Whether the packet, or the one it quotes, belongs to a flow that somebody outside has begun.
fn has_flow(world: &World, sketch: &Sketch) -> bool {
    let Some(flow) = world.flow else { return false };
    let tcp = matches!(sketch.what, What::Tcp { .. } | What::Error { tcp: true, .. });
    let lives_s = match (flow.state, tcp) {
        (State::Called, true) | (State::Closing, _) => 120,
        (State::Called, false) => 30,
        (State::Answered, _) => 60,
        (State::Established, true) => 5 * DAY_S,
        (State::Established, false) => 180,
        (State::Ours | State::Absent, _) => 0,
    };
    !flow.of_another && flow.age_s < lives_s
}
