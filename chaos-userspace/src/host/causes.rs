//! Errors with what is behind them: libraries' own words leave the system's out.

use std::{error::Error, iter};

/// The error, what caused it, and so on.
pub fn of<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    iter::successors(Some(error), |error| (*error).source())
}

/// All of them in words.
pub fn told(error: &(dyn Error + 'static)) -> String {
    of(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_told_with_its_cause() {
        let io_error = std::io::Error::from_raw_os_error(libc::EMFILE);
        let told = told(&aya::maps::MapError::CreateError { name: "M".into(), io_error });
        assert!(told.contains('M') && told.contains("Too many open files"), "{told}");
    }
}
