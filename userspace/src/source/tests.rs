use std::{fs, path::Path, time::Duration};

use super::*;
use crate::problem::{Origin, Severity};

const NAMESPACE: &str = "apiVersion: v1\nkind: Namespace\nmetadata: {name: team}\n";
const POLICY: &str = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy
metadata: {name: one-way-out}
spec: {}
";

struct Rig {
    folder: tempfile::TempDir,
    directory: Directory,
}

impl Rig {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            fs::write(folder.path().join(name), text).expect("written");
        }
        let directory = Directory::open(folder.path()).expect("a directory");
        Self { folder, directory }
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path().join(name), text).expect("written");
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.path().join(name)).expect("removed");
    }

    /// What is there, and what is wrong with it, without the folder's name.
    fn load(&mut self) -> (Stores, Vec<String>) {
        let Loaded { stores, problems } = self.directory.load();
        let folder = format!("{}/", self.path().display());
        let words = |problem: &crate::problem::Problem| problem.to_string().replace(&folder, "");
        (stores, problems.iter().map(words).collect())
    }
}

/// On which line something is written.
fn line(origin: &Origin) -> u64 {
    match origin {
        Origin::File(place) => place.line,
        Origin::Cluster { .. } => panic!("not in a file"),
    }
}

/// The errors of one file.
fn errors(text: &str) -> String {
    let mut rig = Rig::new(&[("a.yaml", text)]);
    let (stores, problems) = rig.load();
    assert!(!stores.is_complete());
    problems.join("\n")
}

fn policy(spec: &str) -> String {
    format!(
        "# a comment\n---\napiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p}}\nspec:\n{spec}\n"
    )
}

#[test]
fn reads_what_it_knows_and_counts_the_rest() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: app}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: not-ours, namespace: egress}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: x}
---
# nothing
";
    let mut rig = Rig::new(&[
        ("a.yaml", text),
        ("b.yml", NAMESPACE),
        (".hidden.yaml", "{"),
        ("c.txt", "{"),
    ]);
    let (stores, problems) = rig.load();
    assert_eq!(problems, [""; 0]);
    assert!(stores.is_complete());
    let pod = stores.pods.values().next().expect("a pod");
    assert_eq!(pod.name.to_string(), "default/app");
    assert_eq!(line(&pod.origin), 2);
    assert_eq!(stores.namespaces.len(), 1);
    assert!(stores.gateways.is_empty());
    let ignored: Vec<_> = stores
        .ignored
        .iter()
        .map(|(kind, n)| format!("{}/{} {n}", kind.api_version, kind.kind))
        .collect();
    assert_eq!(ignored, ["networking.istio.io/v1/Gateway 1", "v1/ConfigMap 1"]);
}

