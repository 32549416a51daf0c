//! Permission to copy the shared types to and from maps as bytes.

use crate::{
    counter::RuleCounters,
    latency::{Held, Hold, Stopped},
    line::{Entrance, Exit, LineKey},
    line_load::Load,
    results::Results,
    rule::{Ordinal, ProcessCount, ProcessKey, Rule},
    syscall::Call,
    syscall_match::{Arguments, Wanted},
    target::Target,
    watch::{Begun, Times},
};

macro_rules! pod {
    ($($name:ty),*) => {$(
        // SAFETY: `repr(C)`, only fixed-width integers, all padding explicit (the sizes are asserted beside the type):
        // every byte pattern is a value and no byte is uninitialised.
        unsafe impl aya::Pod for $name {}
    )*};
}

pod!(
    Arguments,
    RuleCounters,
    Entrance,
    Exit,
    Held,
    Hold,
    LineKey,
    Load,
    Ordinal,
    ProcessCount,
    ProcessKey,
    Results,
    Rule,
    Stopped,
    Call,
    Target,
    Wanted,
    Begun,
    Times
);
