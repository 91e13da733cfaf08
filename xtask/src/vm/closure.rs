//! Programs in the guest: each with the shared libraries that it needs, and tools with the tables they read.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use super::elf;
use super::image::Image;
use crate::packages;
use crate::shell::{self, Cmd};

/// A tool by name, the Debian package that has it, and what it reads at run time beside its libraries.
struct Tool {
    names: &'static [&'static str],
    package: &'static str,
    data: &'static [&'static str],
}

const TOOLS: &[Tool] = &[
    Tool {
        names: &["ip", "tc", "ss", "bridge"],
        package: "iproute2",
        data: &["/etc/iproute2", "/usr/share/iproute2", "/usr/lib/tc"],
    },
    Tool {
        names: &["nft"],
        package: "nftables",
        data: &[],
    },
    Tool {
        names: &[
            "iptables",
            "ip6tables",
            "iptables-legacy",
            "ip6tables-legacy",
            "iptables-save",
            "iptables-restore",
        ],
        package: "iptables",
        data: &["/usr/lib/x86_64-linux-gnu/xtables"],
    },
    Tool {
        names: &["ipset"],
        package: "ipset",
        data: &[],
    },
    Tool {
        names: &["conntrack"],
        package: "conntrack",
        data: &[],
    },
    Tool {
        names: &["ping"],
        package: "iputils-ping",
        data: &[],
    },
    Tool {
        names: &["arping"],
        package: "iputils-arping",
        data: &[],
    },
    Tool {
        names: &["curl"],
        package: "curl",
        data: &[],
    },
    Tool {
        names: &["wg"],
        package: "wireguard-tools",
        data: &[],
    },
    Tool {
        names: &["socat"],
        package: "socat",
        data: &[],
    },
    Tool {
        names: &["tcpdump"],
        package: "tcpdump",
        data: &[],
    },
    Tool {
        names: &["strace"],
        package: "strace",
        data: &[],
    },
    Tool {
        names: &["bpftool"],
        package: "bpftool",
        data: &[],
    },
    Tool {
        names: &["openssl"],
        package: "openssl",
        data: &["/etc/ssl/openssl.cnf"],
    },
    Tool {
        names: &["nsenter", "unshare", "setpriv"],
        package: "util-linux",
        data: &[],
    },
];

/// Adds a named tool of this machine to `/usr/bin`; if the machine does not have it, its package is installed first.
pub(crate) fn add_tool(image: &mut Image, name: &str) -> Result<()> {
    let known = TOOLS.iter().find(|tool| tool.names.contains(&name));
    if let Some(tool) = known {
        packages::ensure(&[(name, tool.package)], "it is to run in the test VM")?;
    }
    let host =
        shell::find_program(name).with_context(|| format!("{name}: no such program on this machine"))?;
    add_program(image, &host, &Path::new("/usr/bin").join(name))?;
    for data in known.map(|tool| tool.data).unwrap_or_default() {
        let data = Path::new(data);
        if data.exists() {
            image.host(data, data)?;
            add_plugins(image, data)?;
        }
    }
    Ok(())
}

/// Adds an executable and the libraries that it is linked with, those at the same paths as here.
pub(crate) fn add_program(image: &mut Image, host: &Path, guest: &Path) -> Result<()> {
    image.host(host, guest)?;
    for library in libraries(host)? {
        image.host(&library, &library)?;
    }
    Ok(())
}

/// Plug-ins are loaded at run time and bring their own libraries.
fn add_plugins(image: &mut Image, folder: &Path) -> Result<()> {
    if !folder.is_dir() {
        return Ok(());
    }
    let mut objects = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.extension().is_some_and(|extension| extension == "so") {
            objects.push(path);
        }
    }
    if objects.is_empty() {
        return Ok(());
    }
    // One call for all of them: ldd starts a shell each time.
    let listing = ldd(&objects)?;
    for library in parse(&listing).with_context(|| folder.display().to_string())? {
        image.host(&library, &library)?;
    }
    Ok(())
}

fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let bytes = fs::read(program).with_context(|| program.display().to_string())?;
    // No interpreter: a script, or a statically linked program.
    if elf::section(&bytes, b".interp").is_err() {
        return Ok(Vec::new());
    }
    parse(&ldd(&[program.to_owned()])?).with_context(|| program.display().to_string())
}

fn ldd(objects: &[PathBuf]) -> Result<String> {
    // Without what cargo leaves in LD_LIBRARY_PATH, which the guest will not have either.
    Cmd::new("ldd").args(objects).without_cargo_env().read()
}

fn parse(listing: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in listing
        .lines()
        .filter(|line| line.starts_with(char::is_whitespace))
    {
        let (name, place) = line.split_once("=>").unwrap_or(("", line));
        if place.trim() == "not found" {
            bail!("its library {} is not on this machine", name.trim());
        }
        let path = place.trim().split(" (").next().unwrap_or_default();
        // linux-vdso.so.1 comes from the kernel and has no path.
        if path.starts_with('/') && !found.contains(&PathBuf::from(path)) {
            found.push(PathBuf::from(path));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_is_understood() {
        let listing = "/usr/sbin/nft:\n\
            \tlinux-vdso.so.1 (0x00007fb78e4bf000)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fb78e1b0000)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007fb78e4c1000)\n\
            second:\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007fb78e1b0000)\n\
            \tstatically linked\n";
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(parse(listing).expect("all there"), expected);
    }

    #[test]
    fn a_missing_library_is_named() {
        let error = parse("\tlibfoo.so.1 => not found\n").expect_err("missing");
        assert!(error.to_string().contains("libfoo.so.1"));
    }
}