#[test]
fn errors_say_where_and_what_was_expected() {
    insta::assert_snapshot!(errors("apiVersion: v1\nkind: Pod\nmetadata:\n  name: [a\n---\na: b\n"), @r#"
    a.yaml:4:9: unclosed bracket '['
    a.yaml:6: apiVersion and kind are missing; a document is a Kubernetes object, and lines that begin with --- divide documents
    "#);
    insta::assert_snapshot!(errors(&policy("  mode: Enforced")), @"a.yaml:7:9: unknown variant `Enforced`, expected one of Enforce, Audit");
    insta::assert_snapshot!(errors(&policy("  subject: {}")), @"a.yaml:7:3: unknown field `subject`, expected one of mode, subjects, gateways, gatewayDestinations, exceptions, onDeny");
    insta::assert_snapshot!(errors(&policy("  subjects: {hostNetwork: perhaps}")), @"a.yaml:7:27: expected true or false");
    insta::assert_snapshot!(errors("apiVersion: v1\nkind: List\nitems: []\n"), @"a.yaml:1: a List is not read; write its items as documents of their own, divided by lines of ---");
    insta::assert_snapshot!(errors("apiVersion: v1\nkind: Pod\nmetadata: {}\n"), @"a.yaml:1: metadata.name: missing; every object has one");
    insta::assert_snapshot!(errors("\n\napiVersion: v1\nkind: Pod\nmetadata: {name: a}\nstatus: {podIPs: [{ip: 10.0.0}]}\n"), @r#"a.yaml:3: status.podIPs[0].ip: "10.0.0" is not an IP address"#);
    insta::assert_snapshot!(errors("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  resolution: DSN\n"), @"a.yaml:6:15: unknown variant `DSN`, expected one of NONE, STATIC, DNS, DNS_ROUND_ROBIN, DYNAMIC_DNS");
    insta::assert_snapshot!(errors("apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: a}\nspec:\n  hosts: [a]\n  ports: [{number: 70000}]\n"), @"a.yaml:6:20: expected a number from 0 to 65535");
}

#[test]
fn policies_are_checked_field_by_field() {
    let exception = |rest: &str| {
        errors(&policy(&format!(
            "  exceptions:\n  - name: x\n    podSelector: {{}}\n{rest}"
        )))
    };
    insta::assert_snapshot!(exception("    to: [{cidr: 192.0.2.1/24}]"), @"a.yaml:10:17: spec.exceptions[0].to[0].cidr: 192.0.2.1/24 has bits behind its prefix; write 192.0.2.0/24");
    insta::assert_snapshot!(exception("    to: [{cidr: 192.0.2.1}]"), @r#"a.yaml:10:17: spec.exceptions[0].to[0].cidr: "192.0.2.1" is not a CIDR prefix such as 192.0.2.0/24 or 2001:db8::/32; a single address ends in /32 or /128"#);
    insta::assert_snapshot!(exception("    to: [{cidr: '::ffff:192.0.2.0/120'}]"), @"a.yaml:10:17: spec.exceptions[0].to[0].cidr: ::ffff:192.0.2.0/120 is IPv4 in IPv6's clothes; write 192.0.2.0/24");
    insta::assert_snapshot!(exception("    to:\n    - cidr: 192.0.2.0/24\n      except: [192.0.3.0/25]"), @"a.yaml:12:16: spec.exceptions[0].to[0].except[0]: 192.0.3.0/25 is not within 192.0.2.0/24, so there is nothing to except");
    insta::assert_snapshot!(exception("    to: []\n    ports: [{protocol: TCP, port: 0}]"), @"a.yaml:11:35: spec.exceptions[0].ports[0].port: 0 is not a port: 1 to 65535");
    insta::assert_snapshot!(exception("    to: []\n    ports: [{protocol: TCP, port: 80, endPort: 79}]"), @"a.yaml:11:48: spec.exceptions[0].ports[0].endPort: 79 is below port, which is 80");
    insta::assert_snapshot!(exception("    to: []\n    ports: [{protocol: TCP, endPort: 79}]"), @"a.yaml:11:38: spec.exceptions[0].ports[0].endPort: only together with port");
    insta::assert_snapshot!(exception("    to: []\n    ports: [{protocol: ICMP, port: 8}]"), @"a.yaml:11:36: spec.exceptions[0].ports[0].port: ICMP has no ports; leave it out");
    insta::assert_snapshot!(exception("    to: []\n    ports: [{protocol: ESP}]"), @"a.yaml:11:24: unknown variant `ESP`, expected one of TCP, UDP, SCTP, ICMP");
    insta::assert_snapshot!(exception("    to: []\n  - {name: x, podSelector: {}, to: []}"), @r#"a.yaml:11:12: spec.exceptions[1].name: another exception has the name "x", too"#);
    insta::assert_snapshot!(errors(&policy("  exceptions: [{name: x, to: []}]")), @"a.yaml:7:16: spec.exceptions[0]: say for whom: podSelector or namespaceSelector; write podSelector: {} for every subject");
    insta::assert_snapshot!(errors(&policy("  gateways:\n  - gateway: waypoint")), @"a.yaml:8:5: spec.gateways[0].namespace: missing; a gateway is always bound to a namespace, as anybody may write a label");
    insta::assert_snapshot!(errors(&policy("  gateways:\n  - {namespace: a, gateway: b, podSelector: {}}")), @"a.yaml:8:5: spec.gateways[0]: write exactly one of gateway (the name of a Gateway) and podSelector");
    insta::assert_snapshot!(errors(&policy("  subjects: {podSelector: {matchExpressions: [{key: a, operator: In}]}}")), @"a.yaml:7:47: spec.subjects.podSelector.matchExpressions[0].values: empty; In needs at least one");
    insta::assert_snapshot!(errors(&policy("  subjects: {podSelector: {matchExpressions: [{key: a, operator: Exists, values: [b]}]}}")), @"a.yaml:7:47: spec.subjects.podSelector.matchExpressions[0].values: Exists takes none; leave them out");
    insta::assert_snapshot!(errors(&policy("  subjects: {podSelector: {matchExpressions: [{key: a, operator: Is}]}}")), @"a.yaml:7:66: unknown variant `Is`, expected one of In, NotIn, Exists, DoesNotExist");
    insta::assert_snapshot!(errors(&policy("  {}").replace("{name: p}", "{name: p, namespace: q}")), @"a.yaml:5:11: metadata.namespace: an EgressPolicy is cluster-scoped; leave the namespace out");
}

#[test]
fn a_broken_file_keeps_its_last_good_version_and_only_its_own() {
    let mut rig = Rig::new(&[("a.yaml", NAMESPACE), ("b.yaml", POLICY)]);
    rig.load();
    rig.write("b.yaml", &POLICY.replace("spec: {}", "spec: {nonsense: 1}"));
    rig.write("a.yaml", &NAMESPACE.replace("team", "other"));
    let (stores, problems) = rig.load();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(stores.is_complete());
    assert!(stores.policies.contains_key("one-way-out"));
    assert!(stores.namespaces.contains_key("other"));
    // Still so, without a change.
    assert_eq!(rig.load().1, problems);
    rig.remove("b.yaml");
    let (stores, problems) = rig.load();
    assert_eq!((problems.len(), stores.policies.len()), (0, 0));
}

#[test]
fn without_a_last_good_version_the_source_is_incomplete_until_it_is_repaired() {
    let mut rig = Rig::new(&[("a.yaml", NAMESPACE), ("b.yaml", "{")]);
    assert!(!rig.load().0.is_complete());
    rig.write("b.yaml", POLICY);
    assert!(rig.load().0.is_complete());
    // From then on what is new and broken was not there before.
    rig.write("c.yaml", "{");
    let (stores, problems) = rig.load();
    assert!(stores.is_complete());
    assert_eq!(problems.len(), 1);
}

#[test]
fn an_object_is_in_one_place_only() {
    insta::assert_snapshot!(errors(&format!("{NAMESPACE}---\n{NAMESPACE}")), @"a.yaml:5: Namespace team: is in a.yaml:1 already; an object may be in one place only");
    let mut rig = Rig::new(&[("a.yaml", NAMESPACE)]);
    rig.load();
    let other = format!("{NAMESPACE}---\n{POLICY}");
    rig.write("b.yaml", &other);
    let (stores, problems) = rig.load();
    insta::assert_snapshot!(problems.join("\n"), @"b.yaml:1: Namespace team: is in a.yaml:1 already; an object may be in one place only");
    assert_eq!(
        stores.policies.len(),
        0,
        "the file that brings a duplicate is broken"
    );
    // An object may move from one file to another, in whichever order that is seen.
    rig.remove("a.yaml");
    let (stores, problems) = rig.load();
    assert_eq!(
        (problems.len(), stores.policies.len(), stores.namespaces.len()),
        (0, 1, 1)
    );
    rig.write("b.yaml", POLICY);
    rig.write("a.yaml", NAMESPACE);
    let (stores, problems) = rig.load();
    assert_eq!(
        (problems.len(), stores.policies.len(), stores.namespaces.len()),
        (0, 1, 1)
    );
}

#[test]
fn what_has_not_changed_in_a_file_is_not_read_again_and_keeps_its_place() {
    let other = NAMESPACE.replace("team", "other");
    let mut rig = Rig::new(&[("a.yaml", &format!("{NAMESPACE}---\n{POLICY}"))]);
    let (before, _) = rig.load();
    rig.write("a.yaml", &format!("{NAMESPACE}---\n{other}---\n{POLICY}"));
    let (after, problems) = rig.load();
    assert_eq!((problems.len(), after.namespaces.len()), (0, 2));
    assert!(std::sync::Arc::ptr_eq(
        &before.namespaces["team"],
        &after.namespaces["team"]
    ));
    let of_policy = |stores: &Stores| line(&stores.policies["one-way-out"].origin);
    assert_eq!((of_policy(&before), of_policy(&after)), (6, 10));
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    let mut rig = Rig::new(&[("a.yaml", &format!("{NAMESPACE}---\n{POLICY}"))]);
    rig.load();
    // Truncated: an empty file is valid, and would take the policy away.
    let mut writer = fs::File::create(rig.path().join("a.yaml")).expect("opened");
    let (stores, problems) = rig.load();
    assert_eq!((problems.len(), stores.policies.len()), (0, 1));
    std::io::Write::write_all(&mut writer, NAMESPACE.as_bytes()).expect("written");
    assert_eq!(rig.load().0.policies.len(), 1);
    drop(writer);
    assert_eq!(rig.load().0.policies.len(), 0);
}

/// A writer that empties the file and fills it again, over and over, beside a reader.
#[test]
fn a_file_that_is_written_anew_is_never_seen_empty() {
    let mut rig = Rig::new(&[("a.yaml", POLICY)]);
    rig.load();
    let (path, ends) = (
        rig.path().join("a.yaml"),
        std::sync::atomic::AtomicBool::new(false),
    );
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ends.load(std::sync::atomic::Ordering::Relaxed) {
                fs::write(&path, POLICY).expect("written");
            }
        });
        let whole = (0..2_000).all(|_| rig.load().0.policies.len() == 1);
        ends.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(whole, "a policy has vanished while its file was written");
    });
}

