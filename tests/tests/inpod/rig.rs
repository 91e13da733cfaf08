//! Pods that nobody captures yet, and a place for pins and records.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use sluice::{
    dataplane::{self, AttachMode, Options},
    facts::NetnsCookie,
    inpod::{Keeper, Programs, Repairs, Wanted},
};
use sluice_tests::{
    PATIENCE, command,
    netns::Netns,
    sys::{self, Direction},
};

/// What a look at a pod shows.
const SYSCTLS: [&str; 6] = [
    "ipv4/tcp_fwmark_accept",
    "ipv4/fwmark_reflect",
    "ipv6/fwmark_reflect",
    "ipv4/conf/all/rp_filter",
    "ipv4/conf/all/src_valid_mark",
    "ipv4/conf/lo/accept_local",
];

/// The ways in which this kernel lets programs be attached.
pub(crate) fn modes() -> &'static [AttachMode] {
    match dataplane::attach_mode() {
        AttachMode::Tcx => &[AttachMode::Tcx, AttachMode::Clsact],
        AttachMode::Clsact => &[AttachMode::Clsact],
    }
}

/// A directory with a bpffs in it, for pins, and one for records.
pub(crate) struct Rig {
    pub(crate) mode: AttachMode,
    directory: tempfile::TempDir,
}

impl Rig {
    pub(crate) fn create(mode: AttachMode) -> Result<Self> {
        let rig = Self {
            mode,
            directory: tempfile::tempdir()?,
        };
        fs::create_dir(rig.bpffs())?;
        let none: Option<&str> = None;
        mount(Some("bpf"), &rig.bpffs(), Some("bpf"), MsFlags::empty(), none).context("mounting a bpffs")?;
        fs::create_dir(rig.links())?;
        Ok(rig)
    }

    /// Where the dataplane may pin what it has.
    pub(crate) fn options(&self) -> Options {
        Options {
            bpffs: self.bpffs(),
            cgroup_root: None,
        }
    }

    fn bpffs(&self) -> PathBuf {
        self.directory.path().join("bpffs")
    }

    pub(crate) fn links(&self) -> PathBuf {
        self.bpffs().join("links")
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.directory.path().join("records")
    }

    pub(crate) fn keeper(&self) -> Result<Keeper> {
        Ok(Keeper::start(
            self.mode,
            self.links(),
            &self.records(),
            programs()?,
        )?)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // With the mount go its pins, and with them the programs.
        let _ = umount2(&self.bpffs(), MntFlags::MNT_DETACH);
    }
}

/// Programs that let everything through (`TCX_NEXT`).
pub(crate) fn programs() -> Result<Programs> {
    let load = |name| sys::bpf::classifier(name, -1).with_context(|| format!("loading {name}"));
    Ok(Programs {
        capture_in: load("capture_in")?,
        capture_in_ip: load("capture_in_ip")?,
        capture_virtual: load("capture_virt")?,
        capture_virtual_ip: load("capture_virt_ip")?,
        capture_lo: load("capture_lo")?,
    })
}

/// A namespace with `lo` and `eth0`.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) cookie: NetnsCookie,
}

impl Pod {
    pub(crate) fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sli{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let netns = Netns::create(&name)?;
        netns.sysctls(&[
            ("ipv6.conf.all.disable_ipv6", "0"),
            ("ipv6.conf.default.disable_ipv6", "0"),
            ("ipv6.conf.lo.disable_ipv6", "0"),
            ("ipv4.tcp_fwmark_accept", "0"),
        ])?;
        let cookie = netns.run(|| sys::netns_cookie(&std::net::UdpSocket::bind("0.0.0.0:0")?))??;
        let pod = Self {
            netns,
            cookie: NetnsCookie(cookie),
        };
        pod.ip("link set lo up
link add eth0 type veth peer name peer0
link set eth0 addrgenmode none
link set peer0 addrgenmode none
addr add 10.0.0.2/24 dev eth0
addr add fd00::2/64 dev eth0 nodad
link set eth0 up
link set peer0 up
")?;
        Ok(pod)
    }

    /// `eth0` is captured; `peer0`, which in a real pod would be on the node, is not.
    pub(crate) fn wanted(&self) -> Wanted {
        Wanted {
            name: self.netns.name().to_owned(),
            netns: self.netns.path().to_owned(),
            inbound: true,
            virtual_interfaces: ["virt0".to_owned()].into(),
            excluded_interfaces: ["peer0".to_owned()].into(),
        }
    }

    pub(crate) fn alone(&self) -> BTreeMap<NetnsCookie, Wanted> {
        [(self.cookie, self.wanted())].into()
    }

    /// Calls `f` there.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.netns.run(f)?
    }

    /// Puts a program before all others of a device, for as long as what is returned is open.
    pub(crate) fn attach_first(&self, device: &str, program: &OwnedFd) -> Result<OwnedFd> {
        self.inside(|| Ok(sys::bpf::tcx_link_first(sys::device_index(device)?, program)?))
    }

    pub(crate) fn ip(&self, batch: &str) -> Result<()> {
        self.netns.run(|| command::ip(batch))?
    }

