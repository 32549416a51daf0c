//! Skips are loud: the runner fails unless the kernel matrix allows the one that was printed.

use std::io::Write as _;

/// Ends the calling test as not applicable on this kernel, for a reason.
///
/// The name printed is `file::function`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::skip::report(std::any::type_name_of_val(&|| {}), &format!($($reason)*));
        return Ok(());
    }};
}

/// Prints the skip past the capture of the test framework.
#[doc(hidden)]
pub fn report(closure: &str, reason: &str) {
    let name = closure.trim_end_matches("::{{closure}}");
    let mut out = std::io::stdout().lock();
    // A closed stdout must not turn a skip into a failure.
    let _ignored = writeln!(out, "\nSKIP {name}: {reason}").and_then(|()| out.flush());
}
