//! The sleeper: a process that lets calls go that are held back, when their time has come.
//!
//! A kernel program can sleep only by asking for something that takes long. It asks for an attribute of a file on a FUSE
//! file system of the sleeper, which is mounted nowhere, and the sleeper answers later. Whoever waits goes on at once when
//! the descriptor of the file system is closed, so nothing outlives the sleeper. That leaves one that is stopped: the owner
//! watches the sleeper and kills it, and the sleeper watches the owner's lease.

mod fuse;
mod mount;
mod waiting;

use super::{
    attendant,
    control::ControlPage,
    holder::{BEAT, Holder, Role},
    identity,
};
use crate::host::kernel::monotonic_ns;
pub use mount::try_mount;
use mount::{Handle, Mount};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd},
    path::Path,
    sync::Arc,
};
use waiting::Waiting;

const ROLE: Role = Role {
    process: "kchaos-sleeper",
    command: "sleeper",
    gone: "the sleeper is gone: no calls are held back any more, those that were go on",
};

/// Starts one for the engine with this control map and waits until it serves. `program` is `kchaos`. The kernel lets
/// everybody go when it is gone.
pub fn start(program: &Path, control_map: BorrowedFd<'_>, page: Arc<ControlPage>) -> io::Result<Holder> {
    Holder::start(program, &ROLE, &[control_map], page, || {})
}

/// The sleeper's whole life.
pub fn live() -> io::Result<()> {
    // SAFETY: the owner passes the control map, and this process has opened nothing.
    let [control_map] = unsafe { attendant::received() }?;
    let page = ControlPage::map(&control_map)?;
    drop(control_map);
    page.set_own_tgid(2, identity::thread_group_id());
    page.set_sleeper_ns(monotonic_ns());
    let mount = Mount::make()?;
    let mut handle = Some(Handle::start(&mount)?);
    let (mut waiting, mut buffer) = (Waiting::default(), vec![0; fuse::REQUEST_BYTES]);
    let owner = io::stdin();
    loop {
        let next = waiting.next(monotonic_ns()).unwrap_or(BEAT).min(BEAT);
        let started = handle.as_ref().map(|handle| handle.started.as_fd());
        let mut polled = vec![
            PollFd::new(owner.as_fd(), PollFlags::POLLIN),
            PollFd::new(mount.device.as_fd(), PollFlags::POLLIN),
        ];
        // What it says comes before it has started; what counts is that it says no more.
        polled.extend(started.map(|started| PollFd::new(started, PollFlags::empty())));
        match ppoll(&mut polled, Some(TimeSpec::from_duration(next)), None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let happened = |place: usize| polled.get(place).and_then(PollFd::any).unwrap_or(false);
        let (ended, has_started) = (happened(0), happened(2));
        if ended {
            // The owner is done or dead. Closing the device lets everybody go.
            page.set_handle(0);
            return Ok(());
        }
        if has_started && let Some(handle) = handle.take() {
            // Its program lies on our file system now.
            page.set_handle(handle.tgid()?);
            attendant::say_ready()?;
        }
        fuse::serve(&mount.device, &mut buffer, &mut waiting)?;
        let now = monotonic_ns();
        page.set_sleeper_ns(now);
        let all = !page.may_act(now);
        for unique in waiting.due(now, all) {
            fuse::answer(&mount.device, unique)?;
        }
    }
}
