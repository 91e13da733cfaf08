//! How many tests ran where, and how they ended.

use std::time::Duration;

/// What one test program said at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
    pub(super) ignored: u64,
    /// How long the tests took, without starting the program.
    pub(super) duration: Duration,
}

/// Finds what test programs said at their ends, in the order in which they ran:
/// `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(super) fn read_all(output: &str) -> Vec<Counts> {
    output.lines().filter_map(read).collect()
}

fn read(line: &str) -> Option<Counts> {
    let (_, counts) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let count = |word: &str| {
        counts
            .split("; ")
            .find_map(|part| part.strip_suffix(word)?.trim().parse::<u64>().ok())
    };
    let seconds = counts
        .split("; ")
        .find_map(|part| part.strip_prefix("finished in ")?.strip_suffix('s')?.parse().ok())?;
    Some(Counts {
        passed: count("passed")?,
        failed: count("failed")?,
        ignored: count("ignored")?,
        duration: Duration::try_from_secs_f64(seconds).ok()?,
    })
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Tally {
    rows: Vec<(String, String, Counts)>,
}

impl Tally {
    pub(super) fn add(&mut self, place: &str, name: &str, counts: Counts) {
        self.rows.push((place.to_owned(), name.to_owned(), counts));
    }

    pub(super) fn failed(&self) -> bool {
        self.rows.iter().any(|(_, _, counts)| counts.failed > 0)
    }

    pub(super) fn print(&self, duration: Duration) {
        let width = |of: fn(&(String, String, Counts)) -> &String| {
            self.rows.iter().map(|row| of(row).len()).max().unwrap_or(0)
        };
        let (places, names) = (width(|row| &row.0), width(|row| &row.1));
        println!();
        for (place, name, counts) in &self.rows {
            println!(
                "{place:places$}   {name:names$}   {:4} passed, {} failed, {} ignored, {:4} s",
                counts.passed,
                counts.failed,
                counts.ignored,
                counts.duration.as_secs()
            );
        }
        let sum = |of: fn(&Counts) -> u64| self.rows.iter().map(|(_, _, counts)| of(counts)).sum::<u64>();
        println!("in {} min {} s", duration.as_secs() / 60, duration.as_secs() % 60);
        println!(
            "{} passed, {} failed",
            sum(|counts| counts.passed),
            sum(|counts| counts.failed)
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_a_test_program_says_at_its_end() {
        let output = "running 3 tests\ntest a ... ok\n\
            test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s\n\
            test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 61.50s\n";
        let expected = [
            Counts {
                passed: 3,
                failed: 0,
                ignored: 1,
                duration: Duration::from_millis(10),
            },
            Counts {
                passed: 1,
                failed: 2,
                ignored: 0,
                duration: Duration::from_millis(61_500),
            },
        ];
        assert_eq!(read_all(output), expected);
        assert_eq!(read_all("test result: nonsense"), []);
    }
}
