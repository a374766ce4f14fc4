//! A set of byte offsets, kept as ranges that neither overlap nor touch.
//!
//! Takes memory for the ranges, not for the bytes. What a range means (written, present, wanted) is the caller's matter.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

/// The set. In serialized form a list of `(start, end)` pairs.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct RangeSet {
    /// Start to end.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// An empty set.
    pub const fn new() -> Self {
        Self { ranges: BTreeMap::new() }
    }

    /// Adds every offset of `range`.
    pub fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        // Everything that overlaps or touches becomes part of the new range.
        while let Some((found, found_end)) = self.last_starting_up_to(end).filter(|(_, found_end)| *found_end >= start)
        {
            self.ranges.remove(&found);
            start = start.min(found);
            end = end.max(found_end);
        }
        self.ranges.insert(start, end);
    }

    /// Takes every offset of `range` out.
    pub fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        while let Some((start, end)) = self.last_starting_up_to(range.end - 1).filter(|(_, end)| *end > range.start) {
            self.ranges.remove(&start);
            if end > range.end {
                self.ranges.insert(range.end, end);
            }
            if start < range.start {
                self.ranges.insert(start, range.start);
            }
        }
    }

    /// Takes every offset from `len` on out.
    pub fn truncate(&mut self, len: u64) {
        self.remove(len..u64::MAX);
    }

    /// Whether all of `range` is in the set. True for an empty one.
    pub fn contains(&self, range: &Range<u64>) -> bool {
        range.is_empty() || self.last_starting_up_to(range.start).is_some_and(|(_, end)| end >= range.end)
    }

    /// Whether anything of `range` is in the set.
    pub fn intersects(&self, range: &Range<u64>) -> bool {
        !range.is_empty() && self.last_starting_up_to(range.end - 1).is_some_and(|(_, end)| end > range.start)
    }

    /// The parts of `range` that are in the set, in order.
    pub fn within(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        if range.is_empty() {
            return Vec::new();
        }
        let first = self.last_starting_up_to(range.start).map_or(range.start, |(start, _)| start);
        let found = self.ranges.range(first..range.end);
        let cut = found.map(|(start, end)| (*start).max(range.start)..(*end).min(range.end));
        cut.filter(|part| !part.is_empty()).collect()
    }

    /// The parts of `range` that are not in the set, in order.
    pub fn gaps(&self, range: &Range<u64>) -> Vec<Range<u64>> {
        let mut gaps = Vec::new();
        let mut at = range.start;
        for part in self.within(range) {
            if at < part.start {
                gaps.push(at..part.start);
            }
            at = part.end;
        }
        if at < range.end {
            gaps.push(at..range.end);
        }
        gaps
    }

    /// Whether an offset is in the set, and up to where that is so of those behind it; `u64::MAX` if it is so of all.
    pub fn run_at(&self, offset: u64) -> (bool, u64) {
        if let Some((_, end)) = self.last_starting_up_to(offset).filter(|(_, end)| *end > offset) {
            return (true, end);
        }
        let next = self.ranges.range(offset..).next();
        (false, next.map_or(u64::MAX, |(start, _)| *start))
    }

    /// The ranges, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = Range<u64>> + '_ {
        self.ranges.iter().map(|(start, end)| *start..*end)
    }

    /// How many ranges there are.
    pub fn count(&self) -> usize {
        self.ranges.len()
    }

    /// How many offsets are in the set.
    pub fn covered(&self) -> u64 {
        self.iter().map(|range| range.end - range.start).sum()
    }

    /// One past the last offset, 0 if there is none.
    pub fn end(&self) -> u64 {
        self.ranges.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    fn last_starting_up_to(&self, offset: u64) -> Option<(u64, u64)> {
        self.ranges.range(..=offset).next_back().map(|(start, end)| (*start, *end))
    }
}

impl fmt::Debug for RangeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<Range<u64>> for RangeSet {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(ranges: I) -> Self {
        let mut set = Self::new();
        ranges.into_iter().for_each(|range| set.insert(range));
        set
    }
}

impl Serialize for RangeSet {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(self.ranges.iter())
    }
}

