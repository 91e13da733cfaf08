//! The requests that are made of an API server.
//!
//! kube's own `watcher` keeps to itself when the server last said a word (bookmarks), reads all objects of a page whole,
//! so that one that cannot be read hides the others, and takes a version that is too old (HTTP 410) for one to try again.

use std::time::Duration;

use futures_util::{AsyncBufReadExt as _, Stream, StreamExt as _, io};
use kube::{
    Client,
    api::{ListParams, Request, WatchParams},
    core::Status,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{item::Item, target::Target};
use crate::objects::Kind;

/// How many objects are asked for at once: pages bound how much of a list is in memory.
const PAGE: u32 = 250;
/// For how long an answer, or the beginning of one, is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// For how long the server keeps a watch open, in seconds; not the same for all, or they would all come back at once.
const WATCH: std::ops::Range<u32> = 240..300;
/// By how much the server may be late in closing it.
const MARGIN: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The server has no such kind.
    #[error("the server has no {0}")]
    NotServed(String),
    /// The server no longer knows what has changed since; what there is has to be listed again.
    #[error("the server no longer knows what has changed since the last word")]
    Expired,
    /// The server does not let this agent.
    #[error("{message}; does the agent's ClusterRole have list and watch on {resource}?")]
    Forbidden {
        /// What it is not let at.
        resource: String,
        /// What the server says.
        message: String,
    },
    /// The server does not know this agent.
    #[error("{0}; has its token expired?")]
    Unauthorized(String),
    /// The server says no.
    #[error("the server says: {message} ({code})")]
    Refused {
        /// HTTP status.
        code: u16,
        /// What it says.
        message: String,
    },
    /// There is no server, or no way to it.
    #[error("the server cannot be reached: {0}")]
    Unreachable(String),
    /// Nothing has come for too long.
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Silent,
    /// What it says is not understood.
    #[error("the server's answer is not understood: {0}")]
    Answer(#[from] serde_json::Error),
}

impl Error {
    fn of_status(status: &Status, target: &Target) -> Self {
        let message = status.message.clone();
        match status.code {
            401 => Self::Unauthorized(message),
            403 => Self::Forbidden {
                resource: target.resource(),
                message,
            },
            404 => Self::NotServed(target.resource()),
            410 => Self::Expired,
            code => Self::Refused { code, message },
        }
    }

    fn of(error: &kube::Error, target: &Target) -> Self {
        if let kube::Error::Api(status) = error {
            return Self::of_status(status, target);
        }
        // The outermost of them say no more than that they are errors of a request.
        let mut innermost: &dyn std::error::Error = error;
        while let Some(source) = innermost.source() {
            innermost = source;
        }
        Self::Unreachable(innermost.to_string())
    }
}

/// A page of a list.
pub(super) struct Page {
    pub(super) items: Vec<Item>,
    /// The version of the list as a whole.
    pub(super) version: String,
    /// Where it goes on.
    pub(super) next: Option<String>,
}

#[derive(Deserialize)]
struct RawPage<'a> {
    metadata: RawMetadata,
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

/// What a watch brings.
pub(super) enum Event {
    /// An object is new, or another.
    Applied(Item),
    /// An object is gone.
    Deleted(Item),
    /// Nothing has happened up to this version.
    Bookmark(String),
}

#[derive(Deserialize)]
struct RawEvent<'a> {
    r#type: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize)]
struct RawBookmark {
    metadata: RawMetadata,
}

/// The best of the target's versions that the server has.
pub(super) async fn served(client: &Client, target: &Target) -> Result<&'static str, Error> {
    let absent = || Error::NotServed(target.resource());
    let groups = in_time(client.list_api_groups())
        .await?
        .map_err(|error| Error::of(&error, target))?;
    let group = groups
        .groups
        .into_iter()
        .find(|group| group.name == target.group)
        .ok_or_else(absent)?;
    for version in target.versions {
        if !group.versions.iter().any(|served| served.version == *version) {
            continue;
        }
        let api_version = target.api_version(version);
        let resources = in_time(client.list_api_group_resources(&api_version)).await?;
        let resources = resources.map_err(|error| Error::of(&error, target))?;
        if resources
            .resources
            .iter()
            .any(|resource| resource.name == target.plural)
        {
            return Ok(version);
        }
    }
    Err(absent())
}

/// The page of a list that begins with `next`.
pub(super) async fn list(
    client: &Client,
    target: &Target,
    version: &str,
    next: Option<String>,
) -> Result<Page, Error> {
    let parameters = ListParams {
        label_selector: target.labels.clone(),
        field_selector: target.fields.clone(),
        limit: Some(PAGE),
        continue_token: next,
        ..ListParams::default()
    };
    let request = Request::new(target.path(version)).list(&parameters);
    let request = request.map_err(|error| Error::of(&kube::Error::BuildRequest(error), target))?;
    let text = in_time(client.request_text(request)).await?;
    let text = text.map_err(|error| Error::of(&error, target))?;
    let RawPage { metadata, items } = serde_json::from_str(&text)?;
    let items = items.unwrap_or_default();
    let read = |item: &RawValue| Item::read(target.kind, item.get());
    Ok(Page {
        items: items.into_iter().map(read).collect::<Result<_, _>>()?,
        version: metadata.resource_version,
        next: Some(metadata.r#continue).filter(|next| !next.is_empty()),
    })
}

/// What changes from `since` on. It ends when the server, or the way to it, does so.
pub(super) async fn watch<'a>(
    client: &Client,
    target: &'a Target,
    version: &str,
    since: &str,
    jitter: u32,
) -> Result<impl Stream<Item = Result<Event, Error>> + use<'a>, Error> {
    let seconds = WATCH.start + jitter % (WATCH.end - WATCH.start);
    let parameters = WatchParams {
        label_selector: target.labels.clone(),
        field_selector: target.fields.clone(),
        timeout: Some(seconds),
        bookmarks: true,
        send_initial_events: false,
    };
    let request = Request::new(target.path(version)).watch(&parameters, since);
    let request = request.map_err(|error| Error::of(&kube::Error::BuildRequest(error), target))?;
    let lines = in_time(client.request_stream(request)).await?;
    let lines = Box::pin(lines.map_err(|error| Error::of(&error, target))?).lines();
    let ends = tokio::time::Instant::now() + Duration::from_secs(seconds.into()) + MARGIN;
    let until = Box::pin(tokio::time::sleep_until(ends));
    Ok(lines.take_until(until).map(move |line| event(&line?, target)))
}

/// Reads a line of a watch.
fn event(line: &str, target: &Target) -> Result<Event, Error> {
    let RawEvent { r#type, object } = serde_json::from_str(line)?;
    let item = |kind: Kind| Item::read(kind, object.get());
    match r#type {
        "ADDED" | "MODIFIED" => Ok(Event::Applied(item(target.kind)?)),
        "DELETED" => Ok(Event::Deleted(item(target.kind)?)),
        "BOOKMARK" => {
            let RawBookmark { metadata } = serde_json::from_str(object.get())?;
            Ok(Event::Bookmark(metadata.resource_version))
        }
        _ => Err(Error::of_status(&serde_json::from_str(object.get())?, target)),
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.to_string())
    }
}

async fn in_time<T>(answer: impl Future<Output = T>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, answer)
        .await
        .map_err(|_| Error::Silent)
}
