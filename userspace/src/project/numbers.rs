//! Numbers for things that are told by their content.
//!
//! A number is made from the content alone, and not from the order in which things are met: what has not changed
//! keeps its number, and one new ServiceEntry does not renumber, and so rewrite, a hundred thousand destinations.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

/// Gives numbers from 1 to 2^31 - 1.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    taken: HashSet<u32>,
}

impl Numbers {
    const MASK: u64 = (1 << 31) - 1;

    /// A number for this content, which must not have one yet.
    pub(super) fn of<T: Hash>(&mut self, content: &T) -> u32 {
        // Its keys are constants.
        let mut hasher = DefaultHasher::new();
        content.hash(&mut hasher);
        let mut number = u32::try_from(hasher.finish() & Self::MASK).unwrap_or(1);
        while number == 0 || !self.taken.insert(number) {
            number = if number >= i32::MAX as u32 { 1 } else { number + 1 };
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_depend_on_the_content_and_are_never_given_twice() {
        let (mut some, mut others) = (Numbers::default(), Numbers::default());
        others.of(&"something else");
        assert_eq!(some.of(&"a"), others.of(&"a"));
        let second = some.of(&"a");
        assert!(second != others.of(&"b") && second > 0 && second < 1 << 31);
    }
}