impl<'de> Deserialize<'de> for RangeSet {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(u64, u64)>::deserialize(from)?;
        let is_ordered = pairs.windows(2).all(|pair| pair[0].1 < pair[1].0);
        if !is_ordered || pairs.iter().any(|(start, end)| start >= end) {
            return Err(de::Error::custom("ranges that are empty, out of order or touch"));
        }
        Ok(Self { ranges: pairs.into_iter().collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LEN: u64 = 64;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(Range<u64>),
        Remove(Range<u64>),
        Truncate(u64),
    }

    fn range() -> impl Strategy<Value = Range<u64>> {
        (0..=LEN, 0..=LEN).prop_map(|(a, b)| a.min(b)..a.max(b))
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => range().prop_map(Step::Insert),
            2 => range().prop_map(Step::Remove),
            1 => (0..=LEN).prop_map(Step::Truncate),
        ]
    }

    fn run(steps: &[Step]) -> (RangeSet, [bool; LEN as usize]) {
        let (mut set, mut model) = (RangeSet::new(), [false; LEN as usize]);
        for step in steps {
            let (range, value) = match step.clone() {
                Step::Insert(range) => (range, true),
                Step::Remove(range) => (range, false),
                Step::Truncate(len) => (len..LEN, false),
            };
            model[range.start as usize..range.end as usize].fill(value);
            match step.clone() {
                Step::Insert(range) => set.insert(range),
                Step::Remove(range) => set.remove(range),
                Step::Truncate(len) => set.truncate(len),
            }
        }
        (set, model)
    }

    fn offsets(ranges: &[Range<u64>]) -> Vec<u64> {
        ranges.iter().cloned().flatten().collect()
    }

    proptest! {
        #[test]
        fn it_is_a_bitmap(steps in proptest::collection::vec(step(), 0..30), asked in range()) {
            let (set, model) = run(&steps);
            let of = |wanted: bool, within: Range<u64>| -> Vec<u64> {
                within.filter(|offset| model[*offset as usize] == wanted).collect()
            };
            let all: Vec<_> = set.iter().collect();
            prop_assert_eq!(offsets(&all), of(true, 0..LEN));
            prop_assert!(all.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(offsets(&set.within(&asked)), of(true, asked.clone()));
            prop_assert_eq!(offsets(&set.gaps(&asked)), of(false, asked.clone()));
            prop_assert_eq!(set.contains(&asked), of(false, asked.clone()).is_empty());
            prop_assert_eq!(set.intersects(&asked), !of(true, asked).is_empty());
            prop_assert_eq!(set.covered(), of(true, 0..LEN).len() as u64);
            let bytes = postcard::to_allocvec(&set).unwrap();
            prop_assert_eq!(postcard::from_bytes::<RangeSet>(&bytes).unwrap(), set.iter().collect::<RangeSet>());
            prop_assert_eq!(set.iter().collect::<RangeSet>(), set);
        }
    }

    #[test]
    fn the_ends_of_the_number_line_are_no_exception() {
        let mut set = RangeSet::new();
        set.insert(0..u64::MAX);
        set.insert(0..u64::MAX);
        assert!(set.contains(&(0..u64::MAX)));
        assert_eq!(set.end(), u64::MAX);
        set.truncate(5);
        assert_eq!((set.count(), set.covered(), set.end()), (1, 5, 5));
        set.truncate(0);
        assert!(set.is_empty());
    }

    #[test]
    fn lies_are_not_taken() {
        for bad in ["[[5,5]]", "[[5,4]]", "[[0,2],[2,3]]", "[[4,5],[0,1]]"] {
            assert!(serde_json::from_str::<RangeSet>(bad).is_err(), "{bad}");
        }
        assert_eq!(serde_json::from_str::<RangeSet>("[[0,2],[3,4]]").unwrap().count(), 2);
    }

    #[test]
    fn a_run_ends_where_something_else_begins() {
        let mut set = RangeSet::new();
        set.insert(10..20);
        set.insert(30..u64::MAX);
        assert_eq!(
            [0, 9, 10, 19, 20, 29, 30, 99].map(|at| set.run_at(at)),
            [
                (false, 10),
                (false, 10),
                (true, 20),
                (true, 20),
                (false, 30),
                (false, 30),
                (true, u64::MAX),
                (true, u64::MAX),
            ]
        );
        assert_eq!(RangeSet::new().run_at(5), (false, u64::MAX));
    }
}
