//! Wrong bits, with a checksum that says so or not.

use super::{Problems, when::When};

/// What of a packet is corrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Corrupt {
    /// A bit of the transport header or the payload; the checksum stays what it was.
    Detected,
    /// A bit of the payload, with a checksum that is right for it.
    Payload,
}

/// Reads `1%`, `1%:payload`, `every=7:payload`, and both with further parts behind commas.
pub fn corrupt(text: &str) -> Result<(Corrupt, When), Problems> {
    let (first, rest) = text.split_once(',').map_or((text, None), |(first, rest)| (first, Some(rest)));
    let mut problems = Problems::default();
    let (first, corrupt) = match first.split_once(':') {
        None => (first, Corrupt::Detected),
        Some((first, "payload")) => (first, Corrupt::Payload),
        Some((first, other)) => {
            problems.0.push(format!("':{other}' is not known: write :payload or leave it out"));
            (first, Corrupt::Detected)
        }
    };
    match When::from_parts(std::iter::once(first).chain(rest.into_iter().flat_map(|rest| rest.split(',')))) {
        Ok(when) => problems.or(|| (corrupt, when)),
        Err(more) => {
            problems.0.extend(more.0);
            Err(problems)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn shares_and_words_are_read() {
        let (what, when) = corrupt("0.5%").unwrap();
        assert_eq!((what, when.probability.percent()), (Corrupt::Detected, 0.5));
        let (what, when) = corrupt("10%:payload,every=3").unwrap();
        assert_eq!((what, when.probability.percent(), when.every), (Corrupt::Payload, 10.0, Some(3)));
        let (what, when) = corrupt("every=7:payload").unwrap();
        assert_eq!((what, when.every), (Corrupt::Payload, Some(7)));
        let problems = corrupt("5:header,every=0").unwrap_err();
        assert_eq!(problems.0.len(), 3, "{problems}");
        assert!(problems.to_string().contains(":header"), "{problems}");
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,32}") {
            let _ = corrupt(&text);
        }
    }
}
