//! Kinds of CustomResourceDefinitions.

use kube::{
    api::{ApiResource, DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
};
use sluice_tests::apiserver::crds;

use super::*;

const GADGETS: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: gadgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Gadget, listKind: GadgetList, plural: gadgets, singular: gadget}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns:
    - {name: Mode, type: string, jsonPath: .spec.mode}
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [mode]
            x-kubernetes-validations:
            - {rule: "!has(self.last) || self.first <= self.last", message: last is below first}
            - {rule: "self.mode == oldSelf.mode", message: mode stays}
            properties:
              mode: {type: string, enum: [Fast, Slow]}
              name: {type: string, pattern: "^[a-z]+$", maxLength: 5}
              first: {type: integer, format: int32, minimum: 1, maximum: 10, default: 1}
              last: {type: integer}
              size: {x-kubernetes-int-or-string: true}
              ranges:
                type: array
                maxItems: 2
                items:
                  type: object
                  required: [cidr]
                  properties:
                    cidr: {type: string, format: cidr}
                    except: {type: array, items: {type: string}}
                  x-kubernetes-validations:
                  - rule: "!has(self.except) || self.except.all(hole, cidr(self.cidr).containsCIDR(hole))"
                    messageExpression: "'not within ' + self.cidr"
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, value: {type: integer}}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items: {type: object, required: [type], properties: {type: {type: string}, status: {type: string}}}
"#;

fn resource() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("example.com", "v1", "Gadget"))
}

fn gadgets() -> Result<(ApiServer, Api<DynamicObject>)> {
    let (server, client) = stand()?;
    server.apply(GADGETS)?;
    Ok((server, Api::default_namespaced_with(client, &resource())))
}

