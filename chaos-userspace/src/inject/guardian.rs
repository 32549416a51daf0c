//! The guardian: a second process that disarms the engine when its owner dies, then undoes what persists.
//!
//! It does not wait for the owner's end as such: a process's exit is signalled only after all its descriptors are
//! closed, and every link among them costs a grace period. It waits for the end of a pipe whose write end is the
//! owner's highest descriptor, which the kernel closes first.

use super::{
    attendant, continuer,
    control::ControlPage,
    journal::{EXTENSION_UNFINISHED, Journal},
    link::duplicate_from,
};
use crate::{host::cgroup, runs};
use nix::{fcntl, sys::resource, unistd};
use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd, RawFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// The owner undid everything; nothing is left to do.
const DONE: u8 = b'd';
/// The owner undid everything but the cgroup, in which processes live on.
const WAIT_FOR_CGROUP: u8 = b'c';

/// The owner's end.
#[derive(Debug)]
pub struct Guardian {
    process: Child,
    pipe: Option<File>,
}

impl Guardian {
    /// Starts one for the engine with this journal and these maps: that of the control page, and that of stopped processes.
    /// `program` is `kchaos`. What happens before it watches
    /// it finds out when it does: its pipe tells the owner's end then as well.
    pub fn start(program: &Path, maps: [BorrowedFd<'_>; 2], journal: &Journal) -> io::Result<Self> {
        let (read_end, write_end) = unistd::pipe2(fcntl::OFlag::O_CLOEXEC)?;
        let mut command = Command::new(program);
        command
            .arg0("kchaos-guardian")
            .arg("guardian")
            .arg(journal.path())
            .stdin(Stdio::from(read_end))
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let process = attendant::spawn(&mut command, &maps)?;
        let pipe = File::from(duplicate_from(write_end.as_fd(), highest_number()?)?);
        drop(write_end);
        Ok(Self { process, pipe: Some(pipe) })
    }

    /// Waits until it watches, which is asked once.
    pub fn wait_ready(&mut self) -> io::Result<()> {
        if !attendant::is_ready(&mut self.process) {
            return Err(io::Error::other("the guardian process did not start"));
        }
        Ok(())
    }

    /// Sends it home: everything is undone.
    pub fn dismiss(mut self) {
        self.tell(DONE);
        let _ = self.process.wait();
    }

    /// Leaves it behind until the cgroup is empty.
    pub fn leave_cgroup(mut self) {
        self.tell(WAIT_FOR_CGROUP);
    }

    fn tell(&mut self, message: u8) {
        if let Some(mut pipe) = self.pipe.take() {
            let _ = pipe.write_all(&[message]);
        }
    }
}

/// The highest number a descriptor of this process may have.
fn highest_number() -> io::Result<RawFd> {
    let (soft, _) = resource::getrlimit(resource::Resource::RLIMIT_NOFILE)?;
    // A table grows to its highest number; a million entries would cost more than they help.
    Ok(soft.clamp(16, 4096) as RawFd - 1)
}

/// Who runs out of memory first is the owner, not who undoes for it what it leaves: the OOM killer passes a process with this
/// value (`oom_badness`, mm/oom_kill.c). Without CAP_SYS_RESOURCE it is a candidate like others, if a small one.
fn outlive_want_of_memory() {
    let _as_before = std::fs::write("/proc/self/oom_score_adj", "-1000");
}

/// The guardian's whole life. `journal` is the path of the journal; it is read when it is needed, so that it tells
/// the latest.
pub fn watch(journal: PathBuf) -> io::Result<()> {
    outlive_want_of_memory();
    // SAFETY: the owner passes both maps, and this process has opened nothing.
    let [control_map, stopped] = unsafe { attendant::received() }?;
    let page = ControlPage::map(&control_map)?;
    page.set_own_tgid(1, super::identity::thread_group_id());
    attendant::say_ready()?;
    let mut message = [0];
    let last_word = loop {
        match io::stdin().read(&mut message) {
            Ok(0) => break None,
            Ok(_) => break Some(message[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break None,
        }
    };
    match last_word {
        Some(DONE) => {}
        Some(WAIT_FOR_CGROUP) => finish(&journal, false),
        _ => {
            page.set_armed(false);
            // The continuer may be dead as well. There is nobody to tell.
            let _ = continuer::let_all_go(&page, stopped);
            drop(page);
            drop(control_map);
            persist(|| {
                let files = [runs::EXTENSION, runs::EXTENSION_UNFINISHED, EXTENSION_UNFINISHED];
                files.iter().all(|extension| remove(&journal.with_extension(extension)))
            });
            finish(&journal, true);
        }
    }
    Ok(())
}

/// How long something is tried again: what the owner died of, such as want of memory, may keep its guardian from working
/// as well. What is left then is for the next start, or `kchaos clean`.
const PATIENCE: Duration = Duration::from_secs(600);

/// Tries something until it works. `false` if it never did.
fn persist(mut act: impl FnMut() -> bool) -> bool {
    let (start, mut pause) = (Instant::now(), Duration::from_millis(10));
    loop {
        if act() {
            return true;
        }
        if start.elapsed() > PATIENCE {
            return false;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

fn is_absence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
}

fn remove(file: &Path) -> bool {
    std::fs::remove_file(file).map_or_else(|error| is_absence(&error), |()| true)
}

fn finish(path: &Path, with_filters: bool) {
    let mut found = None;
    persist(|| match Journal::read(path) {
        Ok(journal) => {
            found = Some(journal);
            true
        }
        Err(error) => is_absence(&error),
    });
    let Some(journal) = found else { return };
    let clean = !with_filters || persist(|| journal.undo_filters(&[]).is_empty());
    if let Some(cgroup) = &journal.cgroup {
        cgroup::wait_empty(cgroup, None);
    }
    if persist(|| journal.undo_cgroup()) && clean {
        persist(|| remove(path));
    }
}
