//! The values of annotations, and what is wrong with them.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    objects::{ObjectRef, Pod, Stored, canonical_net, parse_bool},
    problem::{Problem, Severity},
};

/// The kernel's names of devices have 15 octets at the most (`IFNAMSIZ`).
const DEVICE_NAME_LEN: usize = 15;

/// A list, or everything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Listed<T> {
    /// `*`.
    Everything,
    /// These.
    Only(Vec<T>),
}

/// Reads the annotations of a pod, and notes what cannot be read: what that is taken for captures more, not less.
pub(super) struct Reader<'a> {
    pod: &'a Stored<Pod>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(pod: &'a Stored<Pod>) -> Self {
        Self {
            pod,
            problems: Vec::new(),
        }
    }

    /// What was wrong.
    pub(super) fn finish(self) -> Vec<Problem> {
        self.problems
    }

    pub(super) const fn pod(&self) -> &'a Stored<Pod> {
        self.pod
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.pod.mesh.annotations.contains_key(key)
    }

    /// Notes a problem with the pod.
    pub(super) fn warn(&mut self, severity: Severity, message: String) {
        let problem = Problem::new(severity, message)
            .about(ObjectRef::from(&self.pod.name))
            .at(self.pod.origin.clone());
        self.problems.push(problem);
    }

    fn value(&self, key: &str) -> Option<&'a str> {
        self.pod.mesh.annotation(key)
    }

    fn invalid(&mut self, key: &str, value: &str, expected: &str, taken: &str) {
        let message = format!("annotation {key}: {value:?} is not {expected}; {taken}");
        self.warn(Severity::Warning, message);
    }

    /// A truth; what cannot be read is none.
    pub(super) fn truth(&mut self, key: &str) -> Option<bool> {
        let value = self.value(key)?;
        let read = parse_bool(value);
        if read.is_none() {
            self.invalid(key, value, "true or false", "it is ignored");
        }
        read
    }

    /// A list of ranges that are included; `None` if there is no such annotation.
    pub(super) fn included_ranges(&mut self, key: &str) -> Option<Listed<IpNet>> {
        let value = self.value(key)?;
        Some(self.included(key, value, "a range (CIDR)", range))
    }

    /// A list of ports that are included; `None` if there is no such annotation.
    pub(super) fn included_ports(&mut self, key: &str) -> Option<Listed<u16>> {
        let value = self.value(key)?;
        Some(self.included(key, value, "a port", port))
    }

    /// A list of ranges that are excluded.
    pub(super) fn excluded_ranges(&mut self, key: &str) -> Vec<IpNet> {
        self.excluded(key, "a range (CIDR)", range).unwrap_or_default()
    }

    /// A list of ports that are excluded; `None` if there is no such annotation.
    pub(super) fn excluded_ports(&mut self, key: &str) -> Option<Vec<u16>> {
        self.excluded(key, "a port", port)
    }

    /// Names of devices.
    pub(super) fn devices(&mut self, key: &str) -> BTreeSet<String> {
        let names = self.excluded(key, "the name of a device", device);
        names.unwrap_or_default().into_iter().collect()
    }

    /// One port.
    pub(super) fn port(&mut self, key: &str, default: u16) -> u16 {
        let Some(value) = self.value(key) else {
            return default;
        };
        port(value.trim()).unwrap_or_else(|| {
            let taken = format!("{default} is taken for it");
            self.invalid(key, value, "a port", &taken);
            default
        })
    }

    /// One of some words.
    pub(super) fn word(&mut self, key: &str, known: &[&str], expected: &str) {
        if let Some(value) = self.value(key)
            && !known.contains(&value)
        {
            self.invalid(key, value, expected, "it is ignored");
        }
    }

    fn included<T>(
        &mut self,
        key: &str,
        value: &str,
        what: &str,
        read: impl Fn(&str) -> Option<T>,
    ) -> Listed<T> {
        if value.trim() == "*" {
            return Listed::Everything;
        }
        let mut only = Vec::new();
        for item in items(value) {
            let Some(item) = read(item) else {
                let taken = format!("{value:?} is taken for *, so that nothing escapes");
                self.invalid(key, item, what, &taken);
                return Listed::Everything;
            };
            only.push(item);
        }
        Listed::Only(only)
    }

    fn excluded<T>(&mut self, key: &str, what: &str, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
        let value = self.value(key)?;
        let mut excluded = Vec::new();
        for item in items(value) {
            match read(item) {
                Some(item) => excluded.push(item),
                None => self.invalid(key, item, what, "it is left out"),
            }
        }
        Some(excluded)
    }
}

/// The items of a list; as in Istio, none of them is empty.
fn items(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty())
}

/// As `net.ParseCIDR` in Go: an address alone is no range.
fn range(text: &str) -> Option<IpNet> {
    let net: IpNet = text.parse().ok()?;
    Some(canonical_net(net).trunc())
}

/// As `strconv.ParseUint` in Go: digits and nothing else.
fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

fn device(text: &str) -> Option<String> {
    let letter = |character: char| !character.is_whitespace() && !matches!(character, '/' | ':');
    let known = text.len() <= DEVICE_NAME_LEN && text.chars().all(letter) && !matches!(text, "." | "..");
    known.then(|| text.to_owned())
}
