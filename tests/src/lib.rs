//! Harness of the integration tests: puts victims into cgroups and network namespaces, runs kchaos on them and
//! judges what they felt.
//!
//! The tests themselves are in `tests/tests`, one file per theme; the victims' side is in [`victim`].

pub mod alone;
pub mod attempts;
pub mod binomial;
pub mod board;
pub mod bursts;
pub mod capability;
pub mod cgroup;
pub mod client;
pub mod containerd;
pub mod control;
pub mod cri;
pub mod device_kinds;
pub mod device_share;
pub mod engine_host;
pub mod engine_lane;
pub mod engine_scene;
pub mod experiment;
pub mod ground;
pub mod held_back;
pub mod kchaos;
pub mod kernel_objects;
pub mod loaded;
pub mod loss;
pub mod measure;
pub mod netns;
pub mod patience;
pub mod plan;
pub mod podman;
pub mod program_info;
pub mod quantiles;
pub mod samples;
pub mod screen;
pub mod skip;
pub mod slowed;
pub mod spawn;
pub mod summary;
pub mod syscall_errors;
pub mod syscall_results;
pub mod tasks;
pub mod times;
pub mod topology;
pub mod tun;
pub mod victim;
pub mod wireguard;
