//! Who talks to what outside, as a picture: pods on the left, what they call on the right.

use std::collections::BTreeMap;

use maud::{Markup, display, html};

use super::traffic::Flow;

const WIDTH: u32 = 1000;
const ROW: u32 = 34;
const MARGIN: u32 = 16;
const BOX_WIDTH: u32 = 330;
const BOX_HEIGHT: u32 = 24;
/// Longer names lose their middle; the whole is in the title.
const NAME: usize = 44;

/// Draws the flows.
pub(super) fn picture(flows: &[(Flow, u64)]) -> Markup {
    let senders = rows(flows.iter().map(|(flow, _)| flow.from.as_str()));
    let places = rows(flows.iter().map(|(flow, _)| flow.to.as_str()));
    let height = 2 * MARGIN + ROW * count(senders.len().max(places.len()).max(1));
    let right = WIDTH - MARGIN - BOX_WIDTH;
    html! {
        svg viewBox=(format!("0 0 {WIDTH} {height}")) role="img" aria-label="who talks to what outside" {
            @for (flow, packets) in flows {
                @let from = middle(senders[flow.from.as_str()]);
                @let to = middle(places[flow.to.as_str()]);
                @let (start, end) = (MARGIN + BOX_WIDTH, right);
                @let bend = u32::midpoint(start, end);
                path class=(display(flow.verdict)) stroke-width=(width(*packets))
                    d=(format!("M{start} {from} C{bend} {from} {bend} {to} {end} {to}")) {
                    title { (flow.from) " → " (flow.to) ": " (display(flow.verdict)) ", " (packets) " packets" }
                }
            }
            @for (name, row) in &senders { (named_box(name, MARGIN, *row)) }
            @for (name, row) in &places { (named_box(name, right, *row)) }
        }
    }
}

/// Each name once, with its row.
fn rows<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, u32> {
    let mut rows: BTreeMap<&str, u32> = names.map(|name| (name, 0)).collect();
    for (row, place) in (0..).zip(rows.values_mut()) {
        *place = row;
    }
    rows
}

fn named_box(name: &str, x: u32, row: u32) -> Markup {
    let y = middle(row) - BOX_HEIGHT / 2;
    html! {
        g {
            title { (name) }
            rect x=(x) y=(y) width=(BOX_WIDTH) height=(BOX_HEIGHT) rx="4" {}
            text x=(x + 10) y=(middle(row) + 5) { (shortened(name)) }
        }
    }
}

fn shortened(name: &str) -> String {
    let letters: Vec<char> = name.chars().collect();
    if letters.len() <= NAME {
        return name.to_owned();
    }
    let half = (NAME - 1) / 2;
    let (head, tail) = (&letters[..half], &letters[letters.len() - half..]);
    head.iter().chain(&['…']).chain(tail).collect()
}

const fn middle(row: u32) -> u32 {
    MARGIN + row * ROW + ROW / 2
}

/// A line is as wide as the logarithm of what goes along it.
const fn width(packets: u64) -> u32 {
    match packets {
        0 => 1,
        packets => 1 + packets.ilog10(),
    }
}

fn count(rows: usize) -> u32 {
    u32::try_from(rows).unwrap_or(u32::MAX / ROW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Kind;

    #[test]
    fn names_stand_once_and_nothing_in_them_is_markup() {
        let flow = |from: &str, to: &str| Flow {
            from: from.to_owned(),
            to: to.to_owned(),
            verdict: Kind::Deny,
        };
        let flows = [(flow("shop/<b>", "one"), 1), (flow("shop/<b>", "two"), 1_000)];
        let text = picture(&flows).into_string();
        assert_eq!(text.matches("<rect").count(), 3);
        assert!(!text.contains("<b>"), "{text}");
        assert!(text.contains("stroke-width=\"4\""), "{text}");
        assert!(picture(&[]).into_string().contains("<svg"));
    }

    #[test]
    fn long_names_lose_their_middle() {
        let long = "a".repeat(30) + &"z".repeat(30);
        let short = shortened(&long);
        assert_eq!(short.chars().count(), 43);
        assert!(short.starts_with("aaa") && short.ends_with("zzz"));
        assert_eq!(shortened("short"), "short");
    }
}
