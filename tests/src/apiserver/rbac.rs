//! Who may do what, as the roles and bindings in the store say.

use serde_json::Value;

use super::{
    access::User,
    call::{Call, Target, Verb},
    kinds::Id,
    refusal::Refusal,
    store::Store,
};

const GROUP: &str = "rbac.authorization.k8s.io";

/// What somebody asked to do. Kept, so that a test can compare it with what a role grants.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Who.
    pub user: User,
    /// What.
    pub verb: Verb,
    /// Of the resource; empty for the core group.
    pub group: String,
    /// Plural, with the subresource behind a slash if it was for one.
    pub resource: String,
    /// Empty if it was for all of them.
    pub namespace: String,
    /// Empty if it was for all of them.
    pub name: String,
    /// Whether it was granted.
    pub allowed: bool,
}

impl Asked {
    fn of(call: &Call) -> Self {
        let Target {
            group,
            version: _,
            plural,
            namespace,
            name,
            subresource,
        } = &call.target;
        let resource = match subresource {
            Some(subresource) => format!("{plural}/{subresource}"),
            None => plural.clone(),
        };
        // Whoever lists one object by its name asks for that one.
        let mut fields = call.query.get("fieldSelector").split(',');
        let selected = fields.find_map(|term| term.strip_prefix("metadata.name="));
        let name = name
            .as_deref()
            .or(selected.map(|name| name.trim_start_matches('=')));
        Self {
            user: call.user.clone(),
            verb: call.verb,
            group: group.clone(),
            resource,
            namespace: namespace.clone().unwrap_or_default(),
            name: name.unwrap_or_default().to_owned(),
            allowed: false,
        }
    }

    fn refusal(&self) -> Refusal {
        let user = self.user.name();
        let Self {
            user: _,
            verb,
            group,
            resource,
            namespace,
            name,
            allowed: _,
        } = self;
        let qualified = if group.is_empty() {
            resource.split('/').next().unwrap_or_default().to_owned()
        } else {
            format!("{}.{group}", resource.split('/').next().unwrap_or_default())
        };
        let shown = if name.is_empty() {
            qualified
        } else {
            format!("{qualified} \"{name}\"")
        };
        let place = if namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{namespace}\"")
        };
        Refusal::forbidden(format!(
            "{shown} is forbidden: User \"{user}\" cannot {} resource \"{resource}\" in API group \"{group}\" {place}",
            verb.name()
        ))
    }
}

/// Whether the roles of whoever calls grant it, and what was asked.
pub(super) fn judge(store: &Store, call: &Call) -> (Asked, Result<(), Refusal>) {
    let mut asked = Asked::of(call);
    asked.allowed = asked.user == User::Admin || grants(store, &asked);
    let verdict = if asked.allowed {
        Ok(())
    } else {
        Err(asked.refusal())
    };
    (asked, verdict)
}

/// Discovery is for everybody who is known, health for all, as the bootstrap roles of the real server have it.
pub(super) fn may_read_path(user: &User, path: &str) -> Result<(), Refusal> {
    let health = ["/readyz", "/livez", "/healthz", "/version"];
    if *user != User::Anonymous || health.contains(&path) {
        return Ok(());
    }
    Err(Refusal::forbidden(format!(
        "forbidden: User \"{}\" cannot get path \"{path}\"",
        user.name()
    )))
}

fn grants(store: &Store, asked: &Asked) -> bool {
    let everywhere = Id::new(GROUP, "clusterrolebindings");
    let here = Id::new(GROUP, "rolebindings");
    let bindings = store.all(&everywhere).chain(
        store
            .all(&here)
            .filter(|(key, _)| !asked.namespace.is_empty() && key.0 == asked.namespace),
    );
    bindings
        .filter(|(_, binding)| is_bound(&binding.value, &asked.user))
        .filter_map(|(key, binding)| role(store, &key.0, &binding.value["roleRef"]))
        .flat_map(|role| role["rules"].as_array().into_iter().flatten())
        .any(|rule| covers(rule, asked))
}

fn is_bound(binding: &Value, user: &User) -> bool {
    let groups = user.groups();
    let mut subjects = binding["subjects"].as_array().into_iter().flatten();
    subjects.any(|subject| match (subject["kind"].as_str(), user) {
        (Some("ServiceAccount"), User::ServiceAccount(namespace, name)) => {
            subject["namespace"] == **namespace && subject["name"] == **name
        }
        (Some("Group"), _) => groups.iter().any(|group| subject["name"] == **group),
        (Some("User"), _) => subject["name"] == *user.name(),
        _ => false,
    })
}

fn role<'a>(store: &'a Store, namespace: &str, reference: &Value) -> Option<&'a Value> {
    let name = reference["name"].as_str()?.to_owned();
    let (id, namespace) = match reference["kind"].as_str()? {
        "ClusterRole" => (Id::new(GROUP, "clusterroles"), String::new()),
        _ => (Id::new(GROUP, "roles"), namespace.to_owned()),
    };
    store.get(&id, &(namespace, name)).map(|role| &role.value)
}

/// Whether a rule of a role covers what is asked.
pub(super) fn covers(rule: &Value, asked: &Asked) -> bool {
    let has = |field: &str, wanted: &str| {
        let mut list = rule[field].as_array().into_iter().flatten();
        list.any(|value| value == "*" || *value == *wanted)
    };
    let by_subresource = asked
        .resource
        .split_once('/')
        .is_some_and(|(_, subresource)| has("resources", &format!("*/{subresource}")));
    let names = rule["resourceNames"].as_array().filter(|names| !names.is_empty());
    has("verbs", asked.verb.name())
        && has("apiGroups", &asked.group)
        && (has("resources", &asked.resource) || by_subresource)
        && names.is_none_or(|names| !asked.name.is_empty() && names.iter().any(|name| *name == *asked.name))
}
