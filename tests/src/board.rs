//! The memory a victim shares with the test: a faulted process may be unable to open, write or send anything, but
//! nothing stops it from storing to memory.

use std::ffi::CStr;
use std::fs::File;
use std::num::NonZeroUsize;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use anyhow::{Context as _, Result, ensure};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// Tasks that can report on one board.
pub const TASKS_MAX: usize = 128;
/// Different errnos one task can report.
pub const ERRNOS_MAX: usize = 8;
/// Control calls one task can report.
pub const CONTROLS_MAX: usize = 24;
const REPORT_BYTES_MAX: usize = 64 * 1024;

/// One call that is not the one under fault, made to see that it still works.
#[repr(C)]
pub struct Control {
    /// Place of the call in the table of calls.
    pub call: AtomicU32,
    /// Errno of the last failure.
    pub errno: AtomicU32,
    /// How often it was made.
    pub made: AtomicU32,
    /// How often it failed.
    pub failed: AtomicU32,
}

/// What one thread made and felt.
#[repr(C)]
pub struct Task {
    /// Process (thread group) id.
    pub tgid: AtomicU32,
    /// Thread id.
    pub tid: AtomicU32,
    /// 0 for the first process, 1 for its child, and so on.
    pub generation: AtomicU32,
    /// Set after the last call.
    pub done: AtomicU32,
    /// Exit status of an exec of the victim itself, plus one; 0 when not tried.
    pub exec_status: AtomicI32,
    /// Controls in use.
    pub controls_used: AtomicU32,
    /// Calls made.
    pub calls: AtomicU64,
    /// Calls that returned without error.
    pub succeeded: AtomicU64,
    /// When the last error was returned.
    pub last_error_ns: AtomicU64,
    /// When the last call that succeeded was begun.
    pub last_success_ns: AtomicU64,
    /// Errnos seen, in order of appearance; 0 ends the list.
    pub errnos: [AtomicU64; ERRNOS_MAX],
    /// How often each of them.
    pub errno_counts: [AtomicU64; ERRNOS_MAX],
    /// The other calls.
    pub controls: [Control; CONTROLS_MAX],
}

/// What a pair of datagram sender and receiver made and felt.
#[repr(C)]
pub struct Datagrams {
    /// Datagrams the kernel took from the sender.
    pub sent: AtomicU64,
    /// Errors of send calls.
    pub send_errors: AtomicU64,
    /// Messages from the sender's error queue.
    pub queue_errors: AtomicU64,
    /// Highest sequence number received plus one; paces the sender.
    pub highest: AtomicU64,
    /// Different datagrams received.
    pub received: AtomicU64,
    /// Datagrams that did not come so far though a later one has: fewer again when some come after all.
    pub lost: AtomicU64,
    /// When the last of the lost ones was sent; 0 if there are none.
    pub last_lost_sent_ns: AtomicU64,
    /// When the datagram last received was sent.
    pub last_received_sent_ns: AtomicU64,
    /// Sent ones of which the test knows that they do not come: the receiver waits for all others only.
    pub known_lost: AtomicU64,
}

/// A line of JSON.
#[repr(C)]
pub struct Report {
    bytes: AtomicU32,
    text: [AtomicU8; REPORT_BYTES_MAX],
}

/// Who reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The sender of a pair, or the only process.
    First,
    /// The receiver of a pair.
    Second,
}

/// The shared memory itself; all zero at the start.
#[repr(C)]
pub struct Board {
    /// The victim is prepared, and a receiver is bound.
    pub ready: AtomicU32,
    /// The test lets the victim begin.
    pub go: AtomicU32,
    /// The test wants the victim to end.
    pub stop: AtomicU32,
    /// The sender of a pair has sent its last datagram.
    pub sender_done: AtomicU32,
    /// Tasks in use.
    pub tasks_used: AtomicU32,
    _padding: u32,
    /// Live figures of a datagram pair.
    pub datagrams: Datagrams,
    /// Live figures of tasks making system calls.
    pub tasks: [Task; TASKS_MAX],
    reports: [Report; 2],
}

impl Board {
    /// Leaves a result in memory.
    pub fn report(&self, role: Role, result: &serde_json::Value) {
        let text = result.to_string();
        let report = &self.reports[role as usize];
        for (slot, byte) in report.text.iter().zip(text.bytes()) {
            slot.store(byte, Ordering::Relaxed);
        }
        report.bytes.store(text.len() as u32, Ordering::Release);
    }