fn gadget(spec: &Value) -> Result<DynamicObject> {
    let spec =
        json!({"apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "one"}, "spec": spec});
    typed(spec)
}

#[tokio::test]
async fn a_kind_is_served_while_its_definition_is_there() -> Result<()> {
    let (server, client) = stand()?;
    let gadgets: Api<DynamicObject> = Api::default_namespaced_with(client.clone(), &resource());
    assert_eq!(code(gadgets.list(&ListParams::default()).await)?, 404);
    server.apply(GADGETS)?;
    assert!(gadgets.list(&ListParams::default()).await?.items.is_empty());
    assert_eq!(
        client
            .list_api_group_resources("example.com/v1")
            .await?
            .resources
            .len(),
        2
    );
    gadgets
        .create(&PostParams::default(), &gadget(&json!({"mode": "Fast"}))?)
        .await?;
    let mut events = gadgets.watch(&WatchParams::default(), "0").await?.boxed();
    assert!(matches!(next(&mut events).await?, WatchEvent::Added(_)));

    server.delete("/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gadgets.example.com")?;
    assert!(matches!(next(&mut events).await?, WatchEvent::Deleted(_)));
    assert!(timeout(PATIENCE, events.try_next()).await??.is_none());
    assert_eq!(code(gadgets.list(&ListParams::default()).await)?, 404);
    server.apply(GADGETS)?;
    assert!(gadgets.list(&ListParams::default()).await?.items.is_empty());
    Ok(())
}

#[tokio::test]
async fn definitions_of_others_are_there() -> Result<()> {
    let (server, client) = stand()?;
    server.apply(crds::GATEWAY)?;
    server.apply(crds::SERVICE_ENTRY)?;
    server.apply_object(&crds::permissive(
        "networking.istio.io/v1",
        "DestinationRule",
        "destinationrules",
    ))?;
    server.apply(
        "{apiVersion: networking.istio.io/v1beta1, kind: ServiceEntry, metadata: {name: one, namespace: egress}, \
         spec: {hosts: [example.com], resolution: DNS, ports: [{number: 443, name: tls, protocol: TLS}]}}",
    )?;
    // The same object in every version.
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let resource = ApiResource::from_gvk_with_plural(
            &GroupVersionKind::gvk("networking.istio.io", version, "ServiceEntry"),
            "serviceentries",
        );
        let entries: Api<DynamicObject> = Api::namespaced_with(client.clone(), "egress", &resource);
        let list = entries.list(&ListParams::default()).await?;
        assert_eq!(list.items.len(), 1);
        let types = list.items[0].types.as_ref().context("no apiVersion")?;
        assert_eq!(types.api_version, format!("networking.istio.io/{version}"));
    }
    Ok(())
}

#[tokio::test]
async fn defaults_come_and_unknown_fields_go() -> Result<()> {
    let (_server, gadgets) = gadgets()?;
    let wanted = gadget(&json!({"mode": "Fast", "more": 1, "free": {"any": [1]}, "size": "5%"}))?;
    let made = gadgets.create(&PostParams::default(), &wanted).await?;
    let spec = json!({"mode": "Fast", "first": 1, "free": {"any": [1]}, "size": "5%"});
    assert_eq!(made.data["spec"], spec);

    let strict = PatchParams {
        field_validation: Some(kube::api::ValidationDirective::Strict),
        ..PatchParams::default()
    };
    let patch = Patch::Merge(json!({"spec": {"more": 1}}));
    let refused = gadgets.patch("one", &strict, &patch).await;
    assert_eq!(
        message(refused)?,
        "strict decoding error: unknown field \"spec.more\""
    );
    let patch = Patch::Apply(gadget(&json!({"mode": "Fast", "more": 1}))?);
    let refused = message(
        gadgets
            .patch("one", &PatchParams::apply("a").force(), &patch)
            .await,
    )?;
    assert!(
        refused.ends_with(".spec.more: field not declared in schema"),
        "{refused}"
    );
    Ok(())
}

#[tokio::test]
async fn what_the_schema_forbids_is_refused() -> Result<()> {
    let (_server, gadgets) = gadgets()?;
    let cases = [
        (json!({}), "spec.mode: Required value"),
        (
            json!({"mode": "Idle"}),
            "spec.mode: Unsupported value: \"Idle\": supported values: \"Fast\", \"Slow\"",
        ),
        (
            json!({"mode": 1}),
            "spec.mode: Invalid value: \"integer\": spec.mode in body must be of type string: \"integer\"",
        ),
        (
            json!({"mode": "Fast", "name": "A"}),
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (
            json!({"mode": "Fast", "name": "abcdef"}),
            "spec.name: Too long: may not be more than 5 bytes",
        ),
        (
            json!({"mode": "Fast", "first": 0}),
            "spec.first: Invalid value: 0: spec.first in body should be greater than or equal to 1",
        ),
        (
            json!({"mode": "Fast", "first": 11}),
            "spec.first: Invalid value: 11: spec.first in body should be less than or equal to 10",
        ),
        (
            json!({"mode": "Fast", "size": []}),
            "spec.size: Invalid value: \"array\": spec.size in body must be of type integer,string: \"array\"",
        ),
        (
            json!({"mode": "Fast", "ranges": [{"cidr": "x"}]}),
            "spec.ranges[0].cidr: Invalid value: \"x\": spec.ranges[0].cidr in body must be of type cidr: \"x\"",
        ),
        (
            json!({"mode": "Fast", "ranges": [{}]}),
            "spec.ranges[0].cidr: Required value",
        ),
        (
            json!({"mode": "Fast", "parts": [{"name": "a"}, {"name": "a"}]}),
            "spec.parts[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        // Rules.
        (
            json!({"mode": "Fast", "first": 3, "last": 2}),
            "spec: Invalid value: \"object\": last is below first",
        ),
        (
            json!({"mode": "Fast", "ranges": [{"cidr": "192.0.2.0/24", "except": ["192.0.2.1/32"]}, {"cidr": "10.0.0.0/8", "except": ["192.0.2.1/32"]}]}),
            "spec.ranges[1]: Invalid value: \"object\": not within 10.0.0.0/8",
        ),
    ];
    for (spec, wanted) in cases {
        let refused = gadgets.create(&PostParams::default(), &gadget(&spec)?).await;
        assert_eq!(
            message(refused)?,
            format!("Gadget.example.com \"one\" is invalid: {wanted}"),
            "{spec}"
        );
    }
    let too_many =
        json!({"mode": "Fast", "ranges": [{"cidr": "10.0.0.0/8"}, {"cidr": "::/0"}, {"cidr": "::/0"}]});
    assert_eq!(
        code(gadgets.create(&PostParams::default(), &gadget(&too_many)?).await)?,
        422
    );
    let good = json!({"mode": "Fast", "name": "abc", "first": 3, "last": 3, "size": 5, "parts": [{"name": "a"}, {"name": "b"}]});
    gadgets.create(&PostParams::default(), &gadget(&good)?).await?;
    Ok(())
}

#[tokio::test]
async fn rules_compare_with_what_was_there() -> Result<()> {
    let (_server, gadgets) = gadgets()?;
    gadgets
        .create(&PostParams::default(), &gadget(&json!({"mode": "Fast"}))?)
        .await?;
    let patch = Patch::Merge(json!({"spec": {"mode": "Slow"}}));
    let refused = message(gadgets.patch("one", &PatchParams::default(), &patch).await)?;
    assert!(refused.ends_with("mode stays"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_definition_is_refused_that_is_none() -> Result<()> {
    let (server, _) = stand()?;
    let wrong = GADGETS.replace("self.first <= self.last", "self.first <=");
    let refused = server
        .apply(&wrong)
        .err()
        .context("a rule that is none")?
        .to_string();
    assert!(refused.contains("compilation failed"), "{refused}");
    let wrong = GADGETS.replace("name: gadgets.example.com", "name: gadgets");
    let refused = server
        .apply(&wrong)
        .err()
        .context("a name that is none")?
        .to_string();
    assert!(refused.contains("must be spec.names.plural"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn lists_of_the_schema_are_merged_by_their_keys() -> Result<()> {
    let (_server, gadgets) = gadgets()?;
    let apply = async |manager: &str, parts: Value| {
        let patch = Patch::Apply(gadget(&json!({"mode": "Fast", "parts": parts}))?);
        let params = PatchParams::apply(manager);
        anyhow::Ok(gadgets.patch("one", &params, &patch).await?.data["spec"]["parts"].clone())
    };
    apply("one", json!([{"name": "a", "value": 1}])).await?;
    let both = apply("two", json!([{"name": "b", "value": 2}])).await?;
    assert_eq!(
        both,
        json!([{"name": "a", "value": 1}, {"name": "b", "value": 2}])
    );
    // A field of an item has an owner of its own, too.
    let less = apply("one", json!([{"name": "a"}])).await?;
    assert_eq!(less, json!([{"name": "a"}, {"name": "b", "value": 2}]));
    Ok(())
}

#[tokio::test]
async fn status_has_rules_of_its_own() -> Result<()> {
    let (_server, gadgets) = gadgets()?;
    let made = gadgets
        .create(&PostParams::default(), &gadget(&json!({"mode": "Fast"}))?)
        .await?;
    let status = json!({
        "apiVersion": "example.com/v1", "kind": "Gadget", "metadata": {"name": "one"},
        "status": {"conditions": [{"type": "Ready", "status": "True"}]},
    });
    let written = gadgets
        .patch_status("one", &PatchParams::apply("a"), &Patch::Apply(&status))
        .await?;
    assert_eq!(written.data["spec"], made.data["spec"]);
    assert_eq!(written.metadata.generation, Some(1));
    let owner = &written.metadata.managed_fields.context("no managers")?[1];
    assert_eq!(owner.subresource.as_deref(), Some("status"));
    let status = json!({"status": {"conditions": [{"status": "True"}]}});
    let refused = gadgets
        .patch_status("one", &PatchParams::default(), &Patch::Merge(status))
        .await;
    assert!(message(refused)?.ends_with("status.conditions[0].type: Required value"));
    Ok(())
}

#[tokio::test]
async fn columns_make_a_table() -> Result<()> {
    let (server, gadgets) = gadgets()?;
    gadgets
        .create(&PostParams::default(), &gadget(&json!({"mode": "Fast"}))?)
        .await?;
    server.patch(
        "/apis/example.com/v1/namespaces/default/gadgets/one/status",
        &json!({"status": {"conditions": [{"type": "Other", "status": "?"}, {"type": "Ready", "status": "True"}]}}),
    )?;
    let request = axum::http::Request::get("/apis/example.com/v1/gadgets")
        .header("accept", "application/json;as=Table;g=meta.k8s.io;v=v1")
        .body(Vec::new())?;
    let table: Value = gadgets.into_client().request(request).await?;
    let heads: Vec<_> = table["columnDefinitions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|column| column["name"].clone())
        .collect();
    assert_eq!(heads, ["Name", "Mode", "Ready", "Age"]);
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        cells.as_array().context("no cells")?[..3],
        ["one", "Fast", "True"].map(|cell| json!(cell))
    );
    assert!(cells[3].as_str().is_some_and(|age| age.ends_with('s')), "{cells}");
    Ok(())
}

/// What is installed is what the server takes.
#[tokio::test]
async fn what_is_in_deploy_is_accepted() -> Result<()> {
    let (server, _) = stand()?;
    for file in ["namespace", "crds", "rbac", "daemonset"] {
        let path = format!("{}/../deploy/base/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        let yaml = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
        server.apply(&yaml).with_context(|| format!("applying {path}"))?;
    }
    Ok(())
}
