//! How many bytes are on their way through a delay line: what bounds its memory.
//!
//! netem counts buffers, of which one may have 64 KiB, and it gives them free of their sender, so that nothing else holds a
//! sender back that does not keep what it has sent until it is acknowledged. What leaves a line is not counted: packets are
//! lost between the queue and the next hook without a word, and the count would drift. Instead, what has come within the
//! longest time that a packet stays is taken to be there.

/// Ways through lines whose bytes are counted; further ones are bounded by netem's count of buffers alone.
pub const LOADS_MAX: u32 = 1024;
/// Parts of the longest time that a packet stays. One more is being filled, so that up to an eighth too much is counted.
pub const SPANS: usize = 8;
/// The ring of parts: the next power of two.
const RING: usize = 16;
/// Time without packets after which nothing waits for a rate any more, in microseconds.
const IDLE_US: u64 = 1 << 26;

/// What is on one way through lines. Written by user space before packets are led there; counted by several CPUs, of which
/// one may undo what another one has just added where a part begins: the bound is one of about so many bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Bytes that there is room for; 0: no bound.
    pub room_bytes: u64,
    /// Part of the longest time that a packet stays, without waiting for a rate, in nanoseconds; 0 if it stays no time.
    pub span_ns: u64,
    /// Bytes per second that come out; 0: no rate.
    pub rate: u64,
    /// Bytes that waited for the rate at `waiting_at_ns`, and those of the burst that were used up.
    pub waiting_bytes: u64,
    /// When (CLOCK_MONOTONIC).
    pub waiting_at_ns: u64,
    /// Packets for which there was no room.
    pub full: u64,
    /// Bytes that may go at once, before others wait for the rate; 0: none.
    pub burst_bytes: u64,
    /// Number of the rule whose rate it is.
    pub rate_rule: u64,
    /// By number of the part, modulo the ring.
    pub spans: [Span; RING],
}

/// What came in one part of the time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Number of the part.
    pub number: u64,
    /// Bytes that came.
    pub bytes: u64,
}

const _: () = assert!(size_of::<Load>() == 64 + 16 * RING && RING > SPANS + 1 && RING.is_power_of_two());

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It goes through the lines.
    Held,
    /// It goes at once, as far as the rate is concerned.
    Burst,
    /// It is lost: there is no room.
    Full,
}

impl Load {
    /// Of a way on which packets stay for `longest_ns` and come out at any rate.
    pub const fn new(room_bytes: u64, longest_ns: u64) -> Self {
        let span_ns = longest_ns.div_ceil(SPANS as u64);
        let spans = [Span { number: 0, bytes: 0 }; RING];
        let (rate, burst_bytes, rate_rule) = (0, 0, 0);
        Self {
            room_bytes,
            span_ns,
            rate,
            waiting_bytes: 0,
            waiting_at_ns: 0,
            full: 0,
            burst_bytes,
            rate_rule,
            spans,
        }
    }

    /// The same with packets that come out at `rate` bytes per second by this rule, but for a burst.
    pub const fn with_rate(self, rate: u64, burst_bytes: u64, rule: u32) -> Self {
        Self { rate, burst_bytes, rate_rule: rule as u64, ..self }
    }

    /// What is counted here, with the bounds of another one.
    pub const fn with_bounds_of(self, other: &Self) -> Self {
        Self {
            room_bytes: other.room_bytes,
            span_ns: other.span_ns,
            rate: other.rate,
            burst_bytes: other.burst_bytes,
            rate_rule: other.rate_rule,
            ..self
        }
    }

