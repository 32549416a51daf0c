//! Patterns of paths as prefix trees: one of beginnings, one of ends, and which patterns have room in a path.

use super::super::{Error, Image, within};
use crate::spec::syscall_match::Pattern;
use chaos_common::syscall_match::{LENGTHS_MAX, PATTERNS_MAX};

/// Patterns of all rules; the place in the list is a pattern's bit.
#[derive(Debug, Default)]
pub struct Patterns {
    all: Vec<Option<Pattern>>,
    /// Those that a rule has.
    used: u64,
    /// Whether others may come while programs run that know which tables there are.
    shared: bool,
}

impl Patterns {
    /// With these, which keep their bits if a rule has them.
    pub fn new(all: Vec<Option<Pattern>>, shared: bool) -> Self {
        Self { all, used: 0, shared }
    }

    /// Bits of patterns, which are remembered.
    pub fn bits(&mut self, patterns: &[Pattern]) -> u64 {
        let mut bits = 0;
        for pattern in patterns {
            let known = self.all.iter().position(|known| known.as_ref() == Some(pattern));
            let place = known.or_else(|| self.all.iter().position(Option::is_none)).unwrap_or(self.all.len());
            match self.all.get_mut(place) {
                Some(at) => *at = Some(pattern.clone()),
                None => self.all.push(Some(pattern.clone())),
            }
            // Too many of them are refused in the end.
            bits |= 1u64.checked_shl(place as u32).unwrap_or(0);
        }
        self.used |= bits;
        bits
    }

    /// Makes the tables.
    pub fn finish(mut self, image: &mut Image) -> Result<(), Error> {
        within("path patterns", self.all.len(), PATTERNS_MAX)?;
        let unused = self.all.iter_mut().enumerate().filter(|(place, _)| self.used & 1 << place == 0);
        unused.for_each(|(_, pattern)| *pattern = None);
        let all: Vec<_> = self
            .all
            .iter()
            .enumerate()
            .filter_map(|(place, pattern)| Some((place, pattern.as_ref()?)))
            .collect();
        if !all.is_empty() {
            fill(&all, self.shared, image);
        }
        image.patterns = self.all;
        Ok(())
    }
}

fn fill(all: &[(usize, &Pattern)], shared: bool, image: &mut Image) {
    let whole = |pattern: &Pattern| pattern.end.is_none();
    let beginnings = all.iter().map(|(place, pattern)| {
        let end = if whole(pattern) { &[0][..] } else { &[] };
        (*place, [&pattern.begin[..], end].concat())
    });
    image.path_beginnings = cumulated(&beginnings.collect::<Vec<_>>());
    let backwards = |end: &Vec<u8>| end.iter().rev().copied().collect::<Vec<u8>>();
    let endings = all
        .iter()
        .map(|(place, pattern)| (*place, pattern.end.as_ref().map(backwards).unwrap_or_default()))
        .collect::<Vec<_>>();
    if !shared && endings.iter().all(|(_, ending)| ending.is_empty()) {
        return;
    }
    image.path_endings = cumulated(&endings);
    image.path_lengths = (0..LENGTHS_MAX as usize)
        .map(|length| {
            let has_room = |pattern: &Pattern| {
                let least = pattern.begin.len() + pattern.end.as_ref().map_or(0, Vec::len);
                whole(pattern) || least <= length
            };
            let fitting = all.iter().filter(|(_, pattern)| has_room(pattern));
            fitting.fold(0, |bits, (place, _)| bits | 1 << place)
        })
        .collect();
}

/// Every beginning, and the empty one, with the places of all that it begins with: the kernel finds only the longest.
fn cumulated(beginnings: &[(usize, Vec<u8>)]) -> Vec<(Vec<u8>, u64)> {
    let mut keys: Vec<Vec<u8>> = beginnings.iter().map(|(_, key)| key.clone()).chain([vec![]]).collect();
    keys.sort_unstable();
    keys.dedup();
    let places = |key: &Vec<u8>| {
        let shorter = beginnings.iter().filter(|(_, beginning)| key.starts_with(beginning));
        shorter.fold(0, |bits, (place, _)| bits | 1 << place)
    };
    keys.iter().map(|key| (key.clone(), places(key))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chaos_common::syscall_match::matching_patterns;
    use proptest::prelude::*;

    /// Patterns the kernel finds for a path.
    fn paths(image: &Image, path: &[u8]) -> u64 {
        let longest = |table: &[(Vec<u8>, u64)], key: &[u8]| {
            let found = table.iter().filter(|(begin, _)| key.starts_with(begin));
            found.max_by_key(|(begin, _)| begin.len()).unwrap().1
        };
        let matching = longest(&image.path_beginnings, &[path, &[0]].concat());
        if image.path_endings.is_empty() {
            return matching;
        }
        let backwards: Vec<u8> = path.iter().rev().copied().chain([0]).collect();
        let room = image.path_lengths[path.len().min(LENGTHS_MAX as usize - 1)];
        matching_patterns(matching, longest(&image.path_endings, &backwards), room)
    }

    #[test]
    fn patterns_keep_their_bits_while_a_rule_has_them() {
        let pattern = |text: &str| text.parse::<Pattern>().unwrap();
        let encoded = |before: Vec<Option<Pattern>>, wanted: &[&str]| {
            let (mut image, mut patterns) = (Image::default(), Patterns::new(before, true));
            let bits: Vec<_> = wanted.iter().map(|text| patterns.bits(&[pattern(text)])).collect();
            patterns.finish(&mut image).unwrap();
            (image, bits)
        };
        let (image, bits) = encoded(vec![], &["/a", "/b/*", "/c"]);
        assert_eq!(bits, [0b001, 0b010, 0b100]);
        // Also where no pattern has an end: programs may look for it.
        assert!(!image.path_endings.is_empty());
        let (image, bits) = encoded(image.patterns, &["/c", "/b/*"]);
        assert_eq!(bits, [0b100, 0b010]);
        let (image, bits) = encoded(image.patterns, &["/b/*", "/d", "/c", "/e"]);
        assert_eq!(bits, [0b010, 0b001, 0b100, 0b1000]);
        assert_eq!(paths(&image, b"/b/x"), 0b010);
        assert_eq!(paths(&image, b"/a"), 0);
    }

    proptest! {
        /// The tables say of every path what its patterns say of it.
        #[test]
        fn tables_are_like_patterns(texts in proptest::collection::vec("(/[ab/]{0,3}[ab]|/[ab]{0,2}\\*[ab/]{0,3}|\\*[ab]{1,2})", 1..6),
                                    path in "/[ab/]{0,6}") {
            let all: Vec<Pattern> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let (mut image, mut patterns) = (Image::default(), Patterns::default());
            patterns.bits(&all);
            patterns.finish(&mut image).unwrap();
            let patterns: Vec<_> = image.patterns.iter().flatten().collect();
            let expected = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(path.as_bytes()));
            let expected = expected.fold(0, |bits, (place, _)| bits | 1u64 << place);
            prop_assert_eq!(paths(&image, path.as_bytes()), expected);
        }
    }
}
