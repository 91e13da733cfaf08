//! What a file holds.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    path::Path,
    sync::Arc,
};

use super::{
    document::{Chunk, Document, chunks},
    stores::{AnyObject, UnknownKind},
};
use crate::{
    objects::ObjectRef,
    problem::{Origin, Problem, Severity},
};

/// How many errors of one file are told of.
pub(super) const MAX_ERRORS: usize = 20;

/// The documents of a file.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub(super) objects: Vec<AnyObject>,
    pub(super) ignored: BTreeMap<UnknownKind, usize>,
    /// The object that was read from a text of this hash, so that of a long file only what has changed is read
    /// again.
    by_text: HashMap<u64, usize>,
}

impl Content {
    /// Reads all documents of a file, or finds everything that is wrong with them.
    pub(super) fn read(
        path: &Arc<Path>,
        bytes: &[u8],
        last: Option<&Self>,
        hasher: &RandomState,
    ) -> Result<Self, Vec<Problem>> {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = bytes[..error.valid_up_to()].split(|byte| *byte == b'\n').count() as u64;
            let problem = Problem::new(Severity::Error, "is not UTF-8 text");
            vec![problem.at(Origin::line(path.clone(), line))]
        })?;
        let mut content = Self::default();
        let mut problems = Vec::new();
        for chunk in chunks(text) {
            let hash = hasher.hash_one(chunk.text);
            if let Some(object) = last.and_then(|last| last.known(hash, &chunk)) {
                content.add(hash, object);
                continue;
            }
            match chunk.read(path) {
                Ok(Document::Unknown(kind)) => *content.ignored.entry(kind).or_default() += 1,
                Ok(Document::Object(object)) => content.add(hash, object),
                Err((origin, error)) => {
                    problems.push(Problem::new(Severity::Error, error.to_string()).at(origin));
                }
            }
        }
        content.find_duplicates(&mut problems);
        problems.truncate(MAX_ERRORS);
        if problems.is_empty() {
            Ok(content)
        } else {
            Err(problems)
        }
    }

    fn add(&mut self, hash: u64, object: AnyObject) {
        self.by_text.insert(hash, self.objects.len());
        self.objects.push(object);
    }

    fn known(&self, hash: u64, chunk: &Chunk<'_>) -> Option<AnyObject> {
        let object = self.objects.get(*self.by_text.get(&hash)?)?;
        Some(object.clone().on_line(chunk.object_line()))
    }

    fn find_duplicates(&self, problems: &mut Vec<Problem>) {
        let mut places: BTreeMap<ObjectRef, &Origin> = BTreeMap::new();
        for object in &self.objects {
            if let Some(first) = places.insert(object.reference(), object.origin()) {
                problems.push(duplicate(object, first));
            }
        }
    }
}

/// An object that is in two places.
pub(super) fn duplicate(object: &AnyObject, first: &Origin) -> Problem {
    let message = format!("is in {first} already; an object may be in one place only");
    Problem::new(Severity::Error, message)
        .about(object.reference())
        .at(object.origin().clone())
}