#[test]
fn a_directory_that_vanishes_takes_nothing_with_it() {
    let mut rig = Rig::new(&[("a.yaml", POLICY)]);
    rig.load();
    let aside = rig.path().with_extension("aside");
    fs::rename(rig.path(), &aside).expect("renamed");
    let Loaded { stores, problems } = rig.directory.load();
    assert_eq!(stores.policies.len(), 1);
    assert!(problems.iter().all(|problem| problem.severity == Severity::Error) && !problems.is_empty());
    // An empty directory in its place is a volume that is not mounted.
    fs::create_dir(rig.path()).expect("made");
    assert_eq!(rig.directory.load().stores.policies.len(), 1);
    fs::remove_dir(rig.path()).expect("removed");
    fs::rename(&aside, rig.path()).expect("renamed");
    let (stores, problems) = rig.load();
    assert_eq!((problems.len(), stores.policies.len()), (0, 1));
    // In its own place it may be emptied.
    rig.remove("a.yaml");
    assert_eq!(rig.load().0.policies.len(), 0);
}

#[test]
fn an_empty_directory_at_the_start_is_not_complete() {
    let mut rig = Rig::new(&[]);
    assert!(!rig.load().0.is_complete());
    assert!(Directory::open(rig.path().join("missing")).is_err());
}

