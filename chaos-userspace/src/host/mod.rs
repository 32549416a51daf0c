//! What is there: cgroups, namespaces, devices, privileges, kernel features that can be read.

pub mod causes;
pub mod cgroup;
pub mod cgroup_watch;
pub mod containers;
pub mod device;
pub mod kernel;
pub mod link_events;
pub mod namespace;
pub mod neighbour;
pub mod netlink;
pub mod pod;
pub mod privilege;
pub mod process;
pub mod resolver;
pub mod sockets;
pub mod target;
pub mod types;
pub mod users;
