//! The plugin is put in its place, kept there and taken out.

use super::*;

const LIST: &str =
    r#"{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "ptp"}, {"type": "portmap"}]}"#;
const SINGLE: &str = r#"{"cniVersion": "0.3.1", "name": "pods", "type": "bridge"}"#;

struct Place {
    _directory: tempfile::TempDir,
    conf: PathBuf,
    bin: PathBuf,
    installation: Installation,
}

fn place() -> Place {
    let directory = tempfile::tempdir().expect("a directory");
    let (conf, bin) = (directory.path().join("net.d"), directory.path().join("bin"));
    fs::create_dir(&conf).expect("a directory");
    fs::create_dir(&bin).expect("a directory");
    let settings = Settings {
        cni_conf_dir: Some(conf.clone()),
        cni_bin_dir: Some(bin.clone()),
        cni_wait: 5,
        cni_no_wait_namespaces: Vec::new(),
    };
    let installation = Installation::start(&settings, Path::new("/run/sluice/agent.sock"));
    Place {
        _directory: directory,
        conf,
        bin,
        installation: installation.expect("it starts").expect("it is wanted"),
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("the file")
}

#[test]
fn it_waits_for_a_configuration_is_put_back_and_goes() {
    let mut place = place();
    let list = place.conf.join("10-pods.conflist");
    place.installation.keep().expect("there is nothing");
    assert_eq!(place.installation.state(), &State::default());
    fs::write(&list, LIST).expect("a file");
    fs::set_permissions(&list, Permissions::from_mode(0o600)).expect("permissions");
    for restored in 0..3 {
        place.installation.keep().expect("it is chained");
        // Once more changes nothing.
        place.installation.keep().expect("it is there");
        let expected = State {
            file: Some(list.clone()),
            restored,
        };
        assert_eq!(place.installation.state(), &expected);
        assert!(read(&list).contains(NAME));
        let mode = fs::metadata(&list).expect("the file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(&list, LIST).expect("the primary plugin's file");
    }
    place.installation.keep().expect("it is chained");
    let removed = uninstall(&place.conf, &place.bin).expect("it goes");
    assert_eq!(removed, [list.clone(), place.bin.join(NAME)]);
    assert_eq!(read(&list), LIST);
    assert!(uninstall(&place.conf, &place.bin).expect("it is gone").is_empty());
    let left = fs::read_dir(&place.conf).expect("the directory").count();
    assert_eq!(left, 1, "only the primary plugin's file is left");
}

#[test]
fn the_binary_is_this_program_and_is_put_back() {
    let mut place = place();
    let binary = place.bin.join(NAME);
    let own = fs::metadata("/proc/self/exe").expect("this program").len();
    let found = fs::metadata(&binary).expect("the plugin");
    assert_eq!((found.len(), found.permissions().mode() & 0o777), (own, 0o755));
    fs::remove_file(&binary).expect("it is there");
    place.installation.keep().expect("it is put back");
    assert!(binary.is_file());
}

#[test]
fn a_single_plugin_is_made_a_list_and_comes_back() {
    let mut place = place();
    let single = place.conf.join("05-pods.conf");
    fs::write(&single, SINGLE).expect("a file");
    // Not the first: let alone.
    let second = place.conf.join("10-other.conflist");
    fs::write(&second, LIST).expect("a file");
    place.installation.keep().expect("it is chained");
    let list = place.conf.join("05-pods.conflist");
    assert!(read(&list).contains(NAME));
    assert!(!single.exists());
    assert_eq!(read(&second), LIST);
    place.installation.keep().expect("it is there");
    assert_eq!(place.installation.state().restored, 0);
    // The primary plugin writes its file again.
    fs::write(&single, SINGLE.replace("bridge", "ptp")).expect("a file");
    place.installation.keep().expect("it is chained");
    assert!(!single.exists());
    assert!(read(&list).contains("ptp"));
    uninstall(&place.conf, &place.bin).expect("it goes");
    assert_eq!(read(&single), SINGLE.replace("bridge", "ptp"));
    assert!(!list.exists());
}

#[test]
fn a_single_plugin_of_the_other_name_is_made_a_list_comes_again_and_comes_back() {
    let mut place = place();
    let single = place.conf.join("05-pods.json");
    fs::write(&single, SINGLE).expect("a file");
    place.installation.keep().expect("it is chained");
    assert!(!single.exists());
    // Behind the list, by name.
    fs::write(&single, SINGLE.replace("bridge", "ptp")).expect("a file");
    place.installation.keep().expect("it is chained");
    assert!(!single.exists());
    uninstall(&place.conf, &place.bin).expect("it goes");
    assert_eq!(read(&single), SINGLE.replace("bridge", "ptp"));
}

#[test]
fn what_cannot_be_read_is_reported_and_let_alone() {
    let mut place = place();
    let list = place.conf.join("10-pods.conflist");
    fs::write(&list, &LIST[..40]).expect("half a file");
    let error = place.installation.keep().expect_err("it is half a file");
    assert!(error.to_string().contains("10-pods.conflist"), "{error}");
    assert_eq!(read(&list), LIST[..40]);
}

#[test]
fn behind_one_that_is_of_no_use_the_next_has_the_plugin_too() {
    let mut place = place();
    let [first, second] = ["05-half.conflist", "10-pods.conflist"].map(|name| place.conf.join(name));
    fs::write(&first, &LIST[..40]).expect("half a file");
    fs::write(&second, LIST).expect("a file");
    let error = place.installation.keep().expect_err("it is half a file");
    assert!(error.to_string().contains("05-half.conflist"), "{error}");
    assert!(read(&second).contains(NAME), "some runtimes take the second");
    fs::write(&first, LIST).expect("the rest of it");
    place.installation.keep().expect("it is chained");
    assert!(read(&first).contains(NAME));
    assert_eq!(place.installation.state().file, Some(first));
}

#[test]
fn a_list_of_the_same_name_is_let_alone() {
    let mut place = place();
    let [single, list] = ["05-pods.conf", "05-pods.conflist"].map(|name| place.conf.join(name));
    fs::write(&single, SINGLE).expect("a file");
    fs::write(&list, LIST).expect("a file");
    let error = place.installation.keep().expect_err("there is one");
    assert!(error.to_string().contains("05-pods.conflist"), "{error}");
    assert_eq!(read(&single), SINGLE);
    assert_eq!(
        conflist::remove(&read(&list)).expect("a list").as_deref(),
        Some(LIST)
    );
}

#[test]
fn an_agent_that_was_killed_while_it_made_a_list_has_not_taken_the_network_away() {
    let mut place = place();
    let single = place.conf.join("05-pods.conf");
    fs::write(&single, SINGLE).expect("a file");
    place.installation.keep().expect("it is chained");
    fs::rename(saved(&single), &single).expect("as it was before the last step");
    place.installation.keep().expect("it goes on");
    assert!(!single.exists());
    uninstall(&place.conf, &place.bin).expect("it goes");
    assert_eq!(read(&single), SINGLE);
}

#[tokio::test]
async fn a_written_file_is_heard_of() {
    let mut place = place();
    place.installation.keep().expect("there is nothing");
    let list = place.conf.join("10-pods.conflist");
    fs::write(&list, LIST).expect("a file");
    let heard = tokio::time::timeout(Duration::from_secs(10), place.installation.changed());
    heard.await.expect("it is heard of");
    place.installation.keep().expect("it is chained");
    assert!(read(&list).contains(NAME));
}
