//! A look into a pod's network namespace.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::OpenOptionsExt as _,
    },
    path::{Path, PathBuf},
    thread,
    time::Instant,
};

use futures_util::StreamExt as _;
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    RouteNetlinkMessage,
    nsid::{NsidAttribute, NsidMessage},
};
use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;

use super::{
    Error, inside,
    links::{self, Inner},
};
use crate::{
    facts::{Depth, Inside, NetnsCookie},
    sys,
};

/// A network namespace.
#[derive(Clone, Debug)]
pub(super) struct Namespace {
    pub(super) cookie: NetnsCookie,
    /// The node's number for it.
    pub(super) id: i32,
    /// Its devices that have another side.
    pub(super) links: Vec<Inner>,
    /// What else is inside, as far as it was looked at.
    pub(super) inside: Inside,
    depth: Depth,
    /// When it was looked at.
    pub(super) looked: Instant,
}

impl Namespace {
    /// Looks at the namespace at `path`; `node` asks the node's side.
    pub(super) async fn inspect(path: PathBuf, mut node: Handle, depth: Depth) -> Result<Self, Error> {
        let file = open(&path).map_err(|source| Error::Path {
            path: path.clone(),
            source,
        })?;
        let id = number(&mut node, &file).await.map_err(|source| Error::Inspect {
            path: path.clone(),
            source,
        })?;
        let own = sys::cookie().map_err(|source| Error::Inspect {
            path: path.clone(),
            source,
        })?;
        let (cookie, links, inside) = look(file, path.clone(), depth).await?;
        if cookie == own {
            return Err(Error::Own(path));
        }
        // A namespace that no device of the node leads to has no number here.
        let id = id.ok_or(Error::NoDevice(path))?;
        Ok(Self {
            cookie,
            id,
            links,
            inside,
            depth,
            looked: Instant::now(),
        })
    }

    /// Whether as much is known of it as is asked for. What has no address yet will get one, without a word to the node.
    pub(super) fn is_as_deep_as(&self, depth: Depth) -> bool {
        depth == Depth::Devices || (self.depth >= depth && !self.inside.addresses.is_empty())
    }
}

/// Which namespace is at `path`, and the addresses inside.
pub(super) async fn addresses(path: PathBuf) -> Result<(NetnsCookie, Inside), Error> {
    let file = open(&path).map_err(|source| Error::Path {
        path: path.clone(),
        source,
    })?;
    let (cookie, _, inside) = look(file, path.clone(), Depth::Addresses).await?;
    if sys::cookie().is_ok_and(|own| own == cookie) {
        return Err(Error::Own(path));
    }
    Ok((cookie, inside))
}

async fn look(file: File, path: PathBuf, depth: Depth) -> Result<(NetnsCookie, Vec<Inner>, Inside), Error> {
    let place = path.clone();
    let looked = tokio::task::spawn_blocking(move || look_inside(file, &place, depth)).await;
    looked.map_err(|error| Error::Inspect {
        path,
        source: error.into(),
    })?
}

/// Opens the namespace; a path that leads to a pipe instead must not hold the agent up.
fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
}

/// Calls `ask` inside the namespace at `path`, on a thread of its own.
pub(super) fn enter<T: Send>(path: &Path, ask: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let file = open(path).map_err(|source| no_netns(path, source))?;
    ask_in(&file, path, ask)
}

/// Opens the namespace at `path`, which has to be the one with this cookie: a process's number may be another's by now.
pub fn open_netns(path: &Path, cookie: NetnsCookie) -> Result<OwnedFd, Error> {
    let file = open(path).map_err(|source| no_netns(path, source))?;
    let found = ask_in(&file, path, sys::cookie)?.map_err(|source| no_netns(path, source))?;
    if found != cookie {
        return Err(Error::Replaced(path.to_owned()));
    }
    Ok(file.into())
}

fn ask_in<T: Send>(file: &File, path: &Path, ask: impl FnOnce() -> T + Send) -> Result<T, Error> {
    let inside = move || setns(file, CloneFlags::CLONE_NEWNET).map(|()| ask());
    thread::scope(|scope| scope.spawn(inside).join())
        .unwrap_or(Err(nix::errno::Errno::EINVAL))
        .map_err(|errno| no_netns(path, errno.into()))
}

fn no_netns(path: &Path, source: io::Error) -> Error {
    Error::Path {
        path: path.to_owned(),
        source,
    }
}

/// Asks from inside, on a thread of its own: a thread that has been elsewhere is not used again.
fn look_inside(file: File, path: &Path, depth: Depth) -> Result<(NetnsCookie, Vec<Inner>, Inside), Error> {
    let inspect = |source| Error::Inspect {
        path: path.to_owned(),
        source,
    };
    let ask = move || -> Result<(NetnsCookie, Vec<Inner>, Inside), Error> {
        setns(file, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Path {
            path: path.to_owned(),
            source: errno.into(),
        })?;
        let cookie = sys::cookie().map_err(inspect)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .build()
            .map_err(inspect)?;
        let (links, inside) = runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().map_err(inspect)?;
            tokio::spawn(connection);
            let other = |error| inspect(io::Error::other(error));
            let links = links::inner(&handle).await.map_err(other)?;
            let inside = inside::look(&handle, depth)
                .await
                .map_err(|error| inspect(io::Error::other(error)))?;
            Ok::<_, Error>((links, inside))
        })?;
        Ok((cookie, links, inside))
    };
    thread::scope(|scope| scope.spawn(ask).join())
        .unwrap_or_else(|_| Err(inspect(io::Error::other("the thread inside it panicked"))))
}

/// The node's number for a namespace, if it has one.
async fn number(node: &mut Handle, file: &File) -> io::Result<Option<i32>> {
    let descriptor = u32::try_from(file.as_raw_fd()).map_err(io::Error::other)?;
    let mut question = NsidMessage::default();
    question.attributes.push(NsidAttribute::Fd(descriptor));
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(question));
    message.header.flags = NLM_F_REQUEST;
    let mut answers = node.request(message).map_err(io::Error::other)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) = answer.payload {
            let id = answer.attributes.iter().find_map(|attribute| {
                if let NsidAttribute::Id(id) = attribute {
                    Some(*id)
                } else {
                    None
                }
            });
            // -1 stands for "none".
            return Ok(id.filter(|id| *id >= 0));
        } else if let NetlinkPayload::Error(error) = answer.payload {
            return Err(error.to_io());
        }
    }
    Ok(None)
}
