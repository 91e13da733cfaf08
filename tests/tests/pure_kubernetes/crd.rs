//! What an API server accepts and refuses of a policy.

use kube::{
    Api,
    api::{DynamicObject, PostParams},
    core::{ApiResource, GroupVersionKind},
};
use rstest::rstest;

use super::*;

async fn create(server: &ApiServer, spec: &str) -> Result<kube::Result<DynamicObject>> {
    let yaml = format!(
        "apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{generateName: p-}}\nspec: {spec}\n"
    );
    let object: DynamicObject = serde_saphyr::from_str(&yaml)?;
    let kind = GroupVersionKind::gvk("sluice.dev", "v1alpha1", "EgressPolicy");
    let policies: Api<DynamicObject> = Api::all_with(
        server.client(&User::Admin)?,
        &ApiResource::from_gvk_with_plural(&kind, "egresspolicies"),
    );
    Ok(policies.create(&PostParams::default(), &object).await)
}

/// What the agent says of it.
fn agent_reads(spec: &str) -> Result<(), String> {
    use sluice::objects::{EgressPolicy, EgressPolicyManifest};
    let yaml =
        format!("apiVersion: sluice.dev/v1alpha1\nkind: EgressPolicy\nmetadata: {{name: p}}\nspec: {spec}\n");
    let manifest: EgressPolicyManifest = serde_saphyr::from_str(&yaml).map_err(|error| error.to_string())?;
    EgressPolicy::try_from(manifest).map_err(|error| error.to_string())?;
    Ok(())
}

fn exception(rest: &str) -> String {
    format!("{{exceptions: [{{name: x, {rest}}}]}}")
}

fn to(blocks: &str) -> String {
    exception(&format!("podSelector: {{}}, to: [{blocks}]"))
}

fn ports(ports: &str) -> String {
    exception(&format!("podSelector: {{}}, to: [], ports: [{ports}]"))
}

fn selector(expression: &str) -> String {
    format!("{{subjects: {{podSelector: {{matchExpressions: [{expression}]}}}}}}")
}

fn gateway(fields: &str) -> String {
    format!("{{gateways: [{{{fields}}}]}}")
}

