//! The plugin's entry in a list of plugins. Nothing else of the text is touched: whoever compares it with his own finds the
//! entry and nothing more.

use std::ops::Range;

use serde_json::Value;

use super::{NAME, VERSIONS, spans};

/// Why there can be no entry in it.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It cannot be read.
    #[error(transparent)]
    Text(#[from] spans::Error),
    /// It cannot be read.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// There is no list in it.
    #[error("it has no plugins")]
    NoPlugins,
    /// A version that is not spoken.
    #[error("its cniVersion is {version:?}; {NAME} speaks {}", VERSIONS.join(", "))]
    Version {
        /// What it says.
        version: String,
    },
}

/// One plugin of a list.
struct Plugin {
    span: Range<usize>,
    config: Value,
}

impl Plugin {
    fn is_ours(&self) -> bool {
        self.config["type"] == NAME
    }
}

/// Has the entry in the list: at its end, or where it is. `None` if it is there as it shall be.
pub(super) fn insert(text: &str, entry: &Value) -> Result<Option<String>, Invalid> {
    let plugins = plugins(text)?;
    check_version(text)?;
    let mut ours = plugins.iter().filter(|plugin| plugin.is_ours());
    let Some(first) = ours.next() else {
        let last = plugins.last().ok_or(Invalid::NoPlugins)?;
        // On a line of its own, as far in as the last.
        let start = last.span.start;
        let before = text.get(..start).unwrap_or_default();
        let line = before.rfind('\n').map_or(before, |newline| &before[newline..]);
        let indent = if line.trim().is_empty() { line } else { " " };
        let mut new = text.to_owned();
        new.insert_str(last.span.end, &format!(",{indent}{entry}"));
        return Ok(Some(new));
    };
    if ours.next().is_none() && first.config == *entry {
        return Ok(None);
    }
    // One that is not as it shall be, or several: the first is written anew.
    let mut new = text.to_owned();
    new.replace_range(first.span.clone(), &entry.to_string());
    while let Some(more) = self::plugins(&new)?
        .iter()
        .filter(|plugin| plugin.is_ours())
        .nth(1)
    {
        new = without(&new, &more.span)?;
    }
    Ok(Some(new))
}

/// Takes every entry out. `None` if there is none.
pub(super) fn remove(text: &str) -> Result<Option<String>, Invalid> {
    let mut new = None;
    let mut rest = text.to_owned();
    while let Some(plugin) = plugins(&rest)?.iter().find(|plugin| plugin.is_ours()) {
        rest = without(&rest, &plugin.span)?;
        new = Some(rest.clone());
    }
    Ok(new)
}

/// Makes a list of the configuration of one plugin, with the entry behind it.
pub(super) fn from_single(text: &str, entry: &Value) -> Result<String, Invalid> {
    check_version(text)?;
    let config: Value = serde_json::from_str(text)?;
    let (version, name) = (&config["cniVersion"], &config["name"]);
    let text = text.trim();
    Ok(format!(
        "{{\n\"cniVersion\": {version},\n\"name\": {name},\n\"plugins\": [\n{text},\n{entry}\n]\n}}\n"
    ))
}

/// Whether a list without our entry is no more than the configuration of this one plugin.
pub(super) fn is_only(list: &str, single: &str) -> bool {
    let plugins = plugins(list);
    let single = serde_json::from_str::<Value>(single);
    match (plugins.as_deref(), single) {
        (Ok([plugin]), Ok(single)) => plugin.config == single,
        (_, _) => false,
    }
}

fn check_version(text: &str) -> Result<(), Invalid> {
    let config: Value = serde_json::from_str(text)?;
    // Of several, the runtime takes the highest that it speaks itself.
    let several = config["cniVersions"].as_array().into_iter().flatten();
    let said: Vec<_> = several
        .chain(config.get("cniVersion"))
        .map(Value::as_str)
        .collect();
    let is_known = |version: Option<&str>| version.is_some_and(|version| VERSIONS.contains(&version));
    if !said.is_empty() && said.iter().all(|version| is_known(*version)) {
        return Ok(());
    }
    let unknown = said.into_iter().find(|version| !is_known(*version));
    Err(Invalid::Version {
        version: unknown.flatten().unwrap_or_default().to_owned(),
    })
}

fn plugins(text: &str) -> Result<Vec<Plugin>, Invalid> {
    let members = spans::members(text)?;
    let (_, place) = members
        .iter()
        .find(|(key, _)| key == "plugins")
        .ok_or(Invalid::NoPlugins)?;
    let elements = spans::elements(text, place)?;
    let read = |span: Range<usize>| {
        let config = serde_json::from_str(text.get(span.clone()).unwrap_or_default())?;
        Ok(Plugin { span, config })
    };
    elements.into_iter().map(read).collect()
}