    /// Counts a packet of `bytes` that comes at `now_ns`; one that takes no `room` of its own is not lost for want of it. `add`
    /// adds to a number in place.
    ///
    /// Bytes of the burst come back at the rate, once nothing waits for it any more: so what goes at once overtakes nobody.
    ///
    /// # Safety
    ///
    /// `load` points to a value that lives through the call and that others change by this function only.
    #[inline(always)]
    pub unsafe fn admit(
        load: *mut Self,
        now_ns: u64,
        bytes: u64,
        room: bool,
        add: impl Fn(*mut u64, u64),
    ) -> Admission {
        // SAFETY: the caller's; fields are read and written as a whole.
        unsafe {
            let (span_ns, rate, burst) = ((*load).span_ns, (*load).rate, (*load).burst_bytes);
            let mut held = 0;
            let number = now_ns.checked_div(span_ns).unwrap_or(0);
            let mut back = 0;
            while back <= SPANS as u64 {
                let at = number.wrapping_sub(back);
                let span = (&raw const (*load).spans[at as usize & (RING - 1)]).read_volatile();
                if span_ns != 0 && span.number == at {
                    held += span.bytes;
                }
                back += 1;
            }
            let mut waiting = 0;
            if rate != 0 {
                let us = now_ns.saturating_sub((&raw const (*load).waiting_at_ns).read_volatile()) / 1000;
                let us = if us > IDLE_US { IDLE_US } else { us };
                let sent = us * (rate / 1000) / 1000;
                waiting = (&raw const (*load).waiting_bytes).read_volatile().saturating_sub(sent);
            }
            let bound = (*load).room_bytes;
            if room && bound != 0 && held + waiting.saturating_sub(burst) + bytes > bound {
                add(&raw mut (*load).full, 1);
                return Admission::Full;
            }
            if rate != 0 {
                (&raw mut (*load).waiting_bytes).write_volatile(waiting + bytes);
                (&raw mut (*load).waiting_at_ns).write_volatile(now_ns);
            }
            if room && span_ns != 0 {
                let span = &raw mut (*load).spans[number as usize & (RING - 1)];
                if (&raw const (*span).number).read_volatile() != number {
                    (&raw mut (*span).bytes).write_volatile(0);
                    (&raw mut (*span).number).write_volatile(number);
                }
                add(&raw mut (*span).bytes, bytes);
            }
            if waiting + bytes <= burst { Admission::Burst } else { Admission::Held }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn admit(load: &mut Load, now_ns: u64, bytes: u64) -> bool {
        // SAFETY: the value is ours alone.
        unsafe { Load::admit(load, now_ns, bytes, true, |sum, value| *sum += value) != Admission::Full }
    }

    #[test]
    fn a_line_takes_what_it_has_room_for_and_again_when_that_has_left() {
        let mut load = Load::new(10_000, 8_000);
        for at in 0..10 {
            assert!(admit(&mut load, 1_000_000 + at, 1_000));
        }
        assert!(!admit(&mut load, 1_000_010, 1_000) && load.full == 1);
        // Until the part in which they came has gone.
        assert!(!admit(&mut load, 1_008_900, 1_000) && admit(&mut load, 1_009_001, 1_000));
    }

    #[test]
    fn what_waits_for_a_rate_takes_room() {
        let mut load = Load::new(10_000, 0).with_rate(1_000_000, 0, 3);
        for _ in 0..10 {
            assert!(admit(&mut load, 5_000_000_000, 1_000));
        }
        assert!(!admit(&mut load, 5_000_000_000, 1_000));
        // One byte a microsecond.
        assert!(!admit(&mut load, 5_000_900_000, 1_000) && admit(&mut load, 5_001_000_000, 1_000));
        assert!(admit(&mut load, u64::MAX, 10_000));
    }

    #[test]
    fn a_burst_goes_at_once_and_comes_back_at_the_rate() {
        let mut load = Load::new(50_000, 0).with_rate(1_000_000, 4_000, 3);
        let mut admit = |now_ns, room| {
            // SAFETY: the value is ours alone.
            unsafe { Load::admit(&mut load, now_ns, 1_000, room, |sum, value| *sum += value) }
        };
        let begin = 5_000_000_000;
        let first: Vec<_> = (0..6).map(|_| admit(begin, false)).collect();
        assert_eq!(first[..4], [Admission::Burst; 4]);
        assert_eq!(first[4..], [Admission::Held; 2]);
        // A byte comes back in a microsecond: behind 2 000 bytes that wait, a packet's worth is there after 3 ms.
        assert_eq!(admit(begin + 1_999_000, false), Admission::Held);
        assert_eq!(admit(begin + 3_999_000, false), Admission::Held);
        assert_eq!(admit(begin + 6_001_000, false), Admission::Burst);
        // Room is for what waits.
        let all: Vec<_> = (0..60).map(|_| admit(begin + 20_000_000, true)).collect();
        assert_eq!(all.iter().filter(|one| **one == Admission::Burst).count(), 4);
        assert_eq!(all.iter().filter(|one| **one == Admission::Held).count(), 50);
    }

    #[test]
    fn without_a_bound_everything_is_taken() {
        let mut load = Load::new(0, 1_000);
        assert!((0..100).all(|at| admit(&mut load, at, 1 << 40)));
    }

    proptest! {
        #[test]
        fn no_more_is_held_than_there_is_room_for_and_not_much_less(
            steps in proptest::collection::vec((0u64..3_000, 1u64..2_000), 1..300),
        ) {
            let (room, longest) = (20_000, 10_000);
            let mut load = Load::new(room, longest);
            let (mut now, mut held) = (1u64 << 40, VecDeque::new());
            for (step, bytes) in steps {
                now += step;
                let within = |time: u64| move |(at, bytes): &(u64, u64)| if at + time >= now { *bytes } else { 0 };
                let taken = admit(&mut load, now, bytes);
                if taken {
                    held.push_back((now, bytes));
                }
                let exactly: u64 = held.iter().map(within(longest)).sum();
                prop_assert!(exactly <= room, "{exactly} held");
                // Of an eighth more of the time at most.
                let generously: u64 = held.iter().map(within(longest + 2 * longest.div_ceil(8))).sum();
                prop_assert!(taken || generously + bytes > room, "{bytes} refused beside {generously}");
            }
        }
    }
}
