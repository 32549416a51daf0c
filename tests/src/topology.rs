//! Two network namespaces and what may lie between them.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};

use crate::board::Role;
use crate::netns::NetNs;
use crate::patience::wait_for;
use crate::spawn::{Place, Victim};

/// What the near side sends through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Straight into a veth.
    Veth,
    /// A bridge with the veth as its port.
    Bridge,
    /// A VLAN device on the veth.
    Vlan,
    /// A VXLAN tunnel over the veth.
    Vxlan,
}

/// Two namespaces that reach each other.
pub struct Pair {
    /// Where the target lives.
    pub near: NetNs,
    /// The other side.
    pub far: NetNs,
    /// Device the near side's addresses are on.
    pub near_device: &'static str,
}

/// IPv4 address of the near side.
pub const NEAR4: &str = "10.77.0.1";
/// IPv4 address of the far side.
pub const FAR4: &str = "10.77.0.2";
/// IPv6 address of the near side.
pub const NEAR6: &str = "fd77::1";
/// IPv6 address of the far side.
pub const FAR6: &str = "fd77::2";

const NEAR_MAC: &str = "02:77:00:00:00:01";
const FAR_MAC: &str = "02:77:00:00:00:02";

impl Pair {
    /// Builds a pair; the reason if this kernel lacks a device kind.
    pub fn new(kind: Kind) -> Result<std::result::Result<Self, String>> {
        let (near, far) = (NetNs::new()?, NetNs::new()?);
        // Fixed addresses and neighbours: nothing but the traffic of the tests is on the wire, and nothing waits for ARP.
        let (outer_near, outer_far) = match kind {
            Kind::Veth | Kind::Vlan => (NEAR_MAC, FAR_MAC),
            Kind::Bridge => ("02:77:00:00:01:01", FAR_MAC),
            Kind::Vxlan => ("02:77:00:00:01:01", "02:77:00:00:01:02"),
        };
        near.ip(&format!(
            "link add veth-near address {outer_near} type veth peer name veth-far address {outer_far} netns {}",
            far.path().display()
        ))?;
        near.ip("link set veth-near up")?;
        far.ip("link set veth-far up")?;
        let (near_device, far_device) = match kind {
            Kind::Veth => ("veth-near", "veth-far"),
            Kind::Bridge => {
                let bridge =
                    format!("link add br0 address {NEAR_MAC} type bridge forward_delay 0 stp_state 0");
                if let Err(said) = near.try_run("ip", &bridge)? {
                    return Ok(Err(format!("no bridge: {said}")));
                }
                near.ip("link set veth-near master br0")?;
                ("br0", "veth-far")
            }
            Kind::Vlan => {
                if let Err(said) = near.try_run("ip", "link add link veth-near name vlan5 type vlan id 5")? {
                    return Ok(Err(format!("no vlan: {said}")));
                }
                far.ip("link add link veth-far name vlan5 type vlan id 5")?;
                ("vlan5", "vlan5")
            }
            Kind::Vxlan => {
                let sides = [
                    (&near, "near", "10.78.0.1", "10.78.0.2", NEAR_MAC),
                    (&far, "far", "10.78.0.2", "10.78.0.1", FAR_MAC),
                ];
                for (netns, side, local, remote, mac) in sides {
                    let other = if side == "near" { outer_far } else { outer_near };
                    netns.ip(&format!("addr add {local}/24 dev veth-{side}"))?;
                    netns.ip(&format!(
                        "neigh replace {remote} lladdr {other} dev veth-{side} nud permanent"
                    ))?;
                    let tunnel = format!(
                        "link add vxlan7 address {mac} type vxlan id 7 local {local} remote {remote} dstport 4789 dev veth-{side}"
                    );
                    if let Err(said) = netns.try_run("ip", &tunnel)? {
                        return Ok(Err(format!("no vxlan: {said}")));
                    }
                }
                ("vxlan7", "vxlan7")
            }
        };
        let sides = [
            (&near, near_device, NEAR4, NEAR6, FAR4, FAR6, FAR_MAC),
            (&far, far_device, FAR4, FAR6, NEAR4, NEAR6, NEAR_MAC),
        ];
        for (netns, device, own4, own6, other4, other6, other_mac) in sides {
            netns.ip(&format!("link set {device} up"))?;
            netns.ip(&format!("addr add {own4}/24 dev {device}"))?;
            netns.ip(&format!("-6 addr add {own6}/64 dev {device} nodad"))?;
            netns.ip(&format!("neigh replace {other4} lladdr {other_mac} dev {device} nud permanent"))?;
            netns.ip(&format!("-6 neigh replace {other6} lladdr {other_mac} dev {device} nud permanent"))?;
        }
        let pair = Self { near, far, near_device };
        pair.warm_up()?;
        Ok(Ok(pair))
    }

    /// A pair over a plain veth, which every kernel of the matrix has.
    pub fn veth() -> Result<Self> {
        Self::new(Kind::Veth)?.map_err(anyhow::Error::msg)
    }

    /// Waits until everything passes both ways: devices come up asynchronously.
    fn warm_up(&self) -> Result<()> {
        for (from, to, address) in [
            (&self.near, &self.far, FAR4),
            (&self.near, &self.far, FAR6),
            (&self.far, &self.near, NEAR4),
            (&self.far, &self.near, NEAR6),
        ] {
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