    /// What somebody would type there.
    pub(crate) fn typed(&self, command: &str) -> Result<()> {
        let mut words = command.split(' ');
        let program = words.next().context("no command")?;
        self.run(program, &words.collect::<Vec<_>>()).map(drop)
    }

    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.netns.run(|| command::run(program, arguments, ""))?
    }

    pub(crate) fn set(&self, name: &str, value: &str) -> Result<()> {
        self.netns.sysctls(&[(name, value)])
    }

    /// Rules, routes, variables, qdiscs, filters and programs, once the kernel has found out that the devices are up.
    pub(crate) fn snapshot(&self) -> Result<String> {
        let mut shown = self.look()?;
        let start = Instant::now();
        while !is_calm(&shown) && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(20));
            shown = self.look()?;
        }
        Ok(shown)
    }

    fn look(&self) -> Result<String> {
        let look = || -> Result<String> {
            let mut text = String::new();
            for arguments in [
                &["-4", "rule"][..],
                &["-6", "rule"],
                &["-4", "route", "show", "table", "all"],
                &["-6", "route", "show", "table", "all"],
            ] {
                text += &command::run("ip", arguments, "")?;
            }
            for name in SYSCTLS {
                let value = fs::read_to_string(Path::new("/proc/sys/net").join(name)).context(name)?;
                write!(text, "{name}={value}")?;
            }
            text += &command::run("tc", &["qdisc", "show"], "")?;
            for device in &nix::net::if_::if_nameindex()? {
                let name = device.name().to_string_lossy().into_owned();
                for direction in ["ingress", "egress"] {
                    let filters = command::run("tc", &["filter", "show", "dev", &name, direction], "")?;
                    write!(text, "{name} {direction}: {filters}")?;
                }
                writeln!(text, "{name}: {:?}", programs_on(&name)?)?;
            }
            Ok(text)
        };
        self.netns.run(look)?
    }

    /// The programs on a device, ingress first; which there are, not what they are called.
    pub(crate) fn programs(&self, device: &str) -> Result<Vec<u32>> {
        self.netns.run(|| programs_on(device))?
    }

    /// Everything of a captured pod is there.
    pub(crate) fn is_captured(&self) -> Result<bool> {
        let shown = self.snapshot()?;
        let rule = "32764:\tfrom all fwmark 0x111/0xfff lookup 100";
        Ok(shown.matches(rule).count() == 2
            && shown.matches("local default dev lo table 100").count() == 2
            && SYSCTLS[..3]
                .iter()
                .all(|name| shown.contains(&format!("{name}=1")))
            && self.programs("eth0")?.len() == 1
            && self.programs("lo")?.len() == 1
            && self.programs("peer0")?.is_empty())
    }
}

fn is_calm(shown: &str) -> bool {
    let routes = [
        "local fd00::2 dev eth0",
        "multicast ff00::/8 dev eth0",
        "multicast ff00::/8 dev peer0",
    ];
    !shown.contains(" linkdown") && routes.iter().all(|route| shown.contains(route))
}

fn programs_on(device: &str) -> Result<Vec<u32>> {
    let mut programs = Vec::new();
    if dataplane::attach_mode() == AttachMode::Tcx {
        let index = sys::device_index(device)?;
        for direction in [Direction::In, Direction::Out] {
            programs.extend(sys::bpf::tcx_programs(index, direction)?);
        }
    }
    for direction in ["ingress", "egress"] {
        let filters = command::run("tc", &["filter", "show", "dev", device, direction], "")?;
        let numbers = filters.split_whitespace().skip_while(|word| *word != "id");
        programs.extend(
            numbers
                .skip(1)
                .take(1)
                .filter_map(|number| number.parse::<u32>().ok()),
        );
    }
    Ok(programs)
}

/// All of that has to work.
pub(crate) fn want(keeper: &Keeper, wanted: BTreeMap<NetnsCookie, Wanted>) -> Result<()> {
    for (cookie, result) in keeper.want(wanted)? {
        result.with_context(|| format!("namespace {}", cookie.0))?;
    }
    Ok(())
}

/// Waits until it is so. How long that took.
pub(crate) fn wait_for(what: &str, mut so: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !so()? {
        if start.elapsed() > PATIENCE {
            bail!("{what} did not happen");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(start.elapsed())
}

/// Nothing is mended in the time of three looks.
pub(crate) fn is_quiet(keeper: &Keeper) -> Result<()> {
    let before = keeper.repairs();
    thread::sleep(Duration::from_millis(1600));
    ensure!(
        keeper.repairs() == before,
        "{before:?} became {:?}",
        keeper.repairs()
    );
    ensure!(keeper.problems().is_empty(), "{:?}", keeper.problems());
    Ok(())
}

/// One more repair of one kind, and none of the others.
pub(crate) fn more(before: Repairs, kind: &str) -> Repairs {
    let mut after = before;
    match kind {
        "program" => after.programs += 1,
        "rule" => after.rules += 1,
        "route" => after.routes += 1,
        _ => after.sysctls += 1,
    }
    after
}
