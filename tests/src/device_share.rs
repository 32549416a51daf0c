//! Which kernel runs which device kinds with small samples. A soak runs all on all.

use anyhow::{Result, ensure};

use crate::capability::{kernel_name, on_host};
use crate::samples::full;

/// A kind by its name in the table of device kinds, the kernel below 6.6 that runs it (egress hooks are filters there), and
/// the one from 6.6 on (links). None where no such kernel has the kind.
pub const SHARES: [(&str, Option<&str>, Option<&str>); 15] = [
    ("veth", Some("debian-5.10"), Some("6.12-override")),
    ("bridge", Some("debian-6.1"), Some("debian-newest")),
    ("vlan", Some("debian-5.10"), Some("debian-6.12")),
    ("vlan_from_elsewhere", Some("5.10-override"), Some("debian-newest")),
    ("bond", Some("5.10-override"), Some("6.12-override")),
    ("vxlan", Some("debian-6.1"), Some("debian-6.12")),
    ("macvlan", Some("debian-5.10"), Some("debian-newest")),
    ("ipvlan", Some("debian-6.1"), Some("6.12-override")),
    ("netkit", None, Some("debian-newest")),
    ("tap", Some("debian-5.10"), Some("6.12-override")),
    ("tun", Some("debian-6.1"), Some("debian-6.12")),
    ("wireguard", Some("5.10-override"), Some("debian-newest")),
    ("ipip", Some("debian-5.10"), Some("6.12-override")),
    ("gre", Some("debian-6.1"), Some("debian-6.12")),
    ("dummy", Some("5.10-override"), Some("debian-6.12")),
];

/// Who runs this kind with small samples, if not this kernel.
pub fn left_to(name: &str) -> Result<Option<String>> {
    let here = kernel_name();
    if full() || on_host() {
        return Ok(None);
    }
    let runners: Vec<_> = SHARES
        .iter()
        .filter(|(kind, ..)| *kind == name)
        .flat_map(|(_, before, since)| before.iter().chain(since))
        .copied()
        .collect();
    ensure!(!runners.is_empty(), "nobody runs the kind {name}");
    Ok((!runners.contains(&here.as_str())).then(|| runners.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names of the kernels in the matrix, by whether they are from 6.6 on.
    fn kernels() -> Vec<(&'static str, bool)> {
        let matrix = include_str!("../matrix.toml");
        let blocks = matrix.split("[[kernel]]").skip(1);
        blocks
            .map(|block| {
                let name = block.split('"').nth(1).unwrap();
                (name, !block.contains("no tcx links"))
            })
            .collect()
    }

    #[test]
    fn every_kind_is_run_below_and_from_6_6_on() {
        let known = kernels();
        assert!(known.len() > 5, "{known:?}");
        for (kind, before, since) in SHARES {
            assert!(before.is_some() || kind == "netkit", "{kind} came with 6.7 only if it is netkit");
            if let Some(name) = before {
                assert!(known.contains(&(name, false)), "{name} runs {kind}");
            }
            assert!(since.is_some_and(|name| known.contains(&(name, true))), "{kind}");
        }
    }
}
