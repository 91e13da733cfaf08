//! A request, read.

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, header},
};
use serde_json::Value;

use super::{access::User, refusal::Refusal, store::Key};

/// What is asked for, in the words of RBAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verb {
    /// One object.
    Get,
    /// All of them.
    List,
    /// All of them, from now on.
    Watch,
    /// A new one.
    Create,
    /// In place of what is there.
    Update,
    /// A change of what is there, or server-side apply.
    Patch,
    /// One away.
    Delete,
    /// All away.
    Deletecollection,
}

impl Verb {
    /// As it is written in a role.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::Deletecollection => "deletecollection",
        }
    }
}

/// What the path names.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) group: String,
    pub(super) version: String,
    pub(super) plural: String,
    pub(super) namespace: Option<String>,
    pub(super) name: Option<String>,
    pub(super) subresource: Option<String>,
}

impl Target {
    /// Reads a path. Those of discovery are none.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (group, version, rest) = match parts.as_slice() {
            ["api", version, rest @ ..] => ("", *version, rest),
            ["apis", group, version, rest @ ..] => (*group, *version, rest),
            _ => return None,
        };
        let (namespace, rest) = match rest {
            // These are of the namespace itself.
            ["namespaces", _, "status" | "finalize"] => (None, rest),
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (Some((*namespace).to_owned()), rest),
            rest => (None, rest),
        };
        let (plural, name, subresource) = match rest {
            [plural] => (plural, None, None),
            [plural, name] => (plural, Some(*name), None),
            [plural, name, subresource] => (plural, Some(*name), Some(*subresource)),
            _ => return None,
        };
        Some(Self {
            group: group.to_owned(),
            version: version.to_owned(),
            plural: (*plural).to_owned(),
            namespace,
            name: name.map(str::to_owned),
            subresource: subresource.map(str::to_owned),
        })
    }

    pub(super) fn key(&self) -> Key {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        (text(&self.namespace), text(&self.name))
    }

    /// Whether it is where tokens of service accounts are asked for.
    pub(super) fn is_token(&self) -> bool {
        self.plural == "serviceaccounts" && self.subresource.as_deref() == Some("token")
    }

    /// What a method does to it.
    pub(super) fn verb(&self, method: &Method, query: &Query) -> Result<Verb, Refusal> {
        let named = self.name.is_some();
        match method.as_str() {
            "GET" if query.is_true("watch") => Ok(Verb::Watch),
            "GET" if named => Ok(Verb::Get),
            "GET" => Ok(Verb::List),
            "POST" if !named || self.subresource.is_some() => Ok(Verb::Create),
            "PUT" if named => Ok(Verb::Update),
            "PATCH" if named => Ok(Verb::Patch),
            "DELETE" if named => Ok(Verb::Delete),
            "DELETE" => Ok(Verb::Deletecollection),
            _ => Err(Refusal::not_allowed()),
        }
    }
}

/// The parameters behind the question mark.
#[derive(Clone, Debug, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: &str) -> Self {
        Self(form_urlencoded::parse(text.as_bytes()).into_owned().collect())
    }

    /// A parameter, empty if it is not given.
    pub(super) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }

    pub(super) fn is_true(&self, name: &str) -> bool {
        ["true", "1"].contains(&self.get(name))
    }

    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refusal> {
        let text = self.get(name);
        if text.is_empty() {
            return Ok(None);
        }
        let number = text.parse();
        number
            .map(Some)
            .map_err(|_| Refusal::bad_request(format!("{name}: Invalid value: {text:?}: is no number")))
    }
}

/// A request for objects.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) verb: Verb,
    pub(super) target: Target,
    pub(super) query: Query,
    pub(super) user: User,
    /// Who writes, unless the request says who.
    pub(super) agent: String,
    pub(super) content: String,
    pub(super) accept: String,
    pub(super) body: Bytes,
}

impl Call {
    pub(super) fn new(
        method: &Method,
        target: Target,
        query: Query,
        headers: &HeaderMap,
        user: User,
        body: Bytes,
    ) -> Result<Self, Refusal> {
        let header = |name| {
            headers
                .get(name)
                .and_then(|value| value.to_str().ok())
                .unwrap_or("")
        };
        let agent = header(header::USER_AGENT).split('/').next().unwrap_or_default();
        let content = header(header::CONTENT_TYPE).split(';').next().unwrap_or_default();
        Ok(Self {
            verb: target.verb(method, &query)?,
            target,
            query,
            user,
            agent: agent.to_owned(),
            content: content.to_owned(),
            accept: header(header::ACCEPT).to_owned(),
            body,
        })
    }

    /// The manager of the fields that are written.
    pub(super) fn manager(&self) -> &str {
        match self.query.get("fieldManager") {
            "" if self.agent.is_empty() => "unknown",
            "" => &self.agent,
            manager => manager,
        }
    }

    /// The body, which may be YAML.
    pub(super) fn object(&self) -> Result<Value, Refusal> {
        if let Ok(value) = serde_json::from_slice(&self.body) {
            return Ok(value);
        }
        serde_saphyr::from_slice(&self.body)
            .map_err(|error| Refusal::bad_request(format!("the object cannot be read: {error}")))
    }
}
