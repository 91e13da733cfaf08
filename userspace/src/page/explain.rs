//! `sluice explain` as a form.

use maud::{Markup, display, html};
use serde::Deserialize;

use super::overview::{Overview, frame};
use crate::{
    api::{Destination, Explanation},
    facts::PodName,
};

/// What the form asks; nothing at first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Asked {
    pod: String,
    to: String,
}

/// What the agent says.
pub(super) enum Answer {
    Explained(Box<Explanation>),
    Failed(String),
}

impl Asked {
    /// The question, or what is wrong with it; `None` if nothing was asked.
    pub(super) fn question(&self) -> Option<Result<(PodName, Destination), String>> {
        if self.pod.is_empty() && self.to.is_empty() {
            return None;
        }
        let pod = self.pod.split_once('/').map(|(namespace, name)| PodName {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
        let question = || {
            let pod = pod.ok_or_else(|| format!("`{}` is no NAMESPACE/NAME", self.pod))?;
            let destination = self.to.trim().parse().map_err(|error| format!("{error}"))?;
            Ok((pod, destination))
        };
        Some(question())
    }
}

/// The page.
pub(super) fn page(overview: &Overview, asked: &Asked, answer: Option<&Answer>) -> Markup {
    let content = html! {
        h2 { "Would this packet be refused, and why?" }
        form action="/explain" method="get" {
            label { "Pod"
                select name="pod" {
                    @for endpoint in &overview.endpoints {
                        @let name = endpoint.pod.to_string();
                        option value=(name) selected[name == asked.pod] { (name) }
                    }
                }
            }
            label { "Destination: IP, IP:PORT, IP:PORT/udp"
                input name="to" value=(asked.to) placeholder="203.0.113.5:443" required autofocus;
            }
            button { "Explain" }
        }
        @match answer {
            None => {},
            Some(Answer::Failed(error)) => div class="problem error" { (error) },
            Some(Answer::Explained(explanation)) => (explained(explanation)),
        }
    };
    frame(&overview.status, false, &content)
}

fn explained(explanation: &Explanation) -> Markup {
    html! {
        p {
            b class=(display(explanation.verdict)) { (display(explanation.verdict)) } " " code { (explanation.reason) }
            ": " (explanation.explanation)
        }
        p class="dim" {
            (display(&explanation.pod)) " to " (display(explanation.destination)) ", by the rules of generation " (explanation.generation)
        }
        @if let Some(capture) = &explanation.capture {
            p { "Capture (" (display(capture.mode)) "): " code { (capture.reason) } ": " (capture.explanation) }
        }
        table {
            tr { th { "Because of" } th { "Where" } th { "What it says" } }
            @for cause in &explanation.because {
                tr {
                    td { (cause.object) }
                    td class="mono" { (cause.origin.as_deref().unwrap_or_default()) }
                    td { (cause.says) }
                }
            }
        }
    }
}
