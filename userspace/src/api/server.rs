//! Answering over the Unix socket.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{UnixListener, UnixStream},
    sync::{broadcast::error::RecvError, mpsc, oneshot},
    time::timeout,
};
use tracing::{debug, warn};

use super::{
    Admission, CniRequest, Enrolment, Explanation, Failure, Filter, Line, Question, Request, What, socket,
};
use crate::{
    agent::{destinations::Objects, status::Status, verdicts::Verdicts},
    dataplane,
    enrolled::Enrolled,
    metrics::Snapshot,
    page::Overview,
};

/// A client that says nothing for so long is sent away.
const REQUEST_DEADLINE: Duration = Duration::from_secs(5);
/// The longest request that makes sense, in octets.
const MAX_REQUEST: u64 = 64 * 1024;

/// What the server asks of the agent's loop, which alone owns the dataplane.
#[derive(Debug)]
pub enum Command {
    /// Look at everything again, then tell how it is; with a time to wait, not before it is ready.
    Status {
        /// How long to wait at the most.
        wait: Option<Duration>,
        /// Where the answer goes.
        answer: oneshot::Sender<Status>,
    },
    /// Tell how it is in numbers, without looking at anything again.
    Snapshot {
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Snapshot, dataplane::Error>>,
    },
    /// Tell all that the page shows, without looking at anything again.
    Overview {
        /// Where the answer goes.
        answer: oneshot::Sender<Overview>,
    },
    /// Hand out the objects that have destinations.
    Objects {
        /// Where the answer goes.
        answer: oneshot::Sender<Objects>,
    },
    /// List something.
    List {
        /// What.
        what: What,
        /// Where the answer goes.
        answer: oneshot::Sender<serde_json::Value>,
    },
    /// Explain a packet.
    Explain {
        /// Which.
        question: Question,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Explanation, String>>,
    },
    /// Capture a network namespace.
    Enroll {
        /// Which, and how.
        enrolled: Enrolled,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Enrolment, String>>,
    },
    /// Undo that.
    Unenroll {
        /// Which.
        netns: PathBuf,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Enrolled, String>>,
    },
    /// What the CNI plugin wants.
    Cni {
        /// What.
        request: CniRequest,
        /// Where the answer goes.
        answer: oneshot::Sender<Result<Admission, String>>,
    },
}

/// Why the socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen at {path}: {source} (is the run directory on a file system that is writable?)")]
pub struct BindError {
    path: PathBuf,
    source: io::Error,
}

/// Opens the socket, for root alone.
pub fn bind(run_dir: &Path) -> Result<UnixListener, BindError> {
    let path = socket(run_dir);
    let open = || {
        // Whoever holds the lock of the run directory is the only one that may be listening.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let listener = UnixListener::bind(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    open().map_err(|source| BindError {
        path: path.clone(),
        source,
    })
}

/// Answers until the agent ends.
pub async fn serve(listener: UnixListener, commands: mpsc::Sender<Command>, verdicts: Arc<Verdicts>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (commands, verdicts) = (commands.clone(), Arc::clone(&verdicts));
                tokio::spawn(async move {
                    if let Err(error) = answer(stream, &commands, &verdicts).await {
                        debug!(%error, "a client went away");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "cannot accept a client");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn answer(stream: UnixStream, commands: &mpsc::Sender<Command>, verdicts: &Verdicts) -> io::Result<()> {
    let peer = stream.peer_cred()?;
    let mut stream = BufReader::new(stream);
    if peer.uid() != nix::unistd::geteuid().as_raw() {
        let error = format!("user {} may not ask the agent", peer.uid());
        return write(&mut stream, &Line::Failed(Failure { error })).await;
    }
    let mut text = String::new();
    let mut limited = tokio::io::AsyncReadExt::take(&mut stream, MAX_REQUEST);
    timeout(REQUEST_DEADLINE, limited.read_line(&mut text)).await??;
    let request = match serde_json::from_str::<Request>(&text) {
        Ok(request) => request,
        Err(error) => {
            let error = format!("cannot read the request (is the command of another version?): {error}");
            return write(&mut stream, &Line::Failed(Failure { error })).await;
        }
    };
    let line = match request {
        Request::Status { wait_ms } => {
            let wait = wait_ms.map(Duration::from_millis);
            item(ask(commands, |answer| Command::Status { wait, answer }).await)
        }
        Request::List(what) => item(ask(commands, |answer| Command::List { what, answer }).await),
        Request::Explain(question) => {
            result(ask(commands, |answer| Command::Explain { question, answer }).await)
        }
        Request::Enroll(enrolled) => {
            result(ask(commands, |answer| Command::Enroll { enrolled, answer }).await)
        }
        Request::Unenroll { netns } => {
            result(ask(commands, |answer| Command::Unenroll { netns, answer }).await)
        }
        Request::Cni(request) => result(ask(commands, |answer| Command::Cni { request, answer }).await),
        Request::Observe(filter) => return observe(&mut stream, &filter, verdicts).await,
    };
    write(&mut stream, &line).await
}

async fn ask<T>(
    commands: &mpsc::Sender<Command>,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Option<T> {
    let (answer, answered) = oneshot::channel();
    commands.send(command(answer)).await.ok()?;
    answered.await.ok()
}

fn result<T: Serialize>(answer: Option<Result<T, String>>) -> Line {
    match answer {
        Some(Err(error)) => Line::Failed(Failure { error }),
        Some(Ok(answer)) => item(Some(answer)),
        None => item::<()>(None),
    }
}

fn item<T: Serialize>(answer: Option<T>) -> Line {
    match answer.map(serde_json::to_value) {
        Some(Ok(value)) => Line::Item(value),
        Some(Err(error)) => Line::Failed(Failure {
            error: error.to_string(),
        }),
        None => Line::Failed(Failure {
            error: "the agent is ending".to_owned(),
        }),
    }
}

async fn observe(stream: &mut BufReader<UnixStream>, filter: &Filter, verdicts: &Verdicts) -> io::Result<()> {
    // Subscribe first: what comes between the two is shown, and shown once.
    let (recent, mut coming) = verdicts.subscribe();
    for verdict in recent.iter().filter(|verdict| filter.admits(verdict)) {
        write(stream, &item(Some(&**verdict))).await?;
    }
    if !filter.follow {
        return Ok(());
    }
    let _wanting = filter.wants_allowed().then(|| verdicts.want_allowed());
    let mut byte = [0; 1];
    loop {
        tokio::select! {
            verdict = coming.recv() => match verdict {
                Ok(verdict) if filter.admits(&verdict) => write(stream, &item(Some(&*verdict))).await?,
                Ok(_) => {}
                Err(RecvError::Lagged(lost)) => {
                    let error = format!("{lost} verdicts came too fast to be shown");
                    write(stream, &Line::Failed(Failure { error })).await?;
                }
                Err(RecvError::Closed) => return Ok(()),
            },
            // A client says nothing more; it can only hang up.
            _ = tokio::io::AsyncReadExt::read(stream, &mut byte) => return Ok(()),
        }
    }
}

async fn write(stream: &mut BufReader<UnixStream>, line: &Line) -> io::Result<()> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    stream.write_all(&text).await
}
