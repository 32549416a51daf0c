//! The messages of the Container Runtime Interface that are spoken here, by their field numbers in `runtime/v1/api.proto` of
//! k8s.io/cri-api (the same from Kubernetes 1.20, the first with v1, to 1.36). Fields that nobody reads are left out: an
//! encoder need not know them, and a decoder skips them.

use std::collections::BTreeMap;

/// Asks for all sandboxes of pods. What could be filtered there is filtered here, where it is known how.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxRequest {}

/// All sandboxes of pods.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListPodSandboxResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub items: Vec<PodSandbox>,
}

/// What holds a pod together.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandbox {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Whose it is.
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<PodSandboxMetadata>,
    /// Whether it runs.
    #[prost(enumeration = "PodSandboxState", tag = "3")]
    pub state: i32,
    /// Of the pod.
    #[prost(btree_map = "string, string", tag = "5")]
    pub labels: BTreeMap<String, String>,
}

/// The pod of a sandbox.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PodSandboxMetadata {
    /// The pod's name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// The pod's unique id, which is part of the name of its cgroup.
    #[prost(string, tag = "2")]
    pub uid: String,
    /// The pod's namespace.
    #[prost(string, tag = "3")]
    pub namespace: String,
}

/// Whether a sandbox runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum PodSandboxState {
    /// It does.
    Ready = 0,
    /// It does not, as one that was replaced.
    NotReady = 1,
}

/// Asks for all containers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersRequest {}

/// All containers, not those that are sandboxes.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ListContainersResponse {
    /// Each of them.
    #[prost(message, repeated, tag = "1")]
    pub containers: Vec<Container>,
}

/// A container.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Container {
    /// Its id.
    #[prost(string, tag = "1")]
    pub id: String,
    /// The sandbox that it is in.
    #[prost(string, tag = "2")]
    pub pod_sandbox_id: String,
    /// What it is called.
    #[prost(message, optional, tag = "3")]
    pub metadata: Option<ContainerMetadata>,
    /// Whether it runs.
    #[prost(enumeration = "ContainerState", tag = "6")]
    pub state: i32,
}

/// What a container is called.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ContainerMetadata {
    /// Its name in the pod.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// Whether a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, prost::Enumeration)]
#[repr(i32)]
pub enum ContainerState {
    /// Not yet.
    Created = 0,
    /// It does.
    Running = 1,
    /// Not any more.
    Exited = 2,
    /// The runtime does not know.
    Unknown = 3,
}
