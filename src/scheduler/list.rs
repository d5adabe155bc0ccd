//! An intrusive doubly linked list over the entries of a table.
//!
//! The links live in the entries, so that moving a call from a queue to a pipe, or an instance from one shelf to
//! another, allocates nothing and costs the same whatever the length. A list does not own its entries and does not
//! know its table: the caller always passes the same one.
//!
//! Invariant: an entry is in at most one list at a time. Tables that need to be in two keep two sets of links.

/// The index that means "none".
pub(super) const NIL: u32 = u32::MAX;

/// An entry's neighbours in the one list that it is in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Links {
    prev: u32,
    next: u32,
}

impl Links {
    pub(super) const NONE: Links = Links { prev: NIL, next: NIL };
}

/// What can be in a [`List`].
pub(super) trait Linked {
    fn links(&self) -> Links;
    fn links_mut(&mut self) -> &mut Links;
}

/// Head, tail and length of a list of table entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    head: u32,
    tail: u32,
    len: u32,
}

impl List {
    pub(super) const EMPTY: List = List { head: NIL, tail: NIL, len: 0 };

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn front(&self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    pub(super) fn back(&self) -> Option<u32> {
        (self.tail != NIL).then_some(self.tail)
    }

    pub(super) fn push_back<T: Linked>(&mut self, table: &mut [T], at: u32) {
        *table[at as usize].links_mut() = Links { prev: self.tail, next: NIL };
        match self.tail {
            NIL => self.head = at,
            tail => table[tail as usize].links_mut().next = at,
        }
        self.tail = at;
        self.len += 1;
    }

    pub(super) fn push_front<T: Linked>(&mut self, table: &mut [T], at: u32) {
        *table[at as usize].links_mut() = Links { prev: NIL, next: self.head };
        match self.head {
            NIL => self.tail = at,
            head => table[head as usize].links_mut().prev = at,
        }
        self.head = at;
        self.len += 1;
    }

    /// Takes out an entry that is in this list.
    pub(super) fn remove<T: Linked>(&mut self, table: &mut [T], at: u32) {
        let Links { prev, next } = table[at as usize].links();
        match prev {
            NIL => self.head = next,
            prev => table[prev as usize].links_mut().next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => table[next as usize].links_mut().prev = prev,
        }
        *table[at as usize].links_mut() = Links::NONE;
        self.len -= 1;
    }

    pub(super) fn pop_front<T: Linked>(&mut self, table: &mut [T]) -> Option<u32> {
        let at = self.front()?;
        self.remove(table, at);
        Some(at)
    }

    /// The entry behind one that is in this list.
    pub(super) fn after<T: Linked>(&self, table: &[T], at: u32) -> Option<u32> {
        let next = table[at as usize].links().next;
        (next != NIL).then_some(next)
    }

    /// The entries from front to back: for those who check, and who look for the neediest on a full machine; nobody else
    /// on the way of a call walks a list.
    pub(super) fn iter<'a, T: Linked>(&self, table: &'a [T]) -> impl Iterator<Item = u32> + 'a {
        let mut at = self.head;
        std::iter::from_fn(move || {
            let here = (at != NIL).then_some(at)?;
            at = table[here as usize].links().next;
            Some(here)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    struct Entry(Links);
    impl Linked for Entry {
        fn links(&self) -> Links {
            self.0
        }
        fn links_mut(&mut self) -> &mut Links {
            &mut self.0
        }
    }

    proptest! {
        #[test]
        fn behaves_like_a_deque(steps in proptest::collection::vec((0u8..4, 0u32..8), 0..200)) {
            let mut table: Vec<Entry> = (0..8).map(|_| Entry(Links::NONE)).collect();
            let mut list = List::EMPTY;
            let mut model: VecDeque<u32> = VecDeque::new();
            for (step, at) in steps {
                let inside = model.contains(&at);
                match step {
                    0 if !inside => { list.push_back(&mut table, at); model.push_back(at) }
                    1 if !inside => { list.push_front(&mut table, at); model.push_front(at) }
                    2 if inside => { list.remove(&mut table, at); model.retain(|&it| it != at) }
                    3 => prop_assert_eq!(list.pop_front(&mut table), model.pop_front()),
                    _ => {}
                }
                prop_assert_eq!(list.iter(&table).collect::<VecDeque<_>>(), model.clone());
                prop_assert_eq!(list.len(), model.len());
                prop_assert_eq!((list.front(), list.back()), (model.front().copied(), model.back().copied()));
            }
        }
    }
}
