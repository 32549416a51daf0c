//! Numbers that are handed out once each across all CPUs.

use crate::{
    globals::{KC_CHAIN, KC_CORRUPT, KC_DRAWN_RESULTS, KC_EXACT, KC_FLOW, KC_LATENCY, KC_PROCESS_RULES},
    maps::{KC_ORDINALS, KC_PROCESSES, NOT_THERE_YET},
};
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use chaos_common::{
    chain,
    decide::Source,
    latency::LATENCY_NONE,
    rule::{ProcessCount, ProcessKey, Rule},
};
use core::arch::asm;

/// How often a step is tried anew because another CPU was faster. Without a lock that could be for ever.
const STEP_ATTEMPTS: u32 = 8;

/// The kernel's answer to what a decision may need.
pub struct Kernel {
    /// The rule that decides.
    pub rule: u32,
    /// What all packets of the event's flow share; of a call, the thread group id.
    pub flow: u64,
    /// Whether the event's process counts for itself.
    pub per_process: bool,
    /// The draw that says which of several results the event gets, or which bit is flipped.
    pub choice: u32,
}

impl Kernel {
    #[inline(always)]
    fn process(&self) -> ProcessKey {
        ProcessKey { rule: self.rule, tgid: self.flow as u32 }
    }
}

impl Source for Kernel {
    #[inline(always)]
    fn has_chains(&self) -> bool {
        KC_CHAIN.load() == 1
    }

    #[inline(always)]
    fn has_flows(&self) -> bool {
        KC_FLOW.load() == 1
    }

    #[inline(always)]
    fn has_processes(&self) -> bool {
        KC_PROCESS_RULES.load() != 0
    }

    #[inline(always)]
    fn has_results(&self) -> bool {
        KC_DRAWN_RESULTS.load() == 1 || KC_CORRUPT.load() != 0 || KC_LATENCY.load() != LATENCY_NONE
    }

    #[inline(always)]
    fn count_process(&mut self) -> bool {
        self.per_process = true;
        let process = self.process();
        if KC_PROCESSES.get_ptr(process).is_some() {
            return true;
        }
        // Another thread of the process may be here too.
        let _exists_or_full = KC_PROCESSES.insert(process, ProcessCount::default(), NOT_THERE_YET);
        KC_PROCESSES.get_ptr(process).is_some()
    }

    #[inline(always)]
    fn next_ordinal(&mut self) -> Option<u64> {
        if KC_EXACT.load() == 0 {
            return None;
        }
        if self.has_processes() && self.per_process {
            let count = KC_PROCESSES.get_ptr_mut(self.process())?;
            // SAFETY: as below; the entry of a process that runs is not deleted.
            return Some(unsafe { fetch_increment(&raw mut (*count).decided) } + 1);
        }
        let ordinal = KC_ORDINALS.get_ptr_mut(self.rule)?;
        // SAFETY: an aligned `u64` of a map value that is only ever changed by `fetch_increment` in the kernel.
        Some(unsafe { fetch_increment(&raw mut (*ordinal).decided) } + 1)
    }

    #[inline(always)]
    fn step(&mut self, rule: &Rule, draws: [u32; 2]) -> Option<bool> {
        if KC_EXACT.load() == 0 {
            return None;
        }
        let ordinal = KC_ORDINALS.get_ptr_mut(self.rule)?;
        for _ in 0..STEP_ATTEMPTS {
            // SAFETY: an aligned `u64` of a map value that is only ever changed by `compare_exchange` in the kernel.
            let state = unsafe { (&raw const (*ordinal).state).read_volatile() };
            let step = chain::step(rule.chain, &rule.chain_q32, state, draws[0], draws[1]);
            // SAFETY: as above.
            if unsafe { compare_exchange(&raw mut (*ordinal).state, state, step.state) } == state {
                return Some(step.lost == 1);
            }
        }
        None
    }

    #[inline(always)]
    fn flow(&mut self) -> u64 {
        self.flow
    }

    #[inline(always)]
    fn random(&mut self) -> u32 {
        // SAFETY: the helper has no preconditions.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn next_hit(&mut self) -> Option<u64> {
        if KC_EXACT.load() == 0 {
            return None;
        }
        if self.has_processes() && self.per_process {
            let count = KC_PROCESSES.get_ptr_mut(self.process())?;
            // SAFETY: as above.
            return Some(unsafe { fetch_increment(&raw mut (*count).asked) } + 1);
        }
        let ordinal = KC_ORDINALS.get_ptr_mut(self.rule)?;
        // SAFETY: as above.
        Some(unsafe { fetch_increment(&raw mut (*ordinal).asked) } + 1)
    }

    #[inline(always)]
    fn choose(&mut self, draw: u32) {
        self.choice = draw;
    }
}

/// Adds 1 and returns what was there before (5.12).
///
/// # Safety
///
/// `counter` is an aligned `u64` of a map value.
#[inline(always)]
unsafe fn fetch_increment(counter: *mut u64) -> u64 {
    let mut value = 1u64;
    // SAFETY: the caller's.
    unsafe {
        asm!("{0} = atomic_fetch_add((u64 *)({1} + 0), {0})", inout(reg) value, in(reg) counter);
    }
    value
}

/// Stores `new` if `old` is there, and returns what was there before (5.12).
///
/// # Safety
///
/// `value` is an aligned `u64` of a map value.
#[inline(always)]
unsafe fn compare_exchange(value: *mut u64, old: u64, new: u64) -> u64 {
    let found;
    // SAFETY: the caller's.
    unsafe {
        asm!("r0 = cmpxchg_64({0} + 0, r0, {1})", in(reg) value, in(reg) new, inout("r0") old => found);
    }
    found
}
