//! What the kernel and the node offer.

use std::{fmt, fs, path::Path};

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{is_map_supported, is_program_supported},
};
use serde::Serialize;

/// The oldest kernel that every test runs on.
const OLDEST: (u32, u32) = (6, 1);
/// TCX came with this one, and packets can be handed to listeners with `SO_REUSEPORT` since then (`bpf_sk_assign`).
const TCX: (u32, u32) = (6, 6);

/// How a finding stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it should be.
    Ok,
    /// Works, but should be known.
    Warning,
    /// sluice cannot work without it.
    Missing,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Missing => "missing",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub what: &'static str,
    /// How it stands.
    pub state: State,
    /// What was found.
    pub found: String,
    /// What follows from it.
    pub means: &'static str,
}

/// Looks at everything. Attaches nothing and changes nothing.
pub fn run() -> Vec<Finding> {
    let mut findings = vec![privileges(), kernel(), attachment()];
    findings.extend([
        program("tc programs", ProgramType::SchedClassifier),
        program("hooks of calls", ProgramType::CgroupSockAddr),
        program("hooks of connections", ProgramType::SockOps),
        program("getsockopt hooks", ProgramType::CgroupSockopt),
        map("storage of sockets", MapType::SkStorage),
        map("hash maps", MapType::Hash),
        map("longest-prefix tries", MapType::LpmTrie),
        map("LRU hash maps", MapType::LruHash),
        map("ring buffers", MapType::RingBuf),
    ]);
    findings.extend([
        cgroups(),
        reuseport(),
        jit(),
        unprivileged_bpf(),
        forwarding("net/ipv4/ip_forward", "IPv4 forwarding"),
    ]);
    findings.push(forwarding("net/ipv6/conf/all/forwarding", "IPv6 forwarding"));
    findings
}

fn privileges() -> Finding {
    let root = nix::unistd::geteuid().is_root();
    Finding {
        what: "privileges",
        state: if root { State::Ok } else { State::Missing },
        found: if root {
            "root".to_owned()
        } else {
            format!("user {}", nix::unistd::geteuid())
        },
        means: "programs are loaded and attached as root",
    }
}

fn release() -> Option<(u32, u32)> {
    let name = nix::sys::utsname::uname().ok()?;
    let mut numbers = name.release().to_str()?.split(['.', '-']).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel() -> Finding {
    let (state, found) = match release() {
        Some(version @ (major, minor)) => {
            let state = if version >= OLDEST {
                State::Ok
            } else {
                State::Warning
            };
            (state, format!("Linux {major}.{minor}"))
        }
        None => (State::Warning, "unknown".to_owned()),
    };
    Finding {
        what: "kernel",
        state,
        found,
        means: "tested on Linux 6.1, 6.12 and the newest",
    }
}

fn attachment() -> Finding {
    let tcx = release().is_some_and(|version| version >= TCX);
    Finding {
        what: "tc attachment",
        state: State::Ok,
        found: if tcx { "TCX" } else { "clsact" }.to_owned(),
        means: "TCX (Linux 6.6 and later) puts our programs before all others",
    }
}

fn program(what: &'static str, kind: ProgramType) -> Finding {
    supported(
        what,
        is_program_supported(kind).map_err(|error| error.to_string()),
    )
}

fn map(what: &'static str, kind: MapType) -> Finding {
    supported(what, is_map_supported(kind).map_err(|error| error.to_string()))
}

fn supported(what: &'static str, answer: Result<bool, String>) -> Finding {
    let (state, found) = match answer {
        Ok(true) => (State::Ok, "supported".to_owned()),
        Ok(false) => (State::Missing, "not supported".to_owned()),
        Err(error) => (State::Missing, format!("cannot tell: {error}")),
    };
    Finding {
        what,
        state,
        found,
        means: "the eBPF programs need it",
    }
}

fn cgroups() -> Finding {
    let (state, found) = match crate::node::cgroup_mount() {
        Some(path) => (State::Ok, path.display().to_string()),
        None => (State::Warning, "no cgroup2 mount".to_owned()),
    };
    Finding {
        what: "cgroup v2",
        state,
        found,
        means: "without it nothing is captured inside pods; calls are not refused early, packets are dropped all the same",
    }
}

fn reuseport() -> Finding {
    let can = release().is_some_and(|version| version >= TCX);
    Finding {
        what: "SO_REUSEPORT of proxies",
        state: if can { State::Ok } else { State::Warning },
        found: if can { "supported" } else { "not supported" }.to_owned(),
        means: "before Linux 6.6 no packet can be handed to such a listener, and calls to captured pods are refused: set \
                INPOD_PORT_REUSE=false (ztunnel), enable_reuse_port: false (Envoy)",
    }
}

fn sysctl(path: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(path))
        .ok()
        .map(|text| text.trim().to_owned())
}

fn jit() -> Finding {
    let value = sysctl("net/core/bpf_jit_enable");
    let on = !matches!(value.as_deref(), Some("0"));
    Finding {
        what: "BPF JIT",
        state: if on { State::Ok } else { State::Warning },
        found: value.unwrap_or_else(|| "always on".to_owned()),
        means: "0 is several times slower: set net.core.bpf_jit_enable=1",
    }
}

fn unprivileged_bpf() -> Finding {
    let value = sysctl("kernel/unprivileged_bpf_disabled");
    let off = matches!(value.as_deref(), Some("1" | "2"));
    Finding {
        what: "unprivileged BPF",
        state: if off { State::Ok } else { State::Warning },
        found: value.unwrap_or_else(|| "unknown".to_owned()),
        means: "0 lets pods load programs: set kernel.unprivileged_bpf_disabled=1",
    }
}

fn forwarding(path: &str, what: &'static str) -> Finding {
    let on = sysctl(path).as_deref() == Some("1");
    Finding {
        what,
        state: if on { State::Ok } else { State::Warning },
        found: if on { "on" } else { "off" }.to_owned(),
        means: "pods need it to reach each other across nodes",
    }
}
