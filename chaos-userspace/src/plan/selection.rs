//! Which of the targets that fit are hit.

use crate::spec::select::Select;
use chaos_common::probability::mix;

/// Chooses among `names`: `true` for each that is hit.
///
/// Every name has its own draw, so that the same seed chooses the same targets while others come and go.
pub fn choose(names: &[&[u8]], select: Select, seed: u64) -> Result<Vec<bool>, String> {
    let count = select.count(names.len(), mix(seed))?;
    let draw = |name: &[u8]| name.iter().fold(mix(!seed), |draw, byte| mix(draw ^ u64::from(*byte)));
    let mut order: Vec<_> = (0..names.len()).collect();
    order.sort_by_cached_key(|place| (draw(names[*place]), names[*place]));
    let mut chosen = vec![false; names.len()];
    for place in order.into_iter().take(count) {
        chosen[place] = true;
    }
    Ok(chosen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("slice/web-{number}.service")).collect()
    }

    fn chosen(names: &[String], select: &str, seed: u64) -> Vec<String> {
        let bytes: Vec<_> = names.iter().map(|name| name.as_bytes()).collect();
        let hit = choose(&bytes, select.parse().unwrap(), seed).unwrap();
        names.iter().zip(hit).filter(|(_, hit)| *hit).map(|(name, _)| name.clone()).collect()
    }

    #[test]
    fn a_seed_chooses_the_same_again_whoever_else_comes() {
        let (few, many) = (names(10), names(20));
        for seed in 0..50 {
            let first = chosen(&few, "3", seed);
            assert_eq!(first.len(), 3);
            assert_eq!(first, chosen(&few, "3", seed));
            // Who was spared is not hit because others joined.
            let later = chosen(&many, "3", seed);
            assert!(
                later.iter().all(|name| first.contains(name) || !few.contains(name)),
                "{first:?} {later:?}"
            );
        }
        assert_eq!(chosen(&few, "all", 1), few);
    }

    #[test]
    fn every_target_is_chosen_as_often() {
        let names = names(10);
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..10_000 {
            for name in chosen(&names, "30%", seed) {
                *counts.entry(name).or_insert(0) += 1;
            }
        }
        // Six standard deviations of the binomial distribution with n = 10 000, p = 0.3.
        assert!(
            counts.len() == 10 && counts.values().all(|count| (2725..=3275).contains(count)),
            "{counts:?}"
        );
    }
}
