//! What the kernel holds at the most. The sizes are those that the design promises, twice where there are two
//! banks.

/// Destinations that are single addresses, in both banks.
pub const HOSTS: u32 = 2 * 1_048_576;
/// Destinations that are networks, in both banks.
pub const NETWORKS: u32 = 2 * 1_048_576;
/// Rules, in both banks.
pub const RULES: u32 = 2 * 262_144;
/// Endpoints in both banks: 500 pods with a device and a namespace each, and room for as many again.
pub const ENDPOINTS: u32 = 2 * 2_048;
/// Inbound flows that have not been answered.
pub const HALF_OPEN: u32 = 65_536;
/// Datagram flows that pods opened with a rule's permission.
pub const OURS: u32 = 65_536;
/// Inbound flows.
pub const ESTABLISHED: u32 = 262_144;
/// Packets whose first fragment passed and whose others may follow.
pub const FRAGMENTS: u32 = 16_384;
/// Octets of events that wait to be read.
pub const EVENT_BYTES: u32 = 1 << 20;
/// Flows whose events are gathered; each takes some room per processor.
pub const TOLD: u32 = 8_192;
/// Captured network namespaces, in both banks.
pub const CAPTURES: u32 = 2 * 1_024;
/// Addresses of captured namespaces, in both banks: two families and a few devices each.
pub const OWNERS: u32 = 2 * 8_192;
/// Ranges that pods exclude or include, in both banks.
pub const RANGES: u32 = 2 * 65_536;
/// Ports that pods exclude or include, in both banks.
pub const PORTS: u32 = 2 * 32_768;
/// Connections that are being made to proxies inside pods. Memory is taken by those that are: a pod that wants to fill it
/// needs as many sockets, some 4 KiB of its own memory each.
pub const HANDSHAKES: u32 = 262_144;
/// Probes of the kubelet that are being made.
pub const PROBES: u32 = 16_384;