/// How long a test waits for what must come; only one that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn changes_are_noticed() {
    let mut rig = Rig::new(&[("a.yaml", NAMESPACE)]);
    rig.load();
    let a_moment = Duration::from_millis(90);
    assert!(
        tokio::time::timeout(a_moment, rig.directory.changed())
            .await
            .is_err(),
        "nothing has happened"
    );
    rig.write("b.yaml", POLICY);
    tokio::time::timeout(PATIENCE, rig.directory.changed())
        .await
        .expect("a new file");
    assert_eq!(rig.load().0.policies.len(), 1);
    // Files of a mounted ConfigMap are links to links, one of which is replaced.
    for version in ["..1", "..2"] {
        fs::create_dir(rig.path().join(version)).expect("made");
        fs::write(
            rig.path().join(version).join("m.yaml"),
            NAMESPACE.replace("team", version),
        )
        .expect("written");
    }
    std::os::unix::fs::symlink("..1", rig.path().join("..data")).expect("linked");
    std::os::unix::fs::symlink("..data/m.yaml", rig.path().join("m.yaml")).expect("linked");
    tokio::time::timeout(PATIENCE, rig.directory.changed())
        .await
        .expect("a link");
    assert!(rig.load().0.namespaces.contains_key("..1"));
    std::os::unix::fs::symlink("..2", rig.path().join("..data_tmp")).expect("linked");
    fs::rename(rig.path().join("..data_tmp"), rig.path().join("..data")).expect("renamed");
    tokio::time::timeout(PATIENCE, rig.directory.changed())
        .await
        .expect("another version");
    assert!(rig.load().0.namespaces.contains_key("..2"));
}

#[test]
fn the_shape_that_policies_have_in_the_documents_is_read() {
    let text = "
apiVersion: sluice.dev/v1alpha1
kind: EgressPolicy                 # cluster-scoped; several combine: subjects union, deny wins
metadata: {name: one-way-out}
spec:
  mode: Enforce                    # Enforce | Audit: decide and report, drop nothing
  subjects:                        # who is held to it; absent: every pod but the gateways
    namespaceSelector: {}
    podSelector: {}
    hostNetwork: false             # true: hostNetwork pods too
  gateways:                        # who may leave; bound to a namespace, so that a label alone is not enough
  - {namespace: egress, gateway: waypoint}           # pods of that Gateway API Gateway
  - {namespace: istio-system, podSelector: {matchLabels: {istio: egressgateway}}}
  gatewayDestinations: Registry    # Registry (REGISTRY_ONLY) | Any (ALLOW_ANY)
  exceptions:                      # subjects may go here without a gateway
  - name: time
    podSelector: {}
    to: [{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}]
    ports: [{protocol: UDP, port: 123}]
  onDeny: Reject                   # Reject: connect() fails at once, RST / ICMP prohibited | Drop: silence
";
    let mut rig = Rig::new(&[("a.yaml", text)]);
    let (stores, problems) = rig.load();
    assert_eq!(problems, [""; 0]);
    let policy = &stores.policies["one-way-out"];
    assert_eq!((policy.gateways.len(), policy.exceptions.len()), (2, 1));
}
