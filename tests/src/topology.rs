//! Two network namespaces and what may lie between them.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::board::Role;
use crate::device_kinds::{Between, FAR_MAC, NEAR_MAC};
use crate::netns::NetNs;
use crate::patience::wait_for;
use crate::spawn::{Place, Victim};

pub use crate::device_kinds::Kind;

/// Two namespaces that reach each other.
pub struct Pair {
    /// Where the target lives.
    pub near: NetNs,
    /// The other side.
    pub far: NetNs,
    /// Device the near side's addresses are on.
    pub near_device: &'static str,
    kind: Kind,
    _keep: Vec<Box<dyn Send + Sync>>,
}

/// IPv4 address of the near side.
pub const NEAR4: &str = "10.77.0.1";
/// IPv4 address of the far side.
pub const FAR4: &str = "10.77.0.2";
/// IPv6 address of the near side.
pub const NEAR6: &str = "fd77::1";
/// IPv6 address of the far side.
pub const FAR6: &str = "fd77::2";

impl Pair {
    /// Builds a pair; the reason if this kernel lacks a device kind.
    pub fn new(kind: Kind) -> Result<std::result::Result<Self, String>> {
        let (near, far) = (NetNs::new()?, NetNs::new()?);
        let Between { near_device, far_device, keep } = match kind.build(&near, &far)? {
            Ok(between) => between,
            Err(missing) => return Ok(Err(missing)),
        };
        // Fixed addresses and neighbours: nothing but the traffic of the tests is on the wire, and nothing waits for ARP.
        let sides = [
            (&near, near_device, NEAR4, NEAR6, FAR4, FAR6, FAR_MAC),
            (&far, far_device, FAR4, FAR6, NEAR4, NEAR6, NEAR_MAC),
        ];
        for (netns, device, own4, own6, other4, other6, other_mac) in sides {
            let mut lines = vec![
                format!("link set {device} up"),
                format!("addr add {own4}/24 dev {device}"),
                format!("addr add {own6}/64 dev {device} nodad"),
            ];
            if kind.has_neighbours() {
                lines.extend([other4, other6].map(|other| {
                    format!("neigh replace {other} lladdr {other_mac} dev {device} nud permanent")
                }));
            }
            netns.ip_batch(&lines)?;
        }
        let pair = Self { near, far, near_device, kind, _keep: keep };
        pair.warm_up()?;
        Ok(Ok(pair))
    }

    /// A pair over a plain veth, which every kernel of the matrix has.
    pub fn veth() -> Result<Self> {
        Self::new(Kind::Veth)?.map_err(anyhow::Error::msg)
    }

    /// The far side's addresses that the devices between carry.
    pub fn far_addresses(&self) -> Vec<&'static str> {
        [FAR4, FAR6].into_iter().filter(|address| !address.contains(':') || self.kind.carries_v6()).collect()
    }

    /// Waits until everything passes both ways: devices come up asynchronously.
    fn warm_up(&self) -> Result<()> {
        for (from, to, address) in [
            (&self.near, &self.far, FAR4),
            (&self.near, &self.far, FAR6),
            (&self.far, &self.near, NEAR4),
            (&self.far, &self.near, NEAR6),
        ] {
            if address.contains(':') && !self.kind.carries_v6() {
                continue;
            }
            wait_for(&format!("datagrams to reach {address}"), || {
                let place = Place::default().in_netns(from);
                let arguments = format!(
                    "udp-pair --to {} -n 20 --idle-ms 50 --recv-netns {}",
                    endpoint(address, 7000)?,
                    to.path().display()
                );
                let mut victim = Victim::start(&place, &arguments)?;
                let received = victim.finish(Role::Second)?;
                Ok((received["received"] == 20).then_some(()))
            })?;
        }
        Ok(())
    }
}

/// Writes an address and a port as socket address.
pub fn endpoint(address: &str, port: u16) -> Result<String> {
    let address: IpAddr = address.parse().with_context(|| format!("{address} is no address"))?;
    ensure!(port != 0, "port 0 of {address} is none");
    Ok(std::net::SocketAddr::new(address, port).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_written_as_the_standard_library_reads_them() {
        assert_eq!(endpoint(FAR4, 7).unwrap(), "10.77.0.2:7");
        assert_eq!(endpoint(FAR6, 7).unwrap(), "[fd77::2]:7");
        assert!(endpoint("nonsense", 7).is_err());
    }
}
