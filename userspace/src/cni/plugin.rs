//! The verbs.

use std::{net::IpAddr, time::Duration};

use super::{
    VERSIONS,
    config::{Config, version},
    environment::{self, Lookup, Verb, required},
    error::Error,
    spans,
};
use crate::{
    api::{Admission, Announcement, Attachment, CniRequest, Request, client},
    facts::PodName,
};

/// How much longer than the agent the plugin waits: an agent that hangs shall not hold the runtime up.
const GRACE: Duration = Duration::from_secs(5);

/// Does what the environment and `input` say; returns what to print.
pub(super) fn answer(lookup: Lookup<'_>, input: &str) -> Result<String, Error> {
    let verb = Verb::read(lookup)?;
    if verb == Verb::Version {
        return Ok(versions(input));
    }
    let config = Config::read(input, verb)?;
    match verb {
        Verb::Add => return add(lookup, &config, input),
        Verb::Check => check(lookup, &config)?,
        Verb::Del => del(lookup, &config)?,
        Verb::Gc => gc(&config)?,
        Verb::Status | Verb::Version => status(&config)?,
    }
    Ok(String::new())
}

fn versions(input: &str) -> String {
    serde_json::json!({"cniVersion": version(input), "supportedVersions": VERSIONS}).to_string()
}

/// Has the pod admitted, and passes on what the plugins before have done.
fn add(lookup: Lookup<'_>, config: &Config, input: &str) -> Result<String, Error> {
    let attachment = attachment(lookup, config)?;
    let netns = environment::netns(lookup)?;
    let addresses = addresses(config)?;
    let result = previous(config, input)?;
    // A container that is no pod's is under the rules as any sender of whom nothing is known: there is nothing to wait for.
    if let Some((pod, uid)) = environment::pod(lookup)? {
        admit(
            config,
            Announcement {
                attachment,
                pod,
                uid,
                netns,
                addresses,
            },
        )?;
    }
    Ok(result.to_owned())
}

fn admit(config: &Config, announcement: Announcement) -> Result<(), Error> {
    let waits = waits(config, &announcement.pod);
    let what = format!("pod {} is not admitted", announcement.pod);
    let wait = Duration::from_secs(if waits { config.own.wait_seconds } else { 0 });
    let request = CniRequest::Add {
        announcement,
        wait_ms: u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
    };
    match ask(config, request, wait) {
        Ok(()) => Ok(()),
        Err(error) if !waits => {
            eprintln!("{what} yet, and its namespace does not wait for that: {error}");
            Ok(())
        }
        Err(source) => Err(Error::Agent { what, source }),
    }
}

fn check(lookup: Lookup<'_>, config: &Config) -> Result<(), Error> {
    let attachment = attachment(lookup, config)?;
    environment::netns(lookup)?;
    addresses(config)?;
    match environment::pod(lookup)? {
        Some((pod, _)) if waits(config, &pod) => {
            let answer = ask(config, CniRequest::Check(attachment), Duration::ZERO);
            answer.map_err(|source| Error::Check {
                what: format!("pod {pod} is not as it was admitted"),
                source,
            })
        }
        Some(_) | None => Ok(()),
    }
}

/// A pod can be deleted without the agent, which forgets it when its namespace is gone.
fn del(lookup: Lookup<'_>, config: &Config) -> Result<(), Error> {
    let request = CniRequest::Del(attachment(lookup, config)?);
    if let Err(error) = ask(config, request, Duration::ZERO) {
        eprintln!("the agent is not told: {error}");
    }
    Ok(())
}

fn gc(config: &Config) -> Result<(), Error> {
    let Some(valid) = &config.valid else {
        return Err(config.error("cni.dev/valid-attachments is not there"));
    };
    let valid = valid.iter().map(|valid| Attachment {
        network: config.name.clone(),
        container_id: valid.container_id.clone(),
        ifname: valid.ifname.clone(),
    });
    let request = CniRequest::Gc {
        network: config.name.clone(),
        valid: valid.collect(),
    };
    let what = "nothing is cleaned up".to_owned();
    ask(config, request, Duration::ZERO).map_err(|source| Error::Agent { what, source })
}

fn status(config: &Config) -> Result<(), Error> {
    ask(config, CniRequest::Status, Duration::ZERO).map_err(Error::Status)
}

fn ask(config: &Config, request: CniRequest, wait: Duration) -> Result<(), client::Error> {
    let _: Admission = client::ask_one_at(&config.own.socket, &Request::Cni(request), wait + GRACE)?;
    Ok(())
}

/// Whether pods of this one's namespace are held until they are admitted.
fn waits(config: &Config, pod: &PodName) -> bool {
    !config.own.no_wait_namespaces.contains(&pod.namespace)
}

fn attachment(lookup: Lookup<'_>, config: &Config) -> Result<Attachment, Error> {
    Ok(Attachment {
        network: config.name.clone(),
        container_id: required(lookup, "CNI_CONTAINERID")?,
        ifname: required(lookup, "CNI_IFNAME")?,
    })
}

fn addresses(config: &Config) -> Result<Vec<IpAddr>, Error> {
    let Some(outcome) = &config.outcome else {
        return Err(config.error(
            "there is no prevResult; this plugin makes no network, it is to be chained behind one that does",
        ));
    };
    outcome
        .addresses()
        .map_err(|error| config.error(error.to_string()))
}

