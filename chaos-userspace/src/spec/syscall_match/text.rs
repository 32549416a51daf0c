//! Texts in options: what separates them, what stands for a byte.

/// Splits the options of a fault at commas; `\,` is a comma within one.
pub fn split_options(text: &str) -> Vec<&str> {
    let mut options = vec![];
    let (mut begin, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        if character == ',' && !escaped {
            options.push(&text[begin..at]);
            begin = at + 1;
        }
        escaped = character == '\\' && !escaped;
    }
    options.push(&text[begin..]);
    options
}

/// A text in which `*` stands for anything: the parts between the stars. `\*`, `\,`, `\\`, `\!` and `\xHH` stand for
/// themselves and for a byte.
pub fn unescape(text: &str) -> Result<Vec<Vec<u8>>, String> {
    let mut parts = vec![vec![]];
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let byte = match byte {
            b'*' => {
                parts.push(vec![]);
                continue;
            }
            b'\\' => match rest.next() {
                Some(byte @ (b'*' | b',' | b'\\' | b'!')) => byte,
                Some(b'x') => {
                    let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                    match (digit(rest.next()), digit(rest.next())) {
                        (Some(high), Some(low)) if high + low > 0 => (high * 16 + low) as u8,
                        _ => {
                            return Err("\\x needs two hexadecimal digits of a byte that is not 0".to_owned());
                        }
                    }
                }
                _ => return Err("a backslash stands before *, comma, !, backslash or xHH".to_owned()),
            },
            byte => byte,
        };
        if let Some(part) = parts.last_mut() {
            part.push(byte);
        }
    }
    Ok(parts)
}

/// Bytes in the form that [`unescape`] reads.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            if matches!(character, '*' | ',' | '\\' | '!') {
                text.push('\\');
            }
            text.push(character);
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bytes_that_are_no_text_can_be_written() {
        assert_eq!(unescape("a\\xff*\\*").unwrap(), [b"a\xff".to_vec(), b"*".to_vec()]);
        assert_eq!(escape(b"a\xff,*"), "a\\xff\\,\\*");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(bytes in proptest::collection::vec(1u8.., 0..20)) {
            prop_assert_eq!(unescape(&escape(&bytes)).unwrap(), vec![bytes.clone()]);
            let text = escape(&bytes);
            prop_assert_eq!(split_options(&text), vec![text.as_str()]);
        }
    }
}
