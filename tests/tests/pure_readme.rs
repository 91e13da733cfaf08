//! The README's table of reasons is made from the list in the code. `SLUICE_UPDATE=1 cargo test --test pure_readme`
//! writes it anew.

use std::{fmt::Write as _, fs, path::Path};

use ebpf::{AllowReason, DropReason};

const BEGIN: &str = "<!-- reasons: begin -->\n";
const END: &str = "<!-- reasons: end -->\n";

fn table() -> String {
    let mut text = String::from("| refused | because |\n| --- | --- |\n");
    for reason in DropReason::ALL {
        writeln!(text, "| `{reason}` | {} |", reason.explanation()).expect("writing to a string");
    }
    text.push_str("\n| let through | because |\n| --- | --- |\n");
    for reason in AllowReason::ALL {
        writeln!(text, "| `{reason}` | {} |", reason.explanation()).expect("writing to a string");
    }
    text
}

#[test]
fn the_readme_lists_every_reason() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(&path).expect("the README");
    let (before, rest) = readme.split_once(BEGIN).expect("the beginning of the table");
    let (found, after) = rest.split_once(END).expect("the end of the table");
    let wanted = table();
    if std::env::var_os("SLUICE_UPDATE").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{wanted}{END}{after}")).expect("the README can be written");
        return;
    }
    assert_eq!(
        found, wanted,
        "stale; SLUICE_UPDATE=1 cargo test --test pure_readme writes it anew"
    );
}
