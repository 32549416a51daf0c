//! Waiting for conditions with generous limits, never for time to pass.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take: an emulated machine is some twenty times slower than this host.
pub fn patience() -> Duration {
    if crate::capability::on_host() { Duration::from_secs(30) } else { Duration::from_secs(90) }
}

/// One lease: the longest that a fault may be felt after its owner is gone.
pub const LEASE_MS: f64 = 1_000.0;

/// How long a fault may be felt after SIGKILL of its owner with the guardian alive, in milliseconds.
pub fn felt_ms_max() -> f64 {
    if crate::capability::on_host() { 10.0 } else { LEASE_MS }
}

/// Polls until `condition` gives a value and returns it with the time it took.
pub fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<(T, Duration)> {
    let start = Instant::now();
    let limit = patience();
    loop {
        if let Some(value) = condition()? {
            return Ok((value, start.elapsed()));
        }
        if start.elapsed() > limit {
            bail!("waited {limit:?} in vain for {what}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Polls until `condition` holds.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> Result<Duration> {
    wait_for(what, || Ok(condition().then_some(()))).map(|((), took)| took)
}

/// CLOCK_MONOTONIC in nanoseconds: the clock of the kernel programs and of the victims.
pub fn monotonic_ns() -> u64 {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
        .map(|t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
        .unwrap_or_default()
}
