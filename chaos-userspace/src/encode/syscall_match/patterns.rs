//! Patterns of paths as prefix trees: one of beginnings, one of ends, and which patterns have room in a path.

use super::super::{Error, Image, within};
use crate::spec::syscall_match::Pattern;
use chaos_common::syscall_match::{LENGTHS_MAX, PATTERNS_MAX};

/// Patterns of all rules; the place in the list is a pattern's bit.
#[derive(Debug, Default)]
pub struct Patterns(Vec<Pattern>);

impl Patterns {
    /// Bits of patterns, which are remembered.
    pub fn bits(&mut self, patterns: &[Pattern]) -> u64 {
        let mut bits = 0;
        for pattern in patterns {
            let place = self.0.iter().position(|known| known == pattern).unwrap_or_else(|| {
                self.0.push(pattern.clone());
                self.0.len() - 1
            });
            // Too many of them are refused in the end.
            bits |= 1u64.checked_shl(place as u32).unwrap_or(0);
        }
        bits
    }

    /// Makes the tables.
    pub fn finish(&self, image: &mut Image) -> Result<(), Error> {
        within("path patterns", self.0.len(), PATTERNS_MAX)?;
        if self.0.is_empty() {
            return Ok(());
        }
        let whole = |pattern: &Pattern| pattern.end.is_none();
        let beginnings = self.0.iter().map(|pattern| {
            let end = if whole(pattern) { &[0][..] } else { &[] };
            [&pattern.begin[..], end].concat()
        });
        image.path_beginnings = cumulated(&beginnings.collect::<Vec<_>>());
        let backwards = |end: &Vec<u8>| end.iter().rev().copied().collect::<Vec<u8>>();
        let endings = self.0.iter().map(|pattern| pattern.end.as_ref().map(backwards).unwrap_or_default());
        let endings: Vec<_> = endings.collect();
        if endings.iter().all(Vec::is_empty) {
            return Ok(());
        }
        image.path_endings = cumulated(&endings);
        image.path_lengths = (0..LENGTHS_MAX as usize)
            .map(|length| {
                let has_room = |pattern: &Pattern| {
                    let least = pattern.begin.len() + pattern.end.as_ref().map_or(0, Vec::len);
                    whole(pattern) || least <= length
                };
                let fitting = self.0.iter().enumerate().filter(|(_, pattern)| has_room(pattern));
                fitting.fold(0, |bits, (place, _)| bits | 1 << place)
            })
            .collect();
        Ok(())
    }
}

/// Every beginning, and the empty one, with the places of all that it begins with: the kernel finds only the longest.
fn cumulated(beginnings: &[Vec<u8>]) -> Vec<(Vec<u8>, u64)> {
    let mut keys: Vec<Vec<u8>> = beginnings.iter().cloned().chain([vec![]]).collect();
    keys.sort_unstable();
    keys.dedup();
    let places = |key: &Vec<u8>| {
        let shorter = beginnings.iter().enumerate().filter(|(_, beginning)| key.starts_with(beginning));
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

    proptest! {
        /// The tables say of every path what its patterns say of it.
        #[test]
        fn tables_are_like_patterns(texts in proptest::collection::vec("(/[ab/]{0,3}[ab]|/[ab]{0,2}\\*[ab/]{0,3}|\\*[ab]{1,2})", 1..6),
                                    path in "/[ab/]{0,6}") {
            let all: Vec<Pattern> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let (mut image, mut patterns) = (Image::default(), Patterns::default());
            patterns.bits(&all);
            patterns.finish(&mut image).unwrap();
            let patterns = patterns.0;
            let expected = patterns.iter().enumerate().filter(|(_, pattern)| pattern.matches(path.as_bytes()));
            let expected = expected.fold(0, |bits, (place, _)| bits | 1u64 << place);
            prop_assert_eq!(paths(&image, path.as_bytes()), expected);
        }
    }
}
