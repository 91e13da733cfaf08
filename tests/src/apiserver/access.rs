//! Who asks: bearer tokens of service accounts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::call::Target;

/// Whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum User {
    /// No token came along.
    Anonymous,
    /// The test itself, who may do everything.
    Admin,
    /// A service account: its namespace and name.
    ServiceAccount(String, String),
}

impl User {
    /// As the server calls it in a refusal.
    pub fn name(&self) -> String {
        match self {
            Self::Anonymous => "system:anonymous".to_owned(),
            Self::Admin => "kubernetes-admin".to_owned(),
            Self::ServiceAccount(namespace, name) => format!("system:serviceaccount:{namespace}:{name}"),
        }
    }

    /// The namespace that it works in unless it names another: a service account's own.
    pub fn namespace(&self) -> &str {
        match self {
            Self::Anonymous | Self::Admin => "default",
            Self::ServiceAccount(namespace, _) => namespace,
        }
    }

    /// The groups that it is in.
    pub(super) fn groups(&self) -> Vec<String> {
        match self {
            Self::Anonymous => vec!["system:unauthenticated".to_owned()],
            Self::Admin => vec!["system:masters".to_owned(), "system:authenticated".to_owned()],
            Self::ServiceAccount(namespace, _) => vec![
                "system:serviceaccounts".to_owned(),
                format!("system:serviceaccounts:{namespace}"),
                "system:authenticated".to_owned(),
            ],
        }
    }
}

/// The answer to a `TokenRequest` for the service account that a path names.
pub(super) fn token_request(tokens: &mut Tokens, target: &Target) -> Value {
    let (namespace, name) = target.key();
    json!({
        "kind": "TokenRequest",
        "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": name, "namespace": namespace},
        "status": {"token": tokens.issue(User::ServiceAccount(namespace.clone(), name.clone()))},
    })
}

/// The tokens that are good.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    users: BTreeMap<String, User>,
    issued: u32,
}

impl Tokens {
    pub(super) fn issue(&mut self, user: User) -> String {
        self.issued += 1;
        let token = format!("{}-{}", user.name().replace(':', "."), self.issued);
        self.users.insert(token.clone(), user);
        token
    }

    /// No token of this user is good any longer.
    pub(super) fn revoke(&mut self, user: &User) {
        self.users.retain(|_, owner| owner != user);
    }

    /// Whose token it is that came along with a request.
    pub(super) fn user(&self, authorization: Option<&str>) -> Option<User> {
        let Some(header) = authorization else {
            return Some(User::Anonymous);
        };
        self.users.get(header.strip_prefix("Bearer ")?.trim()).cloned()
    }
}
