//! Where in a JSON text its parts are: what is not ours is passed on octet by octet.

use std::ops::Range;

use serde::de::{Deserialize, IgnoredAny};
use serde_json::Deserializer;

/// The text is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is no JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// Another kind of value than expected.
    #[error("expected {expected} at octet {at}")]
    Expected {
        /// What.
        expected: &'static str,
        /// Where.
        at: usize,
    },
    /// A key is there twice, and each reader takes the one that he likes.
    #[error("the key {0:?} is there twice")]
    Twice(String),
}

/// The members of the object that `text` is: keys, and where their values are.
pub(super) fn members(text: &str) -> Result<Vec<(String, Range<usize>)>, Error> {
    let mut members: Vec<(String, Range<usize>)> = Vec::new();
    let whole = 0..text.len();
    each(text, &whole, (b'{', b'}', "an object"), |at| {
        let (key, span) = value::<String>(text, at)?;
        let colon = expect(text, span.end, b':', "a colon")?;
        let (_, span) = value::<IgnoredAny>(text, colon)?;
        if members.iter().any(|(known, _)| *known == key) {
            return Err(Error::Twice(key));
        }
        members.push((key, span.clone()));
        Ok(span.end)
    })?;
    Ok(members)
}

/// The elements of the array at `place` of `text`.
pub(super) fn elements(text: &str, place: &Range<usize>) -> Result<Vec<Range<usize>>, Error> {
    let mut elements = Vec::new();
    each(text, place, (b'[', b']', "an array"), |at| {
        let (_, span) = value::<IgnoredAny>(text, at)?;
        elements.push(span.clone());
        Ok(span.end)
    })?;
    Ok(elements)
}

/// Calls `read` where each part of an object or an array begins; it returns where the part ends.
fn each(
    text: &str,
    place: &Range<usize>,
    (open, close, what): (u8, u8, &'static str),
    mut read: impl FnMut(usize) -> Result<usize, Error>,
) -> Result<(), Error> {
    // What is wrong with the text as a whole is best said by the library.
    value::<IgnoredAny>(text, place.start)?;
    let mut at = expect(text, place.start, open, what)?;
    if let Ok(end) = expect(text, at, close, what) {
        return only_space(text, end, place.end);
    }
    loop {
        at = read(at)?;
        if let Ok(end) = expect(text, at, close, what) {
            return only_space(text, end, place.end);
        }
        at = expect(text, at, b',', "a comma")?;
    }
}

fn only_space(text: &str, from: usize, to: usize) -> Result<(), Error> {
    let rest = text.get(from..to).unwrap_or_default();
    if rest.trim().is_empty() {
        Ok(())
    } else {
        Err(Error::Expected {
            expected: "nothing more",
            at: from,
        })
    }
}

/// The value that begins at `at` or after space.
fn value<'a, T: Deserialize<'a>>(text: &'a str, at: usize) -> Result<(T, Range<usize>), Error> {
    let start = skip_space(text, at);
    let missing = Error::Expected {
        expected: "a value",
        at: start,
    };
    let rest = text.get(start..).unwrap_or_default();
    let mut values = Deserializer::from_str(rest).into_iter::<T>();
    let value = values.next().ok_or(missing)??;
    Ok((value, start..start + values.byte_offset()))
}

/// Returns what comes behind the octet.
fn expect(text: &str, at: usize, octet: u8, expected: &'static str) -> Result<usize, Error> {
    let at = skip_space(text, at);
    if text.as_bytes().get(at) == Some(&octet) {
        Ok(at + 1)
    } else {
        Err(Error::Expected { expected, at })
    }
}

fn skip_space(text: &str, at: usize) -> usize {
    let rest = text.get(at..).unwrap_or_default();
    at + (rest.len() - rest.trim_ascii_start().len())
}
