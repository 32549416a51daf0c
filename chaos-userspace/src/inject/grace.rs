//! Grace periods: when programs go by nothing that was replaced before.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// `MEMBARRIER_CMD_GLOBAL` (include/uapi/linux/membarrier.h).
const MEMBARRIER_GLOBAL: libc::c_int = 1;

/// A time in which programs may still go by the rules that were in use.
#[derive(Clone, Debug, Default)]
pub struct Grace(Arc<AtomicBool>);

impl Grace {
    /// Waits until it is over: milliseconds, on a busy host more.
    pub fn wait(&self) {
        if !self.0.load(Ordering::Acquire) {
            wait_for_readers();
            self.0.store(true, Ordering::Release);
        }
    }
}

/// Waits until no program reads any more what was in use before: the bank of rules that is the next one to be written, or
/// entries of tables. The call is a grace period of RCU (`membarrier`, kernel/sched/membarrier.c), which programs run under.
pub(super) fn wait_for_readers() {
    // SAFETY: the call takes no pointers.
    if unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_GLOBAL, 0, 0) } != 0 {
        // With nohz_full= there is no such call; programs take microseconds.
        log::debug!("membarrier: {}", io::Error::last_os_error());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
