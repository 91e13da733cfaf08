//! Asking the agent.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::de::DeserializeOwned;

use super::{Failure, Line, Request, socket};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket is not there or nobody listens.
    #[error(
        "cannot reach the agent at {path}: {source} (is `sluice agent` running on this node, and with this --run-dir?)"
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The connection broke.
    #[error("lost the agent at {path}: {source}")]
    Io {
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What it said makes no sense to this version.
    #[error("cannot read the agent's answer (is it of another version?): {0}")]
    Answer(#[from] serde_json::Error),
    /// It could not do it.
    #[error("{0}")]
    Failed(String),
    /// It hung up without an answer.
    #[error("the agent gave no answer")]
    Nothing,
}

/// The documents of an answer, as they come.
pub struct Answer {
    path: PathBuf,
    lines: io::Lines<BufReader<UnixStream>>,
}

impl Iterator for Answer {
    type Item = Result<serde_json::Value, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        let line = match self.lines.next()? {
            Ok(line) => line,
            Err(source) => {
                return Some(Err(Error::Io {
                    path: self.path.clone(),
                    source,
                }));
            }
        };
        Some(match serde_json::from_str(&line) {
            Ok(Line::Item(value)) => Ok(value),
            Ok(Line::Failed(Failure { error })) => Err(Error::Failed(error)),
            Err(error) => Err(error.into()),
        })
    }
}

/// Asks, and returns the answer's documents as they come.
pub fn ask(run_dir: &Path, request: &Request) -> Result<Answer, Error> {
    ask_at(&socket(run_dir), request, None)
}

/// Asks at this socket, and waits for each document at most as long as said.
fn ask_at(socket: &Path, request: &Request, patience: Option<Duration>) -> Result<Answer, Error> {
    let path = socket.to_owned();
    let mut stream = UnixStream::connect(&path).map_err(|source| Error::Connect {
        path: path.clone(),
        source,
    })?;
    let io = |source| Error::Io {
        path: path.clone(),
        source,
    };
    stream.set_read_timeout(patience).map_err(io)?;
    let mut line = serde_json::to_vec(request)?;
    line.push(b'\n');
    stream.write_all(&line).map_err(io)?;
    Ok(Answer {
        path,
        lines: BufReader::new(stream).lines(),
    })
}

/// Asks for one document.
pub fn ask_one<T: DeserializeOwned>(run_dir: &Path, request: &Request) -> Result<T, Error> {
    one(ask(run_dir, request)?)
}

/// Asks at this socket for one document, and waits for it at most as long as said.
pub fn ask_one_at<T: DeserializeOwned>(
    socket: &Path,
    request: &Request,
    patience: Duration,
) -> Result<T, Error> {
    one(ask_at(socket, request, Some(patience))?)
}

fn one<T: DeserializeOwned>(mut answer: Answer) -> Result<T, Error> {
    let value = answer.next().ok_or(Error::Nothing)??;
    Ok(serde_json::from_value(value)?)
}