/// `prevResult`, as it came.
fn previous<'a>(config: &Config, input: &'a str) -> Result<&'a str, Error> {
    let members = spans::members(input).map_err(|error| config.error(error.to_string()))?;
    let found = members.into_iter().find(|(key, _)| key == "prevResult");
    found
        .and_then(|(_, span)| input.get(span))
        .ok_or_else(|| config.error("there is no prevResult"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = r#"{"cniVersion": "1.0.0", "name": "pods", "type": "sluice-cni", "socket": "/nowhere/agent.sock",
        "prevResult": {"ips": [{"address":   "10.0.0.2/24"}], "other": [1.0, null]}}"#;

    fn answer_to(variables: &[(&str, &str)], input: &str) -> Result<String, Error> {
        let lookup = |name: &str| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        answer(&lookup, input)
    }

    const ATTACHED: [(&str, &str); 3] = [
        ("CNI_CONTAINERID", "c1"),
        ("CNI_NETNS", "/run/netns/nowhere"),
        ("CNI_IFNAME", "eth0"),
    ];

    fn with<'a>(more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        [more, &ATTACHED].concat()
    }

    #[test]
    fn versions_are_told_in_the_version_that_was_asked_in() {
        let version = [("CNI_COMMAND", "VERSION")];
        let text = answer_to(&version, r#"{"cniVersion": "0.4.0"}"#).expect("an answer");
        let expected =
            r#"{"cniVersion":"0.4.0","supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}"#;
        assert_eq!(text, expected);
        let text = answer_to(&version, "").expect("an answer");
        assert!(text.starts_with(r#"{"cniVersion":"1.1.0""#), "{text}");
    }

    #[test]
    fn a_container_that_is_no_pod_passes_and_its_result_is_untouched() {
        let text = answer_to(&with(&[("CNI_COMMAND", "ADD")]), INPUT).expect("a result");
        assert_eq!(
            text,
            r#"{"ips": [{"address":   "10.0.0.2/24"}], "other": [1.0, null]}"#
        );
    }

    #[test]
    fn a_pod_waits_for_the_agent_unless_its_namespace_does_not() {
        let pod = ("CNI_ARGS", "IgnoreUnknown=1;K8S_POD_NAMESPACE=a;K8S_POD_NAME=b");
        let variables = with(&[("CNI_COMMAND", "ADD"), pod]);
        let error = answer_to(&variables, INPUT).expect_err("there is no agent");
        assert_eq!(error.code(), 11);
        assert!(error.to_string().contains("pod a/b is not admitted"), "{error}");
        assert!(error.to_string().contains("/nowhere/agent.sock"), "{error}");
        let relaxed = INPUT.replacen('{', r#"{"noWaitNamespaces": ["a"],"#, 1);
        answer_to(&variables, &relaxed).expect("it does not wait");
    }

    #[test]
    fn a_pod_can_be_deleted_without_the_agent() {
        let variables = [
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", "c1"),
            ("CNI_IFNAME", "eth0"),
        ];
        assert_eq!(answer_to(&variables, INPUT).expect("it is gone"), "");
    }

    #[rstest::rstest]
    #[case::no_command(&[], INPUT, 4, "CNI_COMMAND is not set")]
    #[case::no_container(&[("CNI_COMMAND", "ADD")], INPUT, 4, "CNI_CONTAINERID is not set")]
    #[case::odd_command(&[("CNI_COMMAND", "add")], INPUT, 4, "expected ADD")]
    #[case::no_json(&[("CNI_COMMAND", "ADD")], "{", 6, "EOF")]
    #[case::old(&[("CNI_COMMAND", "ADD")], r#"{"cniVersion": "0.2.0", "name": "n"}"#, 1, "0.3.0")]
    #[case::none(&[("CNI_COMMAND", "ADD")], r#"{"name": "n"}"#, 1, "0.1.0")]
    #[case::new(&[("CNI_COMMAND", "ADD")], r#"{"cniVersion": "2.0.0", "name": "n"}"#, 1, "2.0.0")]
    #[case::status_is_new(&[("CNI_COMMAND", "STATUS")], INPUT, 1, "STATUS is of 1.1.0")]
    #[case::check_is_newer(&[("CNI_COMMAND", "CHECK")], r#"{"cniVersion": "0.3.1", "name": "n"}"#, 1, "0.4.0")]
    #[case::gc_of_all(&[("CNI_COMMAND", "GC")], r#"{"cniVersion": "1.1.0", "name": "n"}"#, 7, "valid-attachments")]
    #[case::no_agent(&[("CNI_COMMAND", "STATUS")],
        r#"{"cniVersion": "1.1.0", "name": "n", "socket": "/nowhere/agent.sock"}"#, 50, "is `sluice agent` running")]
    fn what_is_wrong_has_its_number(
        #[case] variables: &[(&str, &str)],
        #[case] input: &str,
        #[case] code: u32,
        #[case] says: &str,
    ) {
        let error = answer_to(variables, input).expect_err("an error");
        assert_eq!(error.code(), code, "{error}");
        assert!(error.to_string().contains(says), "{error}");
        let json: serde_json::Value = serde_json::from_str(&error.json("1.0.0")).expect("JSON");
        assert_eq!(json["code"], code);
    }

    #[test]
    fn a_plugin_that_is_not_chained_says_so() {
        let variables = with(&[("CNI_COMMAND", "ADD")]);
        let error = answer_to(&variables, r#"{"cniVersion": "1.0.0", "name": "n"}"#).expect_err("no result");
        assert_eq!(error.code(), 7);
        assert!(error.to_string().contains("chained"), "{error}");
    }
}
