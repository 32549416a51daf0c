//! The witness: a program that counts what leaves the targets' sockets, beside what the egress hooks meet of it.

use super::Engine;
use crate::{host::neighbour, inject::object};
use chaos_common::counter::{LEAVING_MET, LEAVING_SEEN};
use std::{
    net::IpAddr,
    thread::sleep,
    time::{Duration, Instant},
};

/// Time in which a packet comes from its socket to its device, also on a busy machine and while a neighbour is asked for
/// its link-layer address.
const ON_THE_WAY: Duration = Duration::from_millis(100);

/// What no egress hook met.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Escaped {
    /// Packets that left the targets' sockets, but came to no egress hook.
    pub packets: u64,
    /// If there are any: neighbours that do not answer in the watched namespaces. What is for them never comes to a device.
    pub unanswered: Vec<IpAddr>,
}

impl Engine {
    /// What no egress hook met; `None` if no leaving packets are judged. To be asked while the engine is armed, so that
    /// packets on their way are still met: there is never a moment with less of them than the difference.
    pub(super) fn escaped(&self) -> Result<Option<Escaped>, object::Error> {
        if self.image.egress_rules == 0 {
            return Ok(None);
        }
        self.escaped_beyond(0).map(Some)
    }

    /// What no egress hook met, but for the packets that had not by some moment before (see [`Engine::balance`]).
    pub(super) fn escaped_beyond(&self, before: i64) -> Result<Escaped, object::Error> {
        let before = before.max(0);
        let packets = (self.least_balance(before)? - before).max(0) as u64;
        let unanswered = if packets == 0 { vec![] } else { self.unanswered() };
        Ok(Escaped { packets, unanswered })
    }

    /// The smallest number of packets that seem to have escaped, within the time that packets are on their way; at once if it
    /// is `enough`.
    pub(super) fn least_balance(&self, enough: i64) -> Result<i64, object::Error> {
        let start = Instant::now();
        let mut least = self.balance()?;
        while least > enough.max(0) && start.elapsed() < ON_THE_WAY {
            sleep(Duration::from_millis(1));
            least = least.min(self.balance()?);
        }
        Ok(least)
    }

    /// Packets that have left the targets' sockets and come to no egress hook, those on their way included.
    pub(super) fn balance(&self) -> Result<i64, object::Error> {
        // In this order: what leaves in between is met, but not missed.
        let seen = self.maps.leaving(LEAVING_SEEN)?;
        Ok(seen as i64 - self.maps.leaving(LEAVING_MET)? as i64)
    }

    /// A namespace whose neighbours cannot be listed names none.
    fn unanswered(&self) -> Vec<IpAddr> {
        let mut found: Vec<_> = self
            .places
            .iter()
            .filter_map(|place| place.namespace().within(neighbour::unanswered).ok()?.ok())
            .flatten()
            .collect();
        found.sort();
        found.dedup();
        found
    }
}