/// What the server refuses, the agent refuses, too; and what it accepts, the agent can read.
#[rstest]
#[case::mode("{mode: Audit}".into(), "{mode: Enforced}".into(), "spec.mode")]
#[case::destinations("{gatewayDestinations: Any}".into(), "{gatewayDestinations: All}".into(), "spec.gatewayDestinations")]
#[case::on_deny("{onDeny: Drop}".into(), "{onDeny: drop}".into(), "spec.onDeny")]
#[case::host_network("{subjects: {hostNetwork: true}}".into(), "{subjects: {hostNetwork: perhaps}}".into(), "hostNetwork")]
#[case::namespace(gateway("namespace: a, gateway: b"), gateway("gateway: b"), "namespace")]
#[case::empty_namespace(
    gateway("namespace: a, podSelector: {}"),
    gateway("namespace: '', gateway: b"),
    "namespace"
)]
#[case::both(
    gateway("namespace: a, gateway: b"),
    gateway("namespace: a, gateway: b, podSelector: {}"),
    "exactly one of gateway"
)]
#[case::neither(
    gateway("namespace: a, podSelector: {}"),
    gateway("namespace: a"),
    "exactly one of gateway"
)]
#[case::empty_gateway(
    gateway("namespace: a, gateway: b"),
    gateway("namespace: a, gateway: ''"),
    "gateway"
)]
#[case::for_whom(
    exception("namespaceSelector: {}, to: []"),
    exception("to: []"),
    "say for whom"
)]
#[case::whereto(exception("podSelector: {}, to: []"), exception("podSelector: {}"), "to")]
#[case::name("{exceptions: [{name: x, podSelector: {}, to: []}]}".into(), "{exceptions: [{name: '', podSelector: {}, to: []}]}".into(), "name")]
#[case::names(
    "{exceptions: [{name: x, podSelector: {}, to: []}, {name: z, podSelector: {}, to: []}]}".into(),
    "{exceptions: [{name: x, podSelector: {}, to: []}, {name: x, podSelector: {}, to: []}]}".into(),
    "spec.exceptions[1]"
)]
#[case::cidr(to("{cidr: '2001:db8::/32'}"), to("{cidr: 192.0.2.1}"), "cidr")]
#[case::except_form(
    to("{cidr: 192.0.2.0/24, except: [192.0.2.8/29]}"),
    to("{cidr: 192.0.2.0/24, except: [192.0.2.8]}"),
    "except"
)]
#[case::within(
    to("{cidr: 192.0.2.0/24, except: [192.0.2.128/25]}"),
    to("{cidr: 192.0.2.0/24, except: [192.0.3.0/25]}"),
    "within"
)]
#[case::families(
    to("{cidr: '2001:db8::/32', except: ['2001:db8:1::/48']}"),
    to("{cidr: 0.0.0.0/0, except: ['2001:db8::/48']}"),
    "within"
)]
#[case::wider(
    to("{cidr: 192.0.2.0/24, except: [192.0.2.0/24]}"),
    to("{cidr: 192.0.2.0/24, except: [192.0.0.0/16]}"),
    "within"
)]
#[case::protocol(ports("{protocol: SCTP}"), ports("{protocol: GRE}"), "protocol")]
#[case::no_protocol(ports("{protocol: TCP}"), ports("{port: 80}"), "protocol")]
#[case::port(
    ports("{protocol: TCP, port: 65535}"),
    ports("{protocol: TCP, port: 0}"),
    "port"
)]
#[case::high_port(
    ports("{protocol: TCP, port: 1}"),
    ports("{protocol: TCP, port: 65536}"),
    "port"
)]
#[case::icmp(
    ports("{protocol: ICMP}"),
    ports("{protocol: ICMP, port: 8}"),
    "ICMP has no ports"
)]
#[case::icmp_end(
    ports("{protocol: ICMP}"),
    ports("{protocol: ICMP, endPort: 8}"),
    "ICMP has no ports"
)]
#[case::end_alone(
    ports("{protocol: UDP, port: 1, endPort: 1}"),
    ports("{protocol: UDP, endPort: 9}"),
    "write port"
)]
#[case::end_below(
    ports("{protocol: UDP, port: 1, endPort: 2}"),
    ports("{protocol: UDP, port: 2, endPort: 1}"),
    "below port"
)]
#[case::operator(
    selector("{key: a, operator: Exists}"),
    selector("{key: a, operator: Equals}"),
    "operator"
)]
#[case::key(
    selector("{key: a, operator: Exists}"),
    selector("{key: '', operator: Exists}"),
    "key"
)]
#[case::values(
    selector("{key: a, operator: In, values: [b]}"),
    selector("{key: a, operator: In}"),
    "at least one value"
)]
#[case::no_values(
    selector("{key: a, operator: Exists, values: []}"),
    selector("{key: a, operator: Exists, values: [b]}"),
    "take no values"
)]
#[tokio::test(flavor = "multi_thread")]
async fn the_server_refuses_what_the_agent_does(
    #[case] good: String,
    #[case] bad: String,
    #[case] words: &str,
) -> Result<()> {
    let server = cluster()?;
    create(&server, &good)
        .await?
        .with_context(|| format!("{good} was refused"))?;
    agent_reads(&good).map_err(anyhow::Error::msg)?;
    let refused = create(&server, &bad)
        .await?
        .err()
        .with_context(|| format!("{bad} was accepted"))?;
    let kube::Error::Api(status) = refused else {
        bail!("not by the server: {refused}");
    };
    assert_eq!(status.code, 422, "{}", status.message);
    assert!(status.message.contains(words), "{}", status.message);
    assert!(agent_reads(&bad).is_err(), "{bad}");
    Ok(())
}

/// What takes a comparison of prefixes passes the server; the agent refuses it, and says so in the status.
#[rstest]
#[case::host_bits(to("{cidr: 192.0.2.1/24}"))]
#[case::mapped(to("{cidr: '::ffff:192.0.2.0/120'}"))]
#[tokio::test(flavor = "multi_thread")]
async fn what_only_the_agent_can_tell_is_left_to_it(#[case] spec: String) -> Result<()> {
    let server = cluster()?;
    create(&server, &spec)
        .await?
        .context("the server has become cleverer: say so in crd.rs")?;
    assert!(agent_reads(&spec).is_err());
    Ok(())
}
