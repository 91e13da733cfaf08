//! Which kernel modules go into the guest, and in which order they are loaded.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use super::image::Image;
use super::kernels::Kernel;
use super::modinfo::{ModInfo, canonical};

/// Loaded before the payload starts: what the kernel does not load by itself when it is asked for (before 6.10
/// `cls_bpf` is one of these), and what nearly every test uses. A name that a kernel does not have as a module is
/// built in there, or did not exist yet.
const PRELOADED: [&str; 19] = [
    "veth",
    "dummy",
    "bridge",
    "8021q",
    "vxlan",
    "ipip",
    "ip_gre",
    "ip6_gre",
    "sit",
    "wireguard",
    "sctp",
    "tun",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
    "nf_tables",
    "nft_chain_nat",
    "nft_masq",
    "nft_ct",
];

/// Present, and loaded by the kernel when somebody asks for what they do: all of networking but the drivers of real
/// cards.
const ON_DEMAND: [&str; 15] = [
    "drivers/net",
    "drivers/net/bonding",
    "drivers/net/ipvlan",
    "drivers/net/macvlan",
    "drivers/net/vxlan",
    "drivers/net/wireguard",
    "net/8021q",
    "net/bridge",
    "net/core",
    "net/ipv4",
    "net/ipv6",
    "net/mptcp",
    "net/netfilter",
    "net/sched",
    "net/sctp",
];

/// Folders of which everything below is wanted; of the others only the files directly in them.
const DEEP: &str = "net/";

/// Adds the modules and the lists that loading them needs.
pub(crate) fn add(image: &mut Image, kernel: &Kernel) -> Result<()> {
    let tree = Tree::read(&kernel.modules)?;
    let wanted: BTreeSet<_> = PRELOADED
        .map(String::from)
        .into_iter()
        .chain(tree.on_demand())
        .collect();
    let infos = tree.closure(wanted)?;

    let guest = format!("/usr/lib/modules/{}", kernel.release);
    let mut dependencies = String::new();
    let mut aliases = String::new();
    for (name, info) in &infos {
        let Some(path) = tree.paths.get(name) else {
            continue;
        };
        image.host(&tree.root.join(path), &Path::new(&guest).join(path))?;
        let needed = load_order(std::iter::once(name.as_str()), |name| needs(&infos, name));
        write!(dependencies, "{}:", path.display())?;
        for needed in needed
            .iter()
            .rev()
            .filter(|other| *other != name)
            .filter_map(|other| tree.paths.get(other))
        {
            write!(dependencies, " {}", needed.display())?;
        }
        dependencies.push('\n');
        for alias in &info.aliases {
            writeln!(aliases, "alias {alias} {name}")?;
        }
    }
    image.bytes(&format!("{guest}/modules.dep"), dependencies, 0o644);
    image.bytes(&format!("{guest}/modules.alias"), aliases, 0o644);

    let mut preload = String::new();
    let order = load_order(PRELOADED.into_iter(), |name| needs(&infos, name));
    for path in order.iter().filter_map(|name| tree.paths.get(name)) {
        writeln!(preload, "{guest}/{}", path.display())?;
    }
    image.bytes("/vm/modules", preload, 0o644);
    Ok(())
}

/// What has to be loaded before a module: soft dependencies too, as `modprobe` does it.
fn needs(infos: &BTreeMap<String, ModInfo>, name: &str) -> Vec<String> {
    infos
        .get(name)
        .map(|info| info.depends.iter().chain(&info.soft).cloned().collect())
        .unwrap_or_default()
}

/// The modules of one kernel, by name.
struct Tree {
    root: PathBuf,
    /// Paths relative to the root.
    paths: BTreeMap<String, PathBuf>,
}

impl Tree {
    fn read(root: &Path) -> Result<Self> {
        let mut tree = Self {
            root: root.to_owned(),
            paths: BTreeMap::new(),
        };
        let mut folders = vec![root.join("kernel")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).with_context(|| folder.display().to_string())? {
                let path = entry.with_context(|| folder.display().to_string())?.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "ko") {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy();
                    let relative = path.strip_prefix(root).unwrap_or(&path).to_owned();
                    tree.paths.insert(canonical(&name), relative);
                }
            }
        }
        Ok(tree)
    }

    fn on_demand(&self) -> impl Iterator<Item = String> {
        let wanted = |path: &Path| {
            ON_DEMAND.iter().any(|folder| {
                let folder = Path::new("kernel").join(folder);
                path.parent() == Some(&folder)
                    || path.starts_with(&folder) && path.starts_with(Path::new("kernel").join(DEEP))
            })
        };
        self.paths
            .iter()
            .filter(move |(_, path)| wanted(path))
            .map(|(name, _)| name.clone())
    }

    /// The modules named and all that they need, each with what it says of itself.
    fn closure(&self, wanted: BTreeSet<String>) -> Result<BTreeMap<String, ModInfo>> {
        let mut infos = BTreeMap::new();
        let mut open: Vec<_> = wanted.into_iter().collect();
        while let Some(name) = open.pop() {
            let Some(path) = self.paths.get(&name) else {
                continue;
            };
            if infos.contains_key(&name) {
                continue;
            }
            let path = self.root.join(path);
            let bytes = fs::read(&path).with_context(|| path.display().to_string())?;
            let info = ModInfo::read(&bytes).with_context(|| path.display().to_string())?;
            open.extend(info.depends.iter().chain(&info.soft).cloned());
            infos.insert(name, info);
        }
        Ok(infos)
    }
}

/// Everything that is wanted and everything it needs, each after what it needs. The kernel has no cycles of modules;
/// soft dependencies could have, and are then loaded in the order in which they are met.
fn load_order<'a>(wanted: impl Iterator<Item = &'a str>, needs: impl Fn(&str) -> Vec<String>) -> Vec<String> {
    fn visit(
        name: &str,
        needs: &impl Fn(&str) -> Vec<String>,
        seen: &mut BTreeSet<String>,
        order: &mut Vec<String>,
    ) {
        if !seen.insert(name.to_owned()) {
            return;
        }
        for other in needs(name) {
            visit(&other, needs, seen, order);
        }
        order.push(name.to_owned());
    }
    let (mut seen, mut order) = (BTreeSet::new(), Vec::new());
    for name in wanted {
        visit(name, &needs, &mut seen, &mut order);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(wanted: &[&str], edges: &[(&str, &[&str])]) -> Vec<String> {
        load_order(wanted.iter().copied(), |name| {
            let found = edges.iter().find(|(from, _)| *from == name);
            found
                .map(|(_, to)| to.iter().map(|name| (*name).to_owned()).collect())
                .unwrap_or_default()
        })
    }

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let edges: &[(&str, &[&str])] = &[
            ("nft_masq", &["nf_nat", "nf_tables"]),
            ("nf_nat", &["nf_conntrack"]),
            ("nft_ct", &["nf_conntrack"]),
        ];
        assert_eq!(
            order(&["nft_masq", "nft_ct"], edges),
            ["nf_conntrack", "nf_nat", "nf_tables", "nft_masq", "nft_ct"]
        );
    }

    #[test]
    fn a_cycle_of_soft_dependencies_ends() {
        assert_eq!(order(&["a"], &[("a", &["b"]), ("b", &["a"])]), ["b", "a"]);
    }
}
