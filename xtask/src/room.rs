//! What a full disk does to a run looks like anything but that: it is asked of the disks, and said beside the failures.

use std::path::Path;

use nix::sys::statvfs::statvfs;

use crate::paths;

/// Below this much free space, in MiB, a run may fail for want of it. What one builds is about as much, and the initramfs of two
/// machines are 900 MiB.
const LITTLE_MIB: u64 = 3 * 1024;

/// Which of the places that runs write to have little room left, and how much; nothing if all have enough.
pub fn want() -> Option<String> {
    let cache = paths::cache().ok();
    let places = [Some(paths::target()), cache, Some(std::env::temp_dir())];
    let few: Vec<String> = places.into_iter().flatten().filter_map(|place| little(&place)).collect();
    (!few.is_empty()).then(|| format!("little room is left, which may be why: {}", few.join(", ")))
}

fn little(place: &Path) -> Option<String> {
    let mib = free_mib(place)?;
    (mib < LITTLE_MIB).then(|| format!("{mib} MiB for {}", place.display()))
}

/// What the disk behind a path still takes; nothing if it cannot be asked.
fn free_mib(place: &Path) -> Option<u64> {
    let disk = statvfs(place).ok()?;
    Some(disk.blocks_available().saturating_mul(disk.fragment_size()) / (1 << 20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_tells_its_room_and_what_is_not_there_tells_none() {
        assert!(free_mib(Path::new("/")).is_some());
        assert_eq!(free_mib(Path::new("/proc")), Some(0));
        assert_eq!(free_mib(Path::new("/not/there")), None);
        assert_eq!(little(Path::new("/proc")).as_deref(), Some("0 MiB for /proc"));
    }
}
