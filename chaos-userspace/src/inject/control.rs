//! The control page of a running engine, mapped into this process.

use crate::encode::Image;
use chaos_common::{
    control::{Control, FIRST_SET, Header, OWN, PAGE_BYTES, Run, STATE_ARMED},
    limits::RUNS_MAX,
};
use std::{
    io,
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

/// The page. Shared by threads: every access is one atomic load or store of a word.
#[derive(Debug)]
pub struct ControlPage(NonNull<Control>);

// SAFETY: the mapping lives as long as the value and is only accessed atomically.
unsafe impl Send for ControlPage {}
// SAFETY: as above.
unsafe impl Sync for ControlPage {}

impl ControlPage {
    /// Maps the control map.
    pub fn map(map: impl AsFd) -> io::Result<Self> {
        use nix::sys::mman::{MapFlags, ProtFlags, mmap};
        let length = NonZeroUsize::new(PAGE_BYTES).ok_or(io::ErrorKind::InvalidInput)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new shared mapping; the map's value is exactly one page.
        let page = unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, map, 0) }?;
        Ok(Self(page.cast()))
    }

    fn word32(&self, field: impl FnOnce(*mut Control) -> *mut u32) -> &AtomicU32 {
        // SAFETY: `field` projects to an aligned field of the mapped page, which lives as long as `self`.
        unsafe { AtomicU32::from_ptr(field(self.0.as_ptr())) }
    }

    fn word64(&self, field: impl FnOnce(*mut Control) -> *mut u64) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(field(self.0.as_ptr())) }
    }

    fn run(page: *mut Control, index: usize) -> *mut Run {
        // SAFETY: callers pass an index of an existing slot; the projection stays inside the page.
        unsafe { &raw mut (*page).runs[index] }
    }

    /// Writes what does not change while programs run, and the initial state of the runs. Nothing is armed by this.
    pub fn write_header(&self, image: &Image) {
        let header = Header {
            abi: chaos_common::ABI_VERSION,
            egress_rules: image.egress_rules,
            ingress_rules: image.ingress_rules,
            ..Header::default()
        };
        // SAFETY: the page is mapped writable and no program is attached yet, so nobody reads it.
        unsafe {
            (&raw mut (*self.0.as_ptr()).header).write(header);
            for (index, run) in image.runs.iter().enumerate().take(RUNS_MAX) {
                Self::run(self.0.as_ptr(), index).write(*run);
            }
        }
    }

    /// Writes one run, which nothing is subject to yet.
    pub fn set_run(&self, index: usize, run: Run) {
        if index < RUNS_MAX {
            // SAFETY: the slot is inside the page, and programs look at it only for rules of its run, of which no target has
            // one.
            unsafe { Self::run(self.0.as_ptr(), index).write(run) };
        }
    }

    /// Which rules judge packets that leave and that arrive.
    pub fn set_judging(&self, egress_rules: u64, ingress_rules: u64) {
        // SAFETY: projections inside the page.
        unsafe {
            self.word64(|page| &raw mut (*page).header.egress_rules).store(egress_rules, Ordering::SeqCst);
            self.word64(|page| &raw mut (*page).header.ingress_rules).store(ingress_rules, Ordering::SeqCst);
        }
    }

    /// Which sets of programs act, one bit each.
    pub fn set_acting(&self, sets: u32) {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*page).header.armed }).store(sets, Ordering::SeqCst);
    }

    /// Engine-wide switch, of an engine with the first set of programs.
    pub fn set_armed(&self, armed: bool) {
        // SAFETY: projection inside the page.
        self.set_acting(if armed { FIRST_SET } else { 0 });
    }

    /// Which bank of the rule table is in use.
    pub fn bank(&self) -> u32 {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*page).header.bank }).load(Ordering::SeqCst)
    }

    /// Turns to a bank of the rule table.
    pub fn set_bank(&self, bank: u32) {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*page).header.bank }).store(bank, Ordering::SeqCst);
    }

    /// Moves the lease to `CLOCK_MONOTONIC` nanoseconds.
    pub fn set_lease_ns(&self, lease_ns: u64) {
        // SAFETY: projection inside the page.
        self.word64(|page| unsafe { &raw mut (*page).header.lease_ns }).store(lease_ns, Ordering::SeqCst);
    }

    /// Tells the kernel programs a process whose own calls always pass: 0 is the owner, 1 the
    /// guardian, 2 the sleeper.
    pub fn set_own_tgid(&self, place: usize, tgid: u32) {
        // SAFETY: projection inside the page; the index is in range.
        self.word32(|page| unsafe { &raw mut (*page).header.own[place % OWN] }).store(tgid, Ordering::SeqCst);
    }

    /// The process in one of these places, as kernel programs number it.
    pub fn own_tgid(&self, place: usize) -> u32 {
        // SAFETY: projection inside the page; the index is in range.
        self.word32(|page| unsafe { &raw mut (*page).header.own[place % OWN] }).load(Ordering::SeqCst)
    }

    /// Tells the kernel programs by which process they reach the sleeper's file system; 0: by none.
    pub fn set_handle(&self, tgid: u32) {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*page).header.handle }).store(tgid, Ordering::SeqCst);
    }

    /// When the sleeper last said that it runs, in `CLOCK_MONOTONIC` nanoseconds.
    pub fn sleeper_ns(&self) -> u64 {
        // SAFETY: projection inside the page.
        self.word64(|page| unsafe { &raw mut (*page).header.sleeper_ns }).load(Ordering::SeqCst)
    }

    /// Says that the sleeper runs.
    pub fn set_sleeper_ns(&self, now_ns: u64) {
        // SAFETY: projection inside the page.
        self.word64(|page| unsafe { &raw mut (*page).header.sleeper_ns }).store(now_ns, Ordering::SeqCst);
    }

    /// Whether any run may act at `now_ns`.
    pub fn may_act(&self, now_ns: u64) -> bool {
        // SAFETY: projection inside the page.
        let armed = self.word32(|page| unsafe { &raw mut (*page).header.armed }).load(Ordering::SeqCst);
        // SAFETY: as above.
        let lease = self.word64(|page| unsafe { &raw mut (*page).header.lease_ns });
        armed != 0
            && now_ns <= lease.load(Ordering::SeqCst)
            && (0..RUNS_MAX).any(|index| self.run_state(index) == STATE_ARMED)
    }

    /// The header and a run as they are now. `None` if there is no such slot.
    pub fn run_now(&self, index: usize) -> Option<(Header, Run)> {
        if index >= RUNS_MAX {
            return None;
        }
        // SAFETY: projections inside the page.
        let (armed, lease, mode, deadline) = unsafe {
            (
                self.word32(|page| &raw mut (*page).header.armed),
                self.word64(|page| &raw mut (*page).header.lease_ns),
                self.word32(|page| &raw mut (*Self::run(page, index)).mode),
                self.word64(|page| &raw mut (*Self::run(page, index)).deadline_ns),
            )
        };
        let header = Header {
            armed: armed.load(Ordering::SeqCst),
            lease_ns: lease.load(Ordering::SeqCst),
            ..Header::default()
        };
        let run = Run {
            state: self.run_state(index),
            mode: mode.load(Ordering::SeqCst),
            deadline_ns: deadline.load(Ordering::SeqCst),
            ..Run::default()
        };
        Some((header, run))
    }

    /// State of a run: one of `STATE_*`.
    pub fn run_state(&self, index: usize) -> u32 {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*Self::run(page, index)).state }).load(Ordering::SeqCst)
    }

    /// Sets the state of a run.
    pub fn set_run_state(&self, index: usize, state: u32) {
        // SAFETY: projection inside the page.
        self.word32(|page| unsafe { &raw mut (*Self::run(page, index)).state })
            .store(state, Ordering::SeqCst);
    }

    /// Sets the end of a run in `CLOCK_MONOTONIC` nanoseconds.
    pub fn set_run_deadline_ns(&self, index: usize, deadline_ns: u64) {
        // SAFETY: projection inside the page.
        self.word64(|page| unsafe { &raw mut (*Self::run(page, index)).deadline_ns })
            .store(deadline_ns, Ordering::SeqCst);
    }
}

impl Drop for ControlPage {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `map` and nobody uses it any more. Failure would only leak one page.
        let _ = unsafe { nix::sys::mman::munmap(self.0.cast(), PAGE_BYTES) };
    }
}