    /// The result that was left, if any.
    pub fn result(&self, role: Role) -> Result<Option<serde_json::Value>> {
        let report = &self.reports[role as usize];
        let bytes = report.bytes.load(Ordering::Acquire) as usize;
        if bytes == 0 {
            return Ok(None);
        }
        ensure!(bytes <= REPORT_BYTES_MAX, "a report of {bytes} bytes does not fit into {REPORT_BYTES_MAX}");
        let text: Vec<u8> = report.text[..bytes].iter().map(|byte| byte.load(Ordering::Relaxed)).collect();
        Ok(Some(serde_json::from_slice(&text).context("reading a report from the board")?))
    }

    /// Whether the test wants the victim to end.
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed) != 0
    }

    /// Tasks that were begun.
    pub fn tasks(&self) -> &[Task] {
        let used = self.tasks_used.load(Ordering::Acquire) as usize;
        &self.tasks[..used.min(TASKS_MAX)]
    }
}

/// A board mapped into this process.
pub struct SharedBoard {
    memory: NonNull<libc::c_void>,
    file: Option<OwnedFd>,
}

// SAFETY: the mapping lives until drop and holds atomics only.
unsafe impl Send for SharedBoard {}
// SAFETY: as above.
unsafe impl Sync for SharedBoard {}

const BOARD_BYTES: NonZeroUsize = match NonZeroUsize::new(size_of::<Board>()) {
    Some(bytes) => bytes,
    None => unreachable!(),
};

impl SharedBoard {
    /// Creates a board that can be handed to other processes as a file.
    pub fn create() -> Result<Self> {
        let name: &CStr = c"victim-board";
        let file = memfd_create(name, MFdFlags::MFD_CLOEXEC).context("creating the victim's board")?;
        nix::unistd::ftruncate(&file, BOARD_BYTES.get() as i64).context("sizing the victim's board")?;
        let memory = map(&file)?;
        Ok(Self { memory, file: Some(file) })
    }

    /// Creates a board in a file, for processes that are handed no descriptors, as those of a container that is restarted.
    pub fn create_at(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).create_new(true).open(path);
        let file = file.with_context(|| format!("creating the victim's board {}", path.display()))?;
        file.set_len(BOARD_BYTES.get() as u64).context("sizing the victim's board")?;
        Ok(Self { memory: map(&file)?, file: Some(file.into()) })
    }

    /// Maps the board in a file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::options().read(true).write(true).open(path);
        Self::from_fd(file.with_context(|| format!("opening the victim's board {}", path.display()))?)
    }

    /// Maps the board that was handed over as descriptor 1 or the like.
    pub fn from_fd(file: impl AsFd) -> Result<Self> {
        Ok(Self { memory: map(file)?, file: None })
    }

    /// A board for this process and its children alone.
    pub fn anonymous() -> Result<Self> {
        // SAFETY: a fresh mapping at an address the kernel chooses.
        let memory = unsafe {
            mmap_anonymous(
                None,
                BOARD_BYTES,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
            )
        }
        .context("mapping a board")?;
        Ok(Self { memory, file: None })
    }

    /// A descriptor of the board for another process.
    pub fn handle(&self) -> Result<OwnedFd> {
        let file = self.file.as_ref().context("this board has no file")?;
        file.try_clone().context("duplicating the board's descriptor")
    }
}

fn map(file: impl AsFd) -> Result<NonNull<libc::c_void>> {
    // SAFETY: a fresh mapping at an address the kernel chooses; the file is as long as the board.
    unsafe {
        mmap(
            None,
            BOARD_BYTES,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
            MapFlags::MAP_SHARED | MapFlags::MAP_POPULATE,
            file,
            0,
        )
    }
    .context("mapping the board: descriptor 1 must be the one the test handed over")
}

impl Deref for SharedBoard {
    type Target = Board;

    fn deref(&self) -> &Board {
        // SAFETY: the mapping is page aligned, long enough, lives as long as self, and any bytes are valid atomics.
        unsafe { self.memory.cast().as_ref() }
    }
}

impl Drop for SharedBoard {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by this value and no reference outlives it. Failing to unmap leaks it only.
        let _ignored = unsafe { munmap(self.memory, BOARD_BYTES.get()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn carries_a_report_to_another_mapping() {
        let board = SharedBoard::create().unwrap();
        let other = SharedBoard::from_fd(board.handle().unwrap()).unwrap();
        assert_eq!(board.result(Role::Second).unwrap(), None);
        other.report(Role::Second, &serde_json::json!({"received": 3}));
        assert_eq!(board.result(Role::Second).unwrap().unwrap()["received"], 3);
        assert_eq!(board.result(Role::First).unwrap(), None);
    }
}
