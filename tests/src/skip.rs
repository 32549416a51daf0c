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

/// Ends the calling test as one that only a soak runs on this kernel: with small samples, others run it.
#[macro_export]
macro_rules! leave_to_soak {
    ($($reason:tt)*) => {{
        $crate::skip::report_left(std::any::type_name_of_val(&|| {}), &format!($($reason)*));
        return Ok(());
    }};
}

/// Prints the skip past the capture of the test framework.
#[doc(hidden)]
pub fn report(closure: &str, reason: &str) {
    say("SKIP", closure, reason);
}

/// The same of what is left to a soak.
#[doc(hidden)]
pub fn report_left(closure: &str, reason: &str) {
    say("LEFT", closure, reason);
}

fn say(word: &str, closure: &str, reason: &str) {
    let name = closure.trim_end_matches("::{{closure}}");
    let mut out = std::io::stdout().lock();
    // A closed stdout must not turn a skip into a failure.
    let _ignored = writeln!(out, "\n{word} {name}: {reason}").and_then(|()| out.flush());
}
