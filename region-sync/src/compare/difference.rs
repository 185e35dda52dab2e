//! How what is shown of a region differs from what it has. Pure.

use std::collections::{BTreeSet, HashMap, HashSet};

use kvmesh_directory::{BlockName, Tag, view::range_of};

/// See the module.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Difference {
    /// Blocks that are there and not shown.
    pub(crate) missing: Vec<(BlockName, u32)>,
    /// Tags that are shown and not there.
    pub(crate) gone: Vec<Tag>,
    /// Blocks that are shown with another size.
    pub(crate) resized: Vec<(Tag, u32)>,
    /// Deleted names, and namespaces, of which the own region had not heard.
    pub(crate) objects: usize,
}

impl Difference {
    /// Of what is shown, and what is there, in the same ranges at the same position.
    pub(crate) fn between(
        shown: impl Iterator<Item = (Tag, u32)>,
        there: &[(BlockName, u32)],
    ) -> Self {
        let mut left: HashMap<Tag, (BlockName, u32)> = there
            .iter()
            .map(|(name, bytes)| (name.tag(), (*name, *bytes)))
            .collect();
        let mut difference = Self::default();
        for (tag, bytes) in shown {
            match left.remove(&tag) {
                None => difference.gone.push(tag),
                Some((_, right)) if right != bytes => difference.resized.push((tag, right)),
                Some(_) => {}
            }
        }
        difference.missing = left.into_values().collect();
        difference.missing.sort_unstable();
        difference
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects == 0
            && self.missing.is_empty()
            && self.gone.is_empty()
            && self.resized.is_empty()
    }

    /// Adds what was found elsewhere.
    pub(super) fn extend(&mut self, more: Self) {
        self.missing.extend(more.missing);
        self.gone.extend(more.gone);
        self.resized.extend(more.resized);
        self.objects += more.objects;
    }

    /// Leaves out what is about these tags.
    pub(crate) fn without(&mut self, tags: &HashSet<Tag>) {
        self.missing.retain(|(name, _)| !tags.contains(&name.tag()));
        self.gone.retain(|tag| !tags.contains(tag));
        self.resized.retain(|(tag, _)| !tags.contains(tag));
    }

    /// As a step: what appears, and what vanishes.
    pub(crate) fn tags(&self) -> (Vec<(Tag, u32)>, Vec<Tag>) {
        let missing = self
            .missing
            .iter()
            .map(|(name, bytes)| (name.tag(), *bytes));
        (
            missing.chain(self.resized.iter().copied()).collect(),
            self.gone.clone(),
        )
    }

    /// The ranges that it is about.
    pub(crate) fn ranges(&self) -> usize {
        let (appeared, vanished) = self.tags();
        let tags = appeared.into_iter().map(|(tag, _)| tag).chain(vanished);
        tags.map(range_of).collect::<BTreeSet<_>>().len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{block, namespace};

    #[test]
    fn what_is_missing_gone_and_of_another_size_is_told_apart() {
        let model = namespace("m");
        let [one, two, three, four] = [1, 2, 3, 4].map(|number| block(&model, number));
        let shown = [(one.tag(), 10), (two.tag(), 20), (three.tag(), 30)];
        let there = [(one, 10), (three, 31), (four, 40)];
        let mut difference = Difference::between(shown.into_iter(), &there);
        assert_eq!(difference.missing, [(four, 40)]);
        assert_eq!(difference.gone, [two.tag()]);
        assert_eq!(difference.resized, [(three.tag(), 31)]);
        let (appeared, vanished) = difference.tags();
        assert_eq!(appeared, [(four.tag(), 40), (three.tag(), 31)]);
        assert_eq!(vanished, [two.tag()]);
        let mut ranges = [two, three, four].map(|name| range_of(name.tag())).to_vec();
        ranges.sort_unstable();
        ranges.dedup();
        assert_eq!(difference.ranges(), ranges.len());
        // A step said more of them since.
        difference.without(&[two, three].map(|name| name.tag()).into());
        assert_eq!(difference.missing, [(four, 40)]);
        assert!(difference.gone.is_empty() && difference.resized.is_empty());
        difference.without(&[four.tag()].into());
        assert!(difference.is_empty());
    }

    #[test]
    fn equal_content_has_no_difference() {
        let model = namespace("m");
        let there: Vec<_> = (0..50)
            .map(|number| (block(&model, number), number))
            .collect();
        let shown = there.iter().rev().map(|(name, bytes)| (name.tag(), *bytes));
        assert!(Difference::between(shown, &there).is_empty());
    }
}
