//! How many trials a measurement takes: few in CI, the number the acceptance names in a soak.
//!
//! Fewer trials only widen the interval that is accepted; the rate of false alarms stays the same.

/// Whether this is a soak.
pub fn full() -> bool {
    std::env::var("KCHAOS_SAMPLES").is_ok_and(|size| size == "full")
}

/// Datagrams of one loss measurement.
pub fn packets() -> u64 {
    if full() { 100_000 } else { 3_000 }
}

/// How many times a bystander sends so many datagrams, or makes so many calls: in a soak until they are a million, none of which
/// may be hit.
pub fn bystander_turns(each: u64) -> u64 {
    if full() { 1_000_000u64.div_ceil(each) } else { 1 }
}

/// How a stream is sent whose delays are measured: a soak's last for half a minute each.
pub fn pace() -> &'static str {
    if full() { "--rate-per-ms 3 --alone" } else { "--rate-per-ms 1 --alone" }
}

/// Calls of one task in a system call measurement.
pub fn calls() -> u64 {
    if full() { 50_000 } else { 1_000 }
}

/// Bytes of one TCP transfer.
pub fn tcp_bytes() -> u64 {
    if full() { 32 << 20 } else { 4 << 20 }
}

/// Echo requests of one ping.
pub fn pings() -> u64 {
    if full() { 5_000 } else { 300 }
}
