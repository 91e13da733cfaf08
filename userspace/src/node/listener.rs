//! Who listens on a port: the proxy is told by its cgroup, and that of a proxy that runs already need not be asked for.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Error, cgroup_mount, netns};

/// `TCP_LISTEN` (`include/net/tcp_states.h`), as `/proc/net/tcp` prints it.
const LISTENING: &str = "0A";

/// The cgroup of the process, seen in `proc`, that listens on `port` in the network namespace at `path`, or in the caller's own. `None` if
/// nobody does, or somebody that cannot be seen from here.
pub fn listener_cgroup(proc: &Path, path: Option<&Path>, port: u16) -> Result<Option<PathBuf>, Error> {
    let sockets = match path {
        None => listeners(port),
        Some(path) => netns::enter(path, || listeners(port))?,
    };
    let fail = |source| Error::Listeners { port, source };
    let sockets = sockets.map_err(fail)?;
    let owner = owner(proc, &sockets).map_err(fail)?;
    Ok(owner.as_deref().and_then(cgroup_of))
}

/// The numbers of the sockets that listen on a port, as the calling thread's network namespace has them.
fn listeners(port: u16) -> io::Result<BTreeSet<String>> {
    let mut numbers = BTreeSet::new();
    for table in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = match fs::read_to_string(table) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            text => text?,
        };
        numbers.extend(text.lines().skip(1).filter_map(|line| listening(line, port)));
    }
    Ok(numbers)
}

/// The number of the socket of a line, if it listens on `port`.
fn listening(line: &str, port: u16) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let (_, local) = fields.nth(1)?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let is_it = state == LISTENING && u16::from_str_radix(local, 16) == Ok(port);
    is_it.then(|| fields.nth(5).map(str::to_owned)).flatten()
}

/// The first process that has one of these sockets open.
fn owner(proc: &Path, sockets: &BTreeSet<String>) -> io::Result<Option<PathBuf>> {
    if sockets.is_empty() {
        return Ok(None);
    }
    let names: BTreeSet<PathBuf> = sockets
        .iter()
        .map(|number| PathBuf::from(format!("socket:[{number}]")))
        .collect();
    for process in fs::read_dir(proc)?.flatten() {
        if !process
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit)
        {
            continue;
        }
        // It may end while it is looked at.
        let Ok(open) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if open
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|name| names.contains(&name)))
        {
            return Ok(Some(process.path()));
        }
    }
    Ok(None)
}

/// The directory of a process's cgroup of the second version.
fn cgroup_of(process: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(process.join("cgroup")).ok()?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    Some(cgroup_mount()?.join(own))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_is_found_with_its_process() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let sockets = listeners(port).expect("the table of sockets");
        assert_eq!(sockets.len(), 1);
        let process = owner(Path::new("/proc"), &sockets)
            .expect("the processes")
            .expect("this one");
        assert_eq!(process, Path::new(&format!("/proc/{}", std::process::id())));
        drop(listener);
        assert!(listeners(port).expect("the table of sockets").is_empty());
    }

    #[test]
    fn a_line_is_read_as_the_kernel_writes_it() {
        let line = "   1: 00000000:3A99 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4242 1 0";
        assert_eq!(listening(line, 15001).as_deref(), Some("4242"));
        assert_eq!(listening(line, 15006), None);
        assert_eq!(listening(&line.replace(" 0A ", " 01 "), 15001), None);
    }
}
