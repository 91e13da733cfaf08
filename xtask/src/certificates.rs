//! Certificates for the internet of the demonstration and of the examples' tests.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};

use crate::{
    packages,
    shell::{self, Cmd},
};

/// How long they are valid, in days.
const DAYS: u64 = 30;
/// The names that its servers have, and that of an ingress gateway.
const EXTENSIONS: &str = "subjectAltName = DNS:httpbin.org, DNS:other.example, DNS:bookinfo.example.com\n";

/// Makes an authority and a server's certificate unless there are fresh ones, and returns their folder.
pub(crate) fn ensure() -> Result<PathBuf> {
    let folder = shell::target("demo/certificates");
    let extensions = folder.join("extensions");
    let same_names = fs::read_to_string(&extensions).is_ok_and(|names| names == EXTENSIONS);
    if same_names && is_fresh(&folder.join("server.crt")) {
        return Ok(folder);
    }
    packages::ensure(
        &[("openssl", "openssl")],
        "the servers of a demonstration speak TLS",
    )?;
    shell::step("making certificates for an internet of our own");
    fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    fs::write(&extensions, EXTENSIONS).with_context(|| extensions.display().to_string())?;
    let days = DAYS.to_string();
    request(
        &folder,
        "ca",
        "/CN=sluice demo",
        &["-x509", "-days", &days, "-out", "ca.crt"],
    )?;
    request(&folder, "server", "/CN=httpbin.org", &["-out", "server.csr"])?;
    openssl(
        &folder,
        &[
            "x509",
            "-req",
            "-in",
            "server.csr",
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            &days,
            "-extfile",
            "extensions",
            "-out",
            "server.crt",
        ],
    )?;
    Ok(folder)
}

/// With a key of its own, `<name>.key`.
fn request(folder: &Path, name: &str, subject: &str, more: &[&str]) -> Result<()> {
    let key = format!("{name}.key");
    let mut arguments = vec![
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-subj",
        subject,
    ];
    arguments.extend(["-keyout", &key]);
    arguments.extend(more);
    openssl(folder, &arguments)
}

fn openssl(folder: &Path, arguments: &[&str]) -> Result<()> {
    Cmd::new("env")
        .arg("-C")
        .arg(folder)
        .arg("openssl")
        .args(arguments)
        .read()
        .map(drop)
}

fn is_fresh(certificate: &Path) -> bool {
    let age = fs::metadata(certificate)
        .and_then(|metadata| metadata.modified())
        .ok()
        .and_then(|made| SystemTime::now().duration_since(made).ok());
    age.is_some_and(|age| age < Duration::from_secs(DAYS * 86_400 / 2))
}
