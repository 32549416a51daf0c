//! Options of the netem queueing discipline as the kernel reads them (include/uapi/linux/pkt_sched.h).

use super::distribution;
use crate::spec::{
    delay::{Delay, Rate},
    units::Bytes,
};
use std::time::Duration;

const DELAY_DIST: u16 = 2;
const CORRELATION: u16 = 1;
const RATE: u16 = 6;
const RATE64: u16 = 8;
const LATENCY64: u16 = 10;
const JITTER64: u16 = 11;

/// Bytes that the packets in a line may take, if nobody asks for more by `--queue`.
const MEMORY_MAX: u64 = 64 << 20;
/// Memory of a packet of an Ethernet's size, bookkeeping included (`skb->truesize` of 1514 bytes).
const PACKET_MEMORY: u64 = 2304;
/// Bytes of such a packet on the wire.
const PACKET_WIRE: u32 = 1514;

/// What one line's queueing discipline does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Netem {
    /// `TCA_OPTIONS`.
    pub options: Vec<u8>,
    /// The same for a queueing discipline that has others already.
    pub change: Vec<u8>,
    /// How long a packet may stay in the line.
    pub longest: Duration,
    /// The same without waiting for the rate.
    pub stays: Duration,
    /// Bytes per second, or 0.
    pub rate: u64,
    /// Bytes that go at once before others wait for the rate, which never see the line.
    pub burst_bytes: u64,
    /// Bytes that the packets in the line may take, those of TCP aside.
    pub room_bytes: u64,
}

impl From<&Delay> for Netem {
    fn from(delay: &Delay) -> Self {
        let limit = delay.limit.unwrap_or((MEMORY_MAX / PACKET_MEMORY) as u32);
        // struct tc_netem_qopt {latency, limit, loss, gap, duplicate, jitter}: times follow as 64-bit attributes.
        let mut options = Options(vec![]);
        for word in [0, limit, 0, 0, 0, 0] {
            options.0.extend(word.to_ne_bytes());
        }
        options.add(LATENCY64, &(delay.latency.as_nanos() as i64).to_ne_bytes());
        options.add(JITTER64, &(delay.jitter.as_nanos() as i64).to_ne_bytes());
        // struct tc_netem_corr {delay, loss, duplicate}, of 2^32 - 1 each.
        let correlation = delay.correlation.q32().min(u64::from(u32::MAX)) as u32;
        // Also if it is none: what a change leaves out stays (`netem_change`, net/sched/sch_netem.c).
        options.add(CORRELATION, &words([correlation, 0, 0]));
        let bytes = delay.rate.map_or(0, Rate::bytes_per_second);
        // struct tc_netem_rate {rate, packet_overhead, cell_size, cell_overhead}.
        options.add(RATE, &words([bytes.min(u64::from(u32::MAX)) as u32, 0, 0, 0]));
        if bytes > u64::from(u32::MAX) {
            options.add(RATE64, &bytes.to_ne_bytes());
        }
        // A table that is there already can only be replaced.
        let mut change = Options(options.0.clone());
        if !delay.jitter.is_zero() {
            let table = distribution::table(delay.distribution);
            if let Some(table) = &table {
                options.add(DELAY_DIST, &bytes_of(table));
            }
            change.add(DELAY_DIST, &bytes_of(&table.unwrap_or_else(distribution::uniform)));
        }
        // A table reaches four times the jitter on either side; a rate makes a packet wait for all before it.
        let ahead = delay
            .rate
            .map_or(0.0, |rate| f64::from(limit) * f64::from(PACKET_WIRE) / rate.bytes_per_second() as f64);
        let stays = delay.latency + 4 * delay.jitter;
        let longest = stays + Duration::try_from_secs_f64(ahead).unwrap_or_default();
        let room_bytes = MEMORY_MAX.max(u64::from(limit) * PACKET_MEMORY);
        let burst_bytes = delay.burst.map_or(0, Bytes::count);
        Self { options: options.0, change: change.0, longest, stays, rate: bytes, burst_bytes, room_bytes }
    }
}

fn bytes_of(table: &[i16]) -> Vec<u8> {
    table.iter().flat_map(|entry| entry.to_ne_bytes()).collect()
}

fn words<const N: usize>(words: [u32; N]) -> Vec<u8> {
    words.into_iter().flat_map(u32::to_ne_bytes).collect()
}

struct Options(Vec<u8>);

impl Options {
    /// Adds an attribute: length, kind, value, filled up to a multiple of 4.
    fn add(&mut self, kind: u16, value: &[u8]) {
        self.0.extend((value.len() as u16 + 4).to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        host::netlink::attribute,
        spec::{delay::Distribution, units::Percent},
    };

    fn delay() -> Delay {
        Delay {
            latency: Duration::from_millis(50),
            jitter: Duration::ZERO,
            distribution: Distribution::Normal,
            correlation: Percent::NONE,
            rate: None,
            burst: None,
            limit: None,
        }
    }

    #[test]
    fn options_are_laid_out_as_the_kernel_reads_them() {
        let jittery = Delay {
            jitter: Duration::from_millis(10),
            correlation: "25%".parse().unwrap(),
            rate: Some("80gbit".parse().unwrap()),
            limit: Some(77),
            ..delay()
        };
        let netem = Netem::from(&jittery);
        assert_eq!(netem.options[4..8], 77u32.to_ne_bytes());
        let of = |kind| attribute(&netem.options[24..], kind);
        assert_eq!(of(LATENCY64), Some(50_000_000i64.to_ne_bytes().to_vec()));
        assert_eq!(of(JITTER64), Some(10_000_000i64.to_ne_bytes().to_vec()));
        assert_eq!(of(DELAY_DIST).map(|table| table.len()), Some(8192));
        assert_eq!(of(CORRELATION), Some(words([1 << 30, 0, 0])));
        assert_eq!(of(RATE), Some(words([u32::MAX, 0, 0, 0])));
        assert_eq!(of(RATE64), Some(10_000_000_000u64.to_ne_bytes().to_vec()));
        assert_eq!(netem.longest.as_millis(), 90);
    }

    #[test]
    fn a_change_says_everything_that_could_be_there() {
        let uniform = Delay { jitter: Duration::from_millis(10), ..delay() };
        let netem = Netem::from(&Delay { distribution: Distribution::Uniform, ..uniform });
        let of = |options: &[u8], kind| attribute(&options[24..], kind);
        assert_eq!(of(&netem.change, RATE), Some(words([0, 0, 0, 0])));
        assert_eq!(of(&netem.change, CORRELATION), Some(words([0, 0, 0])));
        assert_eq!(of(&netem.options, DELAY_DIST), None);
        assert_eq!(of(&netem.change, DELAY_DIST).map(|table| table.len()), Some(8192));
    }

    #[test]
    fn a_delay_without_jitter_needs_no_table_and_holds_64_mib() {
        let netem = Netem::from(&delay());
        assert_eq!(attribute(&netem.options[24..], DELAY_DIST), None);
        assert_eq!(netem.change, netem.options);
        assert_eq!(netem.options[4..8], 29_127u32.to_ne_bytes());
    }
}
