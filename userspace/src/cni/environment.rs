//! The arguments of a plugin, which are environment variables.

use std::path::PathBuf;

use super::error::Error;
use crate::facts::PodName;

/// How to ask for a variable.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the runtime wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    /// `CNI_COMMAND`.
    pub(super) fn read(lookup: Lookup<'_>) -> Result<Self, Error> {
        Ok(match required(lookup, "CNI_COMMAND")?.as_str() {
            "ADD" => Self::Add,
            "DEL" => Self::Del,
            "CHECK" => Self::Check,
            "GC" => Self::Gc,
            "STATUS" => Self::Status,
            "VERSION" => Self::Version,
            other => {
                return Err(Error::Environment(format!(
                    "CNI_COMMAND is {other:?}; expected ADD, DEL, CHECK, GC, STATUS or VERSION"
                )));
            }
        })
    }

    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }

    /// The first version of the protocol that has it and is spoken here.
    pub(super) const fn since(self) -> &'static str {
        match self {
            Self::Add | Self::Del | Self::Version => "0.3.0",
            Self::Check => "0.4.0",
            Self::Gc | Self::Status => "1.1.0",
        }
    }
}

/// A variable that must be there.
pub(super) fn required(lookup: Lookup<'_>, name: &'static str) -> Result<String, Error> {
    lookup(name)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| Error::Environment(format!("{name} is not set")))
}

/// `CNI_NETNS`. The runtime and the agent may see `/var/run` differently, so links before its last part are followed here.
pub(super) fn netns(lookup: Lookup<'_>) -> Result<PathBuf, Error> {
    let path = PathBuf::from(required(lookup, "CNI_NETNS")?);
    if !path.is_absolute() {
        let message = format!("CNI_NETNS is {}, which is no absolute path", path.display());
        return Err(Error::Environment(message));
    }
    let folder = path.parent().and_then(|folder| folder.canonicalize().ok());
    Ok(match (folder, path.file_name()) {
        (Some(folder), Some(name)) => folder.join(name),
        (None, _) | (_, None) => path,
    })
}

/// The pod that `CNI_ARGS` names, and its uid if the runtime says it. `None` for a container that is no pod's.
pub(super) fn pod(lookup: Lookup<'_>) -> Result<Option<(PodName, Option<String>)>, Error> {
    let text = lookup("CNI_ARGS").unwrap_or_default();
    let (mut namespace, mut name, mut uid) = (None, None, None);
    for pair in text.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(Error::Environment(format!("CNI_ARGS: {pair:?} is no KEY=VALUE")));
        };
        let place = match key {
            "K8S_POD_NAMESPACE" => &mut namespace,
            "K8S_POD_NAME" => &mut name,
            "K8S_POD_UID" => &mut uid,
            _ => continue,
        };
        *place = Some(value.to_owned()).filter(|value| !value.is_empty());
    }
    match (namespace, name) {
        (Some(namespace), Some(name)) => Ok(Some((PodName { namespace, name }, uid))),
        (None, None) => Ok(None),
        (Some(_), None) | (None, Some(_)) => Err(Error::Environment(
            "CNI_ARGS has only one of K8S_POD_NAMESPACE and K8S_POD_NAME".to_owned(),
        )),
    }
}
