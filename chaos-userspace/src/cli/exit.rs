//! Exit codes. A code keeps its meaning for ever.

/// Done and rolled back.
pub const DONE: u8 = 0;
/// An internal error.
pub const INTERNAL: u8 = 1;
/// Bad usage or spec.
pub const USAGE: u8 = 2;
/// The steady state of an experiment was not met before its faults, none of which was injected.
pub const NOT_MET: u8 = 3;
/// The hypothesis of an experiment was refuted.
pub const DEVIATED: u8 = 4;
/// Ended by a condition of an experiment or by somebody's lever ([`crate::runs::halt`]), rolled back.
pub const ABORTED: u8 = 5;
/// Refused, because it would harm something.
pub const REFUSED: u8 = 6;
/// What could not be undone is named.
pub const ROLLBACK_INCOMPLETE: u8 = 7;
/// This host cannot do it.
pub const UNABLE: u8 = 8;
/// Nothing was injected.
pub const NOTHING_INJECTED: u8 = 9;
/// `exec`: kchaos itself failed or refused; the code above goes to standard error and `--json`.
pub const EXEC_FAILED: u8 = 125;
/// `exec`: the command was found but cannot be run.
pub const EXEC_CANNOT_RUN: u8 = 126;
/// `exec`: the command was not found.
pub const EXEC_NOT_FOUND: u8 = 127;
/// Plus the signal that ended the command or the run.
pub const SIGNAL_BASE: u8 = 128;

/// A code's meaning in a word.
pub fn name(code: u8) -> &'static str {
    match code {
        DONE => "done",
        INTERNAL => "internal_error",
        USAGE => "bad_usage",
        NOT_MET => "not_met",
        DEVIATED => "deviated",
        ABORTED => "halted",
        REFUSED => "refused",
        ROLLBACK_INCOMPLETE => "rollback_incomplete",
        UNABLE => "unable",
        NOTHING_INJECTED => "nothing_injected",
        _ => "interrupted",
    }
}
