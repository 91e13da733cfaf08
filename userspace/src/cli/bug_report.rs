//! `sluice bug-report`

use std::{
    fs::{self, File},
    io::{Read as _, Seek as _, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use jiff::Timestamp;
use serde_json::Value;

use super::{Common, Format, output};
use crate::{
    api::{Filter, Request, What, client},
    check,
};

/// The end of a log that is packed, in octets.
const LOG: u64 = 4 << 20;
/// What the kernel says of itself and of what matters here.
const FILES: [&str; 8] = [
    "/proc/version",
    "/proc/self/mountinfo",
    "/proc/sys/kernel/unprivileged_bpf_disabled",
    "/proc/sys/kernel/bpf_stats_enabled",
    "/proc/sys/net/core/bpf_jit_enable",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/etc/os-release",
];
/// Words of which the line of a log is left out.
const SECRET: [&str; 7] = [
    "token",
    "password",
    "passwd",
    "secret",
    "bearer",
    "authorization",
    "private key",
];

/// Pack what somebody needs to find out what is wrong: state, programs and what the verifier said, maps, versions, verdicts, the
/// log.
///
/// No environment, no kubeconfig and no manifest is packed, and lines of the log that may have a secret in them are left
/// out. Names and addresses of pods are in it: look before you send it to somebody.
#[derive(Debug, Args)]
pub(super) struct BugReport {
    /// The file to write, which must not be there yet; a name with the time in it unless given.
    #[arg(long, value_name = "FILE.tar.gz")]
    file: Option<PathBuf>,
    /// A file that the agent's log goes to, to be packed as well; its end if it is long.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
}

impl BugReport {
    pub(super) fn run(&self, common: &Common) -> Result<ExitCode> {
        let now = Timestamp::now();
        let name = || {
            PathBuf::from(format!(
                "sluice-bug-report-{}.tar.gz",
                now.strftime("%Y%m%dT%H%M%SZ")
            ))
        };
        let path = self.file.clone().unwrap_or_else(name);
        let file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        let mut archive = Archive::new(file, now);
        let packed = self.pack(&mut archive, common).and_then(|()| archive.finish());
        let packed = packed.with_context(|| format!("writing {}", path.display()))?;
        match common.output {
            Format::Json => output::json(&serde_json::json!({ "file": path, "packed": packed }))?,
            Format::Table => println!("{}: {}", path.display(), packed.join(", ")),
        }
        Ok(ExitCode::SUCCESS)
    }

    fn pack(&self, archive: &mut Archive<File>, common: &Common) -> Result<()> {
        archive.text("version", concat!(env!("CARGO_PKG_VERSION"), "\n"))?;
        archive.json("check.json", &serde_json::to_value(check::run())?)?;
        for file in FILES {
            let said = fs::read_to_string(file).unwrap_or_else(|error| format!("{error}\n"));
            archive.text(&format!("node{file}"), &said)?;
        }
        let lists = [
            ("endpoints", What::Endpoints),
            ("captures", What::Captures),
            ("gateways", What::Gateways),
            ("registry", What::Registry),
            ("rules", What::Rules),
            ("programs", What::Programs),
            ("maps", What::Maps),
        ];
        let mut questions = vec![("status", Request::Status { wait_ms: None })];
        questions.extend(lists.map(|(name, what)| (name, Request::List(what))));
        questions.push(("verdicts", Request::Observe(Filter::default())));
        for (name, question) in questions {
            // An agent that cannot answer is a reason to report.
            let answer =
                ask(&common.run_dir, &question).unwrap_or_else(|error| Value::String(error.to_string()));
            archive.json(&format!("agent/{name}.json"), &answer)?;
        }
        match &self.log {
            Some(path) => archive.text("log", &log(path)?),
            None => Ok(()),
        }
    }
}

/// The answer; a list if it has several parts.
fn ask(run_dir: &Path, question: &Request) -> Result<Value, client::Error> {
    let mut parts: Vec<Value> = client::ask(run_dir, question)?.collect::<Result<_, _>>()?;
    let is_list = matches!(question, Request::Observe(_));
    Ok(match parts.pop() {
        Some(only) if parts.is_empty() && !is_list => only,
        last => {
            parts.extend(last);
            Value::Array(parts)
        }
    })
}

/// The end of a log, without what may be secret.
fn log(path: &Path) -> Result<String> {
    let read = || {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(LOG)))?;
        let mut octets = Vec::new();
        file.take(LOG).read_to_end(&mut octets)?;
        Ok::<_, std::io::Error>(octets)
    };
    let octets = read().with_context(|| path.display().to_string())?;
    Ok(without_secrets(&String::from_utf8_lossy(&octets)))
}

fn without_secrets(log: &str) -> String {
    let line = |line: &str| {
        let small = line.to_lowercase();
        let is_secret = SECRET.iter().any(|word| small.contains(word));
        if is_secret {
            "(a line that may have a secret in it)\n".to_owned()
        } else {
            format!("{line}\n")
        }
    };
    log.lines().map(line).collect()
}

/// A tar archive, compressed.
struct Archive<W: Write> {
    tar: tar::Builder<GzEncoder<W>>,
    time: u64,
    packed: Vec<String>,
}

impl<W: Write> Archive<W> {
    fn new(out: W, time: Timestamp) -> Self {
        Self {
            tar: tar::Builder::new(GzEncoder::new(out, Compression::default())),
            time: u64::try_from(time.as_second()).unwrap_or(0),
            packed: Vec::new(),
        }
    }

    fn json(&mut self, name: &str, value: &Value) -> Result<()> {
        self.text(name, &format!("{value:#}\n"))
    }

    fn text(&mut self, name: &str, text: &str) -> Result<()> {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len())?);
        header.set_mode(0o600);
        header.set_mtime(self.time);
        let path = format!("sluice-bug-report/{name}");
        self.tar.append_data(&mut header, path, text.as_bytes())?;
        self.packed.push(name.to_owned());
        Ok(())
    }

    fn finish(self) -> Result<Vec<String>> {
        self.tar.into_inner()?.finish()?.flush()?;
        Ok(self.packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_with_secrets_are_left_out() {
        let log = "one\nAuthorization: Bearer abc\nthree token=xyz\nfour\n";
        let left = without_secrets(log);
        assert_eq!(left.lines().count(), 4);
        assert!(!left.contains("abc") && !left.contains("xyz"));
        assert!(left.starts_with("one\n") && left.ends_with("four\n"));
    }

    #[test]
    fn an_archive_reads_back() {
        let mut packed = Vec::new();
        let mut archive = Archive::new(&mut packed, Timestamp::UNIX_EPOCH);
        archive.text("version", "1\n").expect("room");
        archive
            .json("agent/status.json", &serde_json::json!({"ready": true}))
            .expect("room");
        assert_eq!(archive.finish().expect("room"), ["version", "agent/status.json"]);
        let mut tar = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        let mut texts = Vec::new();
        for entry in tar.entries().expect("an archive") {
            let mut text = String::new();
            entry.expect("an entry").read_to_string(&mut text).expect("text");
            texts.push(text);
        }
        assert_eq!(texts[0], "1\n");
        assert!(texts[1].contains("\"ready\": true"));
    }
}
