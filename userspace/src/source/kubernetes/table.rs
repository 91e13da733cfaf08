//! What is known of the objects of one watch. Pure: what the server says goes in, objects come out.

use std::collections::{BTreeMap, BTreeSet};

use super::{super::stores::Stores, item::Item};
use crate::objects::ObjectRef;

/// The objects of one watch, as of the server's last word.
#[derive(Debug, Default)]
pub(super) struct Table {
    now: Content,
    /// A list on its way; it takes the place of what there is when all of it is here.
    next: Option<Content>,
    /// There was a time at which all of them were known.
    listed: bool,
}

#[derive(Debug, Default)]
struct Content {
    objects: Stores,
    /// Objects whose newest version cannot be read, and why. The last version that could stays in `objects`.
    unreadable: BTreeMap<ObjectRef, String>,
    /// Pods that say where on the node they are, which is not believed.
    naming_places: BTreeSet<ObjectRef>,
}

impl Table {
    /// A list begins.
    pub(super) fn begin(&mut self) {
        self.next = Some(Content::default());
    }

    /// An object of the list.
    pub(super) fn listed(&mut self, item: Item) {
        self.next.get_or_insert_default().put(item, Some(&self.now));
    }

    /// The list is whole. Whether anything is another than before.
    pub(super) fn finish(&mut self) -> bool {
        let next = self.next.take().unwrap_or_default();
        let changed = !self.listed || !next.says_what(&self.now);
        self.now = next;
        self.listed = true;
        changed
    }

    /// An object is new, or another. Whether that matters.
    pub(super) fn apply(&mut self, item: Item) -> bool {
        self.now.put(item, None)
    }

    /// An object is gone. Whether it had been here.
    pub(super) fn delete(&mut self, name: &ObjectRef) -> bool {
        let known = self.now.objects.remove(name);
        let unreadable = self.now.unreadable.remove(name).is_some();
        let named = self.now.naming_places.remove(name);
        known || unreadable || named
    }

    /// There are none any more. Whether there had been any.
    pub(super) fn clear(&mut self) -> bool {
        let had = !self.now.objects.is_empty() || !self.now.unreadable.is_empty();
        *self = Self {
            listed: self.listed,
            ..Self::default()
        };
        had
    }

    /// Whether all of them were known at some time.
    pub(super) const fn is_listed(&self) -> bool {
        self.listed
    }

    /// The objects.
    pub(super) const fn objects(&self) -> &Stores {
        &self.now.objects
    }

    /// Objects whose newest version cannot be read, why, and whether there is an older one.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (&ObjectRef, &str, bool)> {
        let known = |name| self.now.objects.get(name).is_some();
        let unreadable = self.now.unreadable.iter();
        unreadable.map(move |(name, reason)| (name, reason.as_str(), known(name)))
    }

    /// Pods that say where on the node they are.
    pub(super) const fn naming_places(&self) -> &BTreeSet<ObjectRef> {
        &self.now.naming_places
    }
}

impl Content {
    /// Puts an object in its place; one that cannot be read leaves there what was, here or in `before`. Whether
    /// anything is another.
    fn put(&mut self, item: Item, before: Option<&Self>) -> bool {
        let Item {
            name,
            version: _,
            read,
            names_places,
        } = item;
        let mut changed = if names_places {
            self.naming_places.insert(name.clone())
        } else {
            self.naming_places.remove(&name)
        };
        let known = before.map_or_else(|| self.objects.get(&name), |before| before.objects.get(&name));
        match read {
            Ok(object) => {
                changed |= self.unreadable.remove(&name).is_some();
                match known {
                    // The one that there is goes on being shared.
                    Some(known) if known.says_what(&object) => self.objects.put(known),
                    Some(_) | None => {
                        changed = true;
                        self.objects.put(object);
                    }
                }
            }
            Err(reason) => {
                if let Some(known) = known {
                    self.objects.put(known);
                }
                changed |= self.unreadable.get(&name) != Some(&reason);
                self.unreadable.insert(name, reason);
            }
        }
        changed
    }

    fn says_what(&self, other: &Self) -> bool {
        // An object that says the same is the same, origin and all: `put` sees to it.
        self.objects == other.objects
            && self.unreadable == other.unreadable
            && self.naming_places == other.naming_places
    }
}