/// Takes one plugin out, and the comma that goes with it.
fn without(text: &str, span: &Range<usize>) -> Result<String, Invalid> {
    let plugins = plugins(text)?;
    let before = plugins.iter().rfind(|plugin| plugin.span.end <= span.start);
    let after = plugins.iter().find(|plugin| plugin.span.start >= span.end);
    let cut = match (before, after) {
        (Some(before), _) => before.span.end..span.end,
        (None, Some(after)) => span.start..after.span.start,
        (None, None) => span.clone(),
    };
    let mut new = text.to_owned();
    new.replace_range(cut, "");
    Ok(new)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LIST: &str = r#"{
  "name": "kindnet", "cniVersion":"0.3.1",
  "plugins": [
    {"type": "ptp", "ipMasq": false, "mtu": 1500.0,
     "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
"#;

    fn entry() -> Value {
        json!({"type": NAME, "socket": "/run/sluice/agent.sock", "waitSeconds": 30})
    }

    #[test]
    fn the_entry_comes_last_and_everything_else_stays() {
        let with = insert(LIST, &entry()).expect("a list").expect("it is new");
        let added: Vec<_> = with.lines().filter(|line| !LIST.contains(line)).collect();
        assert_eq!(
            added,
            [
                r#"    {"type": "portmap", "capabilities": {"portMappings": true}},"#,
                r#"    {"socket":"/run/sluice/agent.sock","type":"sluice-cni","waitSeconds":30}"#,
            ]
        );
        assert_eq!(insert(&with, &entry()).expect("a list"), None);
        assert_eq!(remove(&with).expect("a list").as_deref(), Some(LIST));
        assert_eq!(remove(LIST).expect("a list"), None);
    }

    #[test]
    fn it_stays_where_it_is_when_another_comes_behind() {
        let with = insert(LIST, &entry()).expect("a list").expect("it is new");
        let other = with.replace("\n  ]\n", r#", {"type": "istio-cni"}]"#);
        assert_eq!(insert(&other, &entry()).expect("a list"), None);
        let mut changed = entry();
        changed["waitSeconds"] = 5.into();
        let new = insert(&other, &changed).expect("a list").expect("it has changed");
        assert_eq!(new, other.replace(r#""waitSeconds":30"#, r#""waitSeconds":5"#));
        let back = remove(&new).expect("a list").expect("it is there");
        assert_eq!(back, LIST.replace("\n  ]\n", r#", {"type": "istio-cni"}]"#));
    }

    #[test]
    fn one_of_several_stays() {
        let with = insert(LIST, &entry()).expect("a list").expect("it is new");
        let twice = with.replace("\n  ]\n", &format!(", {}]", entry()));
        let once = insert(&twice, &entry()).expect("a list").expect("one too many");
        assert_eq!(once.matches(NAME).count(), 1);
        assert_eq!(insert(&once, &entry()).expect("a list"), None);
    }

    #[test]
    fn a_single_plugin_becomes_a_list() {
        let single = r#"{"cniVersion": "0.4.0", "name": "pods", "type": "bridge"}"#;
        let list = from_single(single, &entry()).expect("a list");
        let value: Value = serde_json::from_str(&list).expect("JSON");
        assert_eq!(value["name"], "pods");
        assert_eq!(value["cniVersion"], "0.4.0");
        assert_eq!(value["plugins"][0]["type"], "bridge");
        assert_eq!(value["plugins"][1]["type"], NAME);
        let without = remove(&list).expect("a list").expect("it is there");
        assert!(is_only(&without, single));
        assert!(!is_only(&list, single));
    }

    #[test]
    fn several_versions_are_as_good_as_one() {
        let text = r#"{"cniVersions": ["1.0.0", "1.1.0"], "name": "n", "plugins": [{"type": "a"}]}"#;
        let with = insert(text, &entry()).expect("a list").expect("it is new");
        assert_eq!(remove(&with).expect("a list").as_deref(), Some(text));
    }

    #[rstest::rstest]
    #[case::half(&LIST[..80], "EOF")]
    #[case::no_list(r#"{"cniVersion": "1.0.0", "name": "n"}"#, "no plugins")]
    #[case::empty(r#"{"cniVersion": "1.0.0", "plugins": []}"#, "no plugins")]
    #[case::old(r#"{"cniVersion": "0.2.0", "plugins": [{"type": "a"}]}"#, "0.2.0")]
    #[case::new(
        r#"{"cniVersion": "1.0.0", "cniVersions": ["1.0.0", "7.0.0"], "plugins": [{"type": "a"}]}"#,
        "7.0.0"
    )]
    #[case::none(r#"{"plugins": [{"type": "a"}]}"#, "cniVersion is \"\"")]
    #[case::twice(r#"{"cniVersion": "1.0.0", "plugins": [{}], "plugins": [{}]}"#, "twice")]
    #[case::more(r#"{"cniVersion": "1.0.0", "plugins": [{}]} {}"#, "nothing more")]
    fn what_is_no_list_is_let_alone(#[case] text: &str, #[case] says: &str) {
        let error = insert(text, &entry()).expect_err("no list");
        assert!(error.to_string().contains(says), "{error}");
    }

    proptest! {
        #[test]
        fn in_and_out_again_is_nothing(types in prop::collection::vec("[a-z]{1,6}", 1..5), pretty: bool) {
            let plugins: Vec<_> = types
                .iter()
                .map(|kind| json!({"type": kind, "text": "a \"quoted\" ] } , [ {"}))
                .collect();
            let list = json!({"cniVersion": "1.1.0", "name": "n", "plugins": plugins, "x": [[], {}]});
            let text = if pretty { serde_json::to_string_pretty(&list).unwrap() } else { list.to_string() };
            let with = insert(&text, &entry()).unwrap().expect("it is new");
            let value: Value = serde_json::from_str(&with).unwrap();
            prop_assert_eq!(value["plugins"].as_array().unwrap().last(), Some(&entry()));
            prop_assert_eq!(remove(&with).unwrap(), Some(text));
        }
    }
}
