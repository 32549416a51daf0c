//! Network devices of the current network namespace.

use std::io;

/// A network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index, unique within its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
}

/// All devices of the network namespace of the calling thread.
pub fn list() -> io::Result<Vec<Device>> {
    let names = nix::net::if_::if_nameindex()?;
    Ok(names
        .iter()
        .map(|entry| Device { index: entry.index(), name: entry.name().to_string_lossy().into_owned() })
        .collect())
}
