//! What an engine does for a single run only.

use super::{Mechanism, Plan};

impl Plan {
    /// What the run asks for that an engine does not do beside other runs, if there is something: it needs an engine of its own.
    pub fn alone(&self) -> Option<&'static str> {
        if !self.trees.is_empty() {
            return Some("programs that ask for the process (--pid-only) serve one run");
        }
        self.rules.iter().flat_map(|rule| &rule.mechanisms).find_map(Mechanism::alone)
    }
}

impl Mechanism {
    fn alone(&self) -> Option<&'static str> {
        Some(match self {
            Self::Notification => "the receiver of seccomp notifications serves one run",
            mechanism if mechanism.only_holds() => "who holds calls back serves one run",
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_holds_calls_back_is_for_one_run() {
        let stop = Mechanism::Stop { function: "f".into(), arguments: 0 };
        let sleep = Mechanism::Sleep { hook: "file_open" };
        for mechanism in [Mechanism::Notification, Mechanism::Spin, stop, sleep] {
            assert!(mechanism.alone().is_some(), "{mechanism:?}");
        }
        let of_packets =
            [Mechanism::Tcx, Mechanism::Clsact, Mechanism::Arrival, Mechanism::Line, Mechanism::CgroupSkb];
        for mechanism in of_packets {
            assert!(mechanism.alone().is_none(), "{mechanism:?}");
        }
    }
}
