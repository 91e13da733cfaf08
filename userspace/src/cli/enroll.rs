//! `sluice enroll` and `sluice unenroll`

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::Args;

use super::{Common, Format, explain::pod_name, output};
use crate::{
    api::{self, Request, client},
    enrolled::{Enrolled, Mode},
    facts::PodName,
};

/// Hand the connections of a network namespace to a proxy, without Kubernetes: of a container of another runtime, of a test
/// rig.
///
/// It returns when capture is on: the proxy gets every TCP connection of the namespace and every question to a DNS server,
/// and calls to it, with the original destination in `SO_ORIGINAL_DST` or as its local address. While the proxy does not
/// listen, connections are refused. It stays until `sluice unenroll`, also while the agent is down.
///
/// Example: ip netns add a; (a proxy that listens on 15001 and 15006 in a); sluice enroll --netns /run/netns/a
#[derive(Debug, Args)]
pub(super) struct Enroll {
    /// The network namespace, as /run/netns/a or /proc/1234/ns/net.
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
    /// Where the proxy listens.
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    /// The pod that the namespace belongs to; its policies hold. Without it, it is no pod: where a policy enforces, nothing
    /// is known of it, and what it sends is dropped.
    #[arg(long, value_name = "NS/POD", value_parser = pod_name)]
    name: Option<PodName>,
    /// The cgroup (v2) of the proxy's processes, whose own connections are not captured; may be given more than once.
    /// Unless it is given: that of the process that listens on the proxy's port now.
    #[arg(long = "proxy-cgroup", value_name = "PATH")]
    proxy_cgroups: Vec<PathBuf>,
}

/// Undo `sluice enroll`, in the namespace too. Connections that the proxy has made go on.
#[derive(Debug, Args)]
pub(super) struct Unenroll {
    /// The network namespace, by the path that it was enrolled with.
    #[arg(long, value_name = "PATH")]
    netns: PathBuf,
}

impl Enroll {
    pub(super) fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let Self {
            netns,
            mode,
            name,
            proxy_cgroups,
        } = self;
        let netns = std::path::absolute(&netns).with_context(|| format!("what is {}?", netns.display()))?;
        let enrolled = Enrolled {
            netns,
            mode,
            name,
            proxy_cgroups,
        };
        let answer: api::Enrolment = client::ask_one(&common.run_dir, &Request::Enroll(enrolled))?;
        match common.output {
            Format::Json => output::json(&answer)?,
            Format::Table => print(&answer),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn print(answer: &api::Enrolment) {
    let Enrolled {
        netns,
        mode,
        name: _,
        proxy_cgroups,
    } = &answer.enrolled;
    println!("enrolled {}", netns.display());
    let listens = match mode {
        Mode::InPod => "inside, on 15001 and 15006",
        Mode::Node => "on the node",
    };
    println!("  proxy        listens {listens}");
    for path in proxy_cgroups {
        println!("  proxy cgroup {}", path.display());
    }
    println!("  generation   {}", answer.generation);
}

impl Unenroll {
    pub(super) fn run(self, common: &Common) -> anyhow::Result<ExitCode> {
        let Self { netns } = self;
        let netns = std::path::absolute(&netns).with_context(|| format!("what is {}?", netns.display()))?;
        let enrolled: Enrolled = client::ask_one(&common.run_dir, &Request::Unenroll { netns })?;
        match common.output {
            Format::Json => output::json(&enrolled)?,
            Format::Table => println!("unenrolled {}", enrolled.netns.display()),
        }
        Ok(ExitCode::SUCCESS)
    }
}
