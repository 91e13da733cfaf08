//! What the guest's console says, line by line.
//!
//! The guest's `init` prints two lines that carry a word chosen for this one run: where the payload begins, and with
//! what exit code it ended. Because nobody else knows the word, no output of a payload can be mistaken for a verdict.

/// The word that marks the lines of one run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tag(String);

/// What one line of the console means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Line<'a> {
    /// The guest is up; what follows comes from the payload.
    Begin,
    /// The payload ended with this exit code.
    Verdict(i32),
    /// The kernel gave up.
    Panic(&'a str),
    /// Anything else.
    Text(&'a str),
}

impl Tag {
    /// A tag from a number nobody guesses by accident.
    pub(crate) fn new(number: u128) -> Self {
        Self(format!("sluice-vm-{number:032x}"))
    }

    /// The tag as `init` is told it.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads one line, whose end is already cut off.
    pub(crate) fn read<'a>(&self, line: &'a str) -> Line<'a> {
        // Output without a newline may stand before the tag, so it is looked for anywhere in the line.
        if let Some((_, rest)) = line.split_once(self.as_str()) {
            if rest.trim() == "begin" {
                return Line::Begin;
            }
            if let Some(code) = rest
                .trim()
                .strip_prefix("exit=")
                .and_then(|code| code.parse().ok())
            {
                return Line::Verdict(code);
            }
        }
        if is_panic(line) {
            Line::Panic(line)
        } else {
            Line::Text(line)
        }
    }
}

/// A kernel message has its time in brackets in front, which tells it from a payload that quotes one.
fn is_panic(line: &str) -> bool {
    line.trim_start()
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
        .is_some_and(|(time, text)| {
            time.trim().parse::<f64>().is_ok() && text.starts_with("Kernel panic - not syncing")
        })
}

/// A line of the serial console as text: carriage returns and terminal noise at its ends removed.
pub(crate) fn clean(raw: &[u8]) -> String {
    String::from_utf8_lossy(raw)
        .trim_end_matches(['\r', '\n'])
        .trim_start_matches('\r')
        .to_owned()
}

/// The last `count` lines, indented, for an error message.
pub(crate) fn tail(console: &str, count: usize) -> String {
    let lines: Vec<_> = console.lines().collect();
    let start = lines.len().saturating_sub(count);
    lines[start..]
        .iter()
        .flat_map(|line| ["    ", line, "\n"])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_read_even_behind_unfinished_output() {
        let tag = Tag::new(7);
        assert_eq!(tag.read(&format!("{} begin", tag.as_str())), Line::Begin);
        assert_eq!(tag.read(&format!("{} exit=0", tag.as_str())), Line::Verdict(0));
        assert_eq!(
            tag.read(&format!("done.{} exit=101", tag.as_str())),
            Line::Verdict(101)
        );
    }

    #[test]
    fn a_verdict_of_another_run_or_without_a_number_is_only_text() {
        let (tag, other) = (Tag::new(7), Tag::new(8));
        let line = format!("{} exit=0", other.as_str());
        assert_eq!(tag.read(&line), Line::Text(&line));
        let line = format!("{} exit=", tag.as_str());
        assert_eq!(tag.read(&line), Line::Text(&line));
    }

    #[test]
    fn only_the_kernel_can_panic() {
        let tag = Tag::new(7);
        let line = "[    1.234567] Kernel panic - not syncing: sysrq triggered crash";
        assert_eq!(tag.read(line), Line::Panic(line));
        let quoted = "log says: Kernel panic - not syncing";
        assert_eq!(tag.read(quoted), Line::Text(quoted));
        let bracketed = "[test] Kernel panic - not syncing";
        assert_eq!(tag.read(bracketed), Line::Text(bracketed));
    }

    #[test]
    fn the_tail_is_short_and_indented() {
        assert_eq!(tail("a\nb\nc\n", 2), "    b\n    c\n");
        assert_eq!(tail("", 2), "");
        assert_eq!(clean(b"x y\r\n"), "x y");
    }
}
