//! Two tun or tap devices with a wire between them: threads that carry what one sends to the other.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::netns::NetNs;

/// Name of the device on the near side.
pub const NEAR: &str = "tun-near";
/// Name of the device on the far side.
pub const FAR: &str = "tun-far";

const IFF_TUN: i16 = 1;
const IFF_TAP: i16 = 2;
const IFF_NO_PI: i16 = 0x1000;
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;

/// What carries packets between the devices, until it is dropped; the devices go with it.
pub struct Wire {
    stop: Arc<AtomicBool>,
    carriers: Vec<JoinHandle<()>>,
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        for carrier in self.carriers.drain(..) {
            let _ = carrier.join();
        }
    }
}

/// Makes one device on either side and connects them; the reason if this kernel has none.
pub fn connect(near: &NetNs, far: &NetNs, tap: bool) -> Result<std::result::Result<Wire, String>> {
    // The module may have been loaded while /dev was another file system.
    let device = std::path::Path::new("/dev/net/tun");
    if !device.exists() {
        return Ok(Err("no /dev/net/tun".to_owned()));
    }
    let (near_end, far_end) = (open(near, NEAR, tap)?, open(far, FAR, tap)?);
    for (netns, name) in [(near, NEAR), (far, FAR)] {
        netns.ip(&format!("link set {name} txqueuelen 20000"))?;
    }
    let (near_end, far_end) = (Arc::new(near_end), Arc::new(far_end));
    let stop = Arc::new(AtomicBool::new(false));
    let carriers = [(&near_end, &far_end), (&far_end, &near_end)].map(|(from, to)| {
        let (from, to, stop) = (Arc::clone(from), Arc::clone(to), Arc::clone(&stop));
        std::thread::spawn(move || carry(&from, &to, &stop))
    });
    Ok(Ok(Wire { stop, carriers: carriers.into() }))
}

fn open(netns: &NetNs, name: &str, tap: bool) -> Result<File> {
    netns.enter(|| {
        let mut options = File::options();
        options.read(true).write(true).custom_flags(libc::O_NONBLOCK);
        let file = options.open("/dev/net/tun").context("opening /dev/net/tun")?;
        // struct ifreq {name, flags}.
        let mut request = [0u8; 40];
        request[..name.len()].copy_from_slice(name.as_bytes());
        let flags = IFF_NO_PI | if tap { IFF_TAP } else { IFF_TUN };
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the request is as long as the kernel's structure and lives through the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
        Errno::result(result).with_context(|| format!("making {name}"))?;
        Ok(file)
    })
}

fn carry(mut from: &File, mut to: &File, stop: &AtomicBool) {
    let mut packet = vec![0u8; 1 << 16];
    while !stop.load(Ordering::Acquire) {
        match from.read(&mut packet) {
            // A device that is down takes nothing, as a wire would lose it.
            Ok(bytes) => {
                let _ = to.write(&packet[..bytes]);
            }
            Err(_) => {
                let mut news = [PollFd::new(from.as_fd(), PollFlags::POLLIN)];
                let _ = poll(&mut news, PollTimeout::from(20u8));
            }
        }
    }
}
