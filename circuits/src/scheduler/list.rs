//! Queues of slot numbers, each at most once, from whose middle one can be taken in constant time.

/// A node's neighbours; `None` of both ends for one that is alone.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    listed: bool,
    before: Option<usize>,
    after: Option<usize>,
}

/// A doubly linked list whose nodes are slot numbers.
#[derive(Debug, Default)]
pub(super) struct List {
    nodes: Vec<Node>,
    first: Option<usize>,
    last: Option<usize>,
}

impl List {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    pub(super) fn front(&self) -> Option<usize> {
        self.first
    }

    pub(super) fn contains(&self, slot: usize) -> bool {
        self.nodes.get(slot).is_some_and(|node| node.listed)
    }

    /// Puts a slot at the end, unless it is listed already.
    pub(super) fn push_back(&mut self, slot: usize) {
        if self.contains(slot) {
            return;
        }
        if self.nodes.len() <= slot {
            self.nodes.resize(slot + 1, Node::default());
        }
        self.nodes[slot] = Node {
            listed: true,
            before: self.last,
            after: None,
        };
        match self.last {
            Some(last) => self.nodes[last].after = Some(slot),
            None => self.first = Some(slot),
        }
        self.last = Some(slot);
    }

    /// Takes a slot out, wherever it stands.
    pub(super) fn remove(&mut self, slot: usize) {
        if !self.contains(slot) {
            return;
        }
        let Node { before, after, .. } = std::mem::take(&mut self.nodes[slot]);
        match before {
            Some(before) => self.nodes[before].after = after,
            None => self.first = after,
        }
        match after {
            Some(after) => self.nodes[after].before = before,
            None => self.last = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_behaves_like_a_queue_without_doubles(
            steps in prop::collection::vec((any::<bool>(), 0usize..12), 0..200),
        ) {
            let (mut list, mut model) = (List::default(), VecDeque::new());
            for (push, slot) in steps {
                if push && !model.contains(&slot) {
                    model.push_back(slot);
                } else if !push {
                    model.retain(|&other| other != slot);
                }
                if push { list.push_back(slot) } else { list.remove(slot) }
                prop_assert_eq!(list.front(), model.front().copied());
                prop_assert_eq!(list.is_empty(), model.is_empty());
                prop_assert!((0..12).all(|slot| list.contains(slot) == model.contains(&slot)));
            }
            while let Some(slot) = list.front() {
                prop_assert_eq!(model.pop_front(), Some(slot));
                list.remove(slot);
            }
            prop_assert!(model.is_empty());
        }
    }
}
