//! Sockets that processes hold, and what the kernel tells about them.

pub mod diag;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// What processes hold open, by what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Sockets: their inodes, and the first process that has each.
    pub sockets: BTreeMap<u64, i32>,
    /// Device files by which packets come and go without a socket, and the first process that has each.
    pub devices: BTreeMap<PathBuf, i32>,
}

/// Directory of the device files of RDMA.
const RDMA: &str = "/dev/infiniband";
/// Files whose holder makes and takes packets of others.
const OF_OTHERS: [&str; 2] = ["/dev/net/tun", "/dev/vhost-net"];

impl Held {
    /// By these processes; those that have gone, or may not be looked at, hold nothing.
    pub fn by(processes: &[i32]) -> Self {
        let mut held = Self::default();
        for pid in processes {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
            for target in entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()) {
                held.note(*pid, &target);
            }
        }
        held
    }

    fn note(&mut self, pid: i32, target: &Path) {
        if let Some(inode) = socket(target) {
            self.sockets.entry(inode).or_insert(pid);
        } else if is_rdma(target) || OF_OTHERS.iter().any(|path| target == Path::new(path)) {
            self.devices.entry(target.to_path_buf()).or_insert(pid);
        }
    }
}

/// Whether it is a device file of RDMA.
pub fn is_rdma(path: &Path) -> bool {
    path.starts_with(RDMA)
}

/// The inode in the link of a descriptor that is a socket: `socket:[4711]` (`sockfs_dname`, net/socket.c).
fn socket(target: &Path) -> Option<u64> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_told_apart() {
        let mut held = Held::default();
        for target in [
            "socket:[7]",
            "socket:[7]",
            "socket:[]",
            "/x/socket:[8]",
            "/dev/net/tun",
            "/dev/infiniband/uverbs0",
            "/dev/null",
        ] {
            held.note(5, Path::new(target));
        }
        assert_eq!(held.sockets, [(7, 5)].into());
        assert_eq!(held.devices.len(), 2);
        let _listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(!Held::by(&[std::process::id() as i32]).sockets.is_empty());
        assert_eq!(Held::by(&[i32::MAX]), Held::default());
    }
}
