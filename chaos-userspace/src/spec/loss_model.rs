//! Loss with a memory, in netem's words.

use super::{Problems, units::Percent};
use chaos_common::chain::{CHAIN_FOUR_STATES, CHAIN_GILBERT_ELLIOTT, Probabilities};
use std::{fmt, str::FromStr};

/// A chain of states that loses packets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Model {
    /// netem's `gemodel`.
    GilbertElliott {
        /// From good to bad.
        p: Percent,
        /// From bad to good.
        r: Percent,
        /// Losses in the bad state (netem: 1-h).
        lost_in_bad: Percent,
        /// Losses in the good state (netem: 1-k).
        lost_in_good: Percent,
    },
    /// netem's `state`: 1 received in a gap, 2 received in a burst, 3 lost in a burst, 4 lost in a gap.
    FourStates {
        /// From 1 to 3.
        p13: Percent,
        /// From 3 to 1.
        p31: Percent,
        /// From 3 to 2.
        p32: Percent,
        /// From 2 to 3.
        p23: Percent,
        /// From 1 to 4.
        p14: Percent,
    },
}

impl Model {
    /// As the kernel programs read it.
    pub fn chain(&self) -> (u32, Probabilities) {
        match self {
            Self::GilbertElliott { p, r, lost_in_bad, lost_in_good } => {
                (CHAIN_GILBERT_ELLIOTT, [p.q32(), r.q32(), lost_in_bad.q32(), lost_in_good.q32(), 0])
            }
            Self::FourStates { p13, p31, p32, p23, p14 } => {
                (CHAIN_FOUR_STATES, [p13.q32(), p31.q32(), p32.q32(), p23.q32(), p14.q32()])
            }
        }
    }
}

impl FromStr for Model {
    type Err = Problems;

    /// Reads `gemodel:p=1%,r=10%,1-h=70%,1-k=0.1%` or `state:p13=1%,p31=20%,p32=10%,p23=50%,p14=0.5%`; all but the first
    /// have netem's defaults.
    fn from_str(text: &str) -> Result<Self, Problems> {
        let (name, values) = text.split_once(':').unwrap_or((text, ""));
        let names: &[&str] = match name {
            "gemodel" => &["p", "r", "1-h", "1-k"],
            "state" => &["p13", "p31", "p32", "p23", "p14"],
            _ => {
                return Err(Problems(vec![format!(
                    "'{text}' is not a loss model: write gemodel:p=1%,r=10% or state:p13=1%,p31=20%, for example"
                )]));
            }
        };
        let mut problems = Problems::default();
        let mut read: Vec<Option<Percent>> = vec![None; names.len()];
        for part in values.split(',').filter(|part| !part.is_empty()) {
            let found = part
                .split_once('=')
                .and_then(|(name, value)| Some((names.iter().position(|known| *known == name)?, value)));
            match found {
                Some((place, value)) => read[place] = problems.take(value.parse()),
                None => problems.0.push(format!("'{part}' is not known: {name} has {}", names.join(", "))),
            }
        }
        let Some(first) = read[0] else {
            problems.0.push(format!("'{text}' lacks {}, as in {name}:{}=1%", names[0], names[0]));
            return Err(problems);
        };
        let of = |place: usize, default: Percent| read[place].unwrap_or(default);
        let model = if name == "gemodel" {
            Self::GilbertElliott {
                p: first,
                r: of(1, first.rest()),
                lost_in_bad: of(2, Percent::ALL),
                lost_in_good: of(3, Percent::NONE),
            }
        } else {
            let (p31, p32, p14) = (of(1, first.rest()), of(2, Percent::NONE), of(4, Percent::NONE));
            for (one, other, names) in [(p31, p32, "p31 and p32"), (first, p14, "p13 and p14")] {
                if one.percent() + other.percent() > 100.0 {
                    problems
                        .0
                        .push(format!("'{text}': {names} lead out of one state and are above 100% together"));
                }
            }
            Self::FourStates { p13: first, p31, p32, p23: of(3, Percent::ALL), p14 }
        };
        problems.or(|| model)
    }
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GilbertElliott { p, r, lost_in_bad, lost_in_good } => {
                write!(f, "gemodel (p {p}, r {r}, 1-h {lost_in_bad}, 1-k {lost_in_good})")
            }
            Self::FourStates { p13, p31, p32, p23, p14 } => {
                write!(f, "state (p13 {p13}, p31 {p31}, p32 {p32}, p23 {p23}, p14 {p14})")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn models_have_netems_defaults() {
        let model: Model = "gemodel:p=1%".parse().unwrap();
        assert_eq!(model.to_string(), "gemodel (p 1%, r 99%, 1-h 100%, 1-k 0%)");
        let model: Model = "state:p13=1%,p31=20%,p14=0.5%".parse().unwrap();
        assert_eq!(model.to_string(), "state (p13 1%, p31 20%, p32 0%, p23 100%, p14 0.5%)");
    }

    #[test]
    fn every_problem_of_a_model_is_told() {
        let problems = "gemodel:p=1,h=5%,r=200%".parse::<Model>().unwrap_err();
        assert_eq!(problems.0.len(), 4, "{problems}");
        assert!("state:p13=60%,p14=50%".parse::<Model>().unwrap_err().to_string().contains("above 100%"));
        assert!("bernoulli".parse::<Model>().unwrap_err().to_string().contains("gemodel"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(gemodel|state)?:?[\\PC]{0,24}") {
            let _ = text.parse::<Model>();
        }
    }
}
