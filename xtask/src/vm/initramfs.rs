//! What the guest consists of: busybox and an `init`, the kernel's modules, and the job's own programs and files.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::console::Tag;
use super::image::Image;
use super::{Job, closure, kernels, modules};
use crate::shell::{self, Cmd};

/// Name tables that programs look into; without network everything in them is about this machine.
const TABLES: [(&str, &str); 4] = [
    (
        "/etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    ),
    ("/etc/group", "root:x:0:\nnogroup:x:65534:\n"),
    (
        "/etc/hosts",
        "127.0.0.1 localhost sluice-vm\n::1 localhost sluice-vm\n",
    ),
    ("/etc/nsswitch.conf", "hosts: files dns\n"),
];

/// Tables of this machine that packet tools read, where it has them.
const HOST_TABLES: [&str; 3] = ["/etc/protocols", "/etc/services", "/etc/ethertypes"];

/// The time in which a guest that hangs says what it is doing.
const REPORT: Duration = Duration::from_secs(5);

/// Builds the archive and returns its size in bytes.
pub(super) fn build(job: &Job<'_>, tag: &Tag, archive: &Path) -> Result<u64> {
    ensure!(!job.command.is_empty(), "there is no command to run");
    let mut image = Image::new();
    busybox(&mut image)?;
    for (path, text) in TABLES {
        image.bytes(path, text, 0o644);
    }
    for path in HOST_TABLES
        .map(Path::new)
        .into_iter()
        .filter(|path| path.is_file())
    {
        image.host(path, path)?;
    }
    modules::add(&mut image, job.kernel)?;
    for tool in job.tools {
        closure::add_tool(&mut image, tool)?;
    }
    for program in job.programs {
        let name = program
            .file_name()
            .with_context(|| format!("{}: not a program", program.display()))?;
        let copy = shell::target("vm/programs").join(job.machine()).join(name);
        let program = strip(program, &copy)?;
        closure::add_program(&mut image, program, &Path::new("/usr/local/bin").join(name))?;
    }
    for (host, guest) in job.files {
        image.host(host, guest)?;
    }
    image.bytes("/init", include_str!("init.sh"), 0o755);
    // A little before the host loses its patience too.
    let patience = job.timeout.saturating_sub(REPORT).max(job.timeout / 2).as_secs();
    image.bytes(
        "/vm/settings",
        format!("TAG={}\nPATIENCE={patience}\n", tag.as_str()),
        0o644,
    );
    image.bytes("/vm/payload", script(job.command, job.env), 0o644);
    image.write(archive)
}

/// A copy without debug information, which is the larger part of a program: all of them have to fit into the guest's memory.
fn strip<'a>(program: &Path, copy: &'a Path) -> Result<&'a Path> {
    shell::create_parent(copy)?;
    Cmd::new("objcopy")
        .arg("--strip-debug")
        .arg(program)
        .arg(copy)
        .run()?;
    Ok(copy)
}

/// Busybox and its applets. They are last on the guest's path, so that a real tool comes before its small sister.
fn busybox(image: &mut Image) -> Result<()> {
    let host = kernels::busybox()?;
    let path = "/usr/lib/busybox/busybox";
    image.host(&host, Path::new(path))?;
    // It is linked statically and so can be asked here what it can do there.
    for applet in Cmd::new(&host)
        .arg("--list")
        .read()?
        .lines()
        .filter(|applet| *applet != "busybox")
    {
        image.symlink(&format!("/usr/lib/busybox/{applet}"), "busybox");
    }
    // The kernel looks for it here when it needs a module.
    image.symlink("/usr/sbin/modprobe", path);
    // Busybox's own shell takes its applets before anything on the path, so payloads get the shell of this machine.
    closure::add_program(image, Path::new("/bin/sh"), Path::new("/usr/bin/sh"))
}

fn script(command: &[&str], env: &[(&str, &str)]) -> String {
    let exports = env
        .iter()
        .map(|(name, value)| format!("export {name}={}", quote(value)));
    let words: Vec<_> = command.iter().map(|word| quote(word)).collect();
    let exec = format!("exec {}\n", words.join(" "));
    exports
        .chain(["cd /root".to_owned(), exec])
        .collect::<Vec<_>>()
        .join("\n")
}

/// A word that the guest's shell takes as it is.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_shell() {
        let text = script(&["sh", "-c", "echo 'a b' $HOME"], &[("KEY", "it's")]);
        assert_eq!(
            text,
            "export KEY='it'\\''s'\ncd /root\nexec 'sh' '-c' 'echo '\\''a b'\\'' $HOME'\n"
        );
    }
}
