//! The Container Runtime Interface v1, by which Kubernetes speaks to containerd and CRI-O: gRPC over a Unix socket.

use super::{
    Problem, is_absence,
    messages::{
        ListContainersRequest, ListContainersResponse, ListPodSandboxRequest, ListPodSandboxResponse,
    },
    node::Node,
};
use crate::host::causes;
use std::{error::Error as _, io, time::Duration};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{self, Channel, Endpoint},
};
use tonic_prost::ProstCodec;

/// How long a runtime may take for all its answers.
const LIMIT: Duration = Duration::from_secs(10);
/// Longest answer that is read; the node agent reads as much (`maxMsgSize`, k8s.io/cri-client).
const ANSWER_MAX: usize = 16 << 20;

/// A runtime that listens on a socket.
pub struct Runtime {
    /// Its name.
    pub name: &'static str,
    /// Where it listens.
    pub socket: &'static str,
}

/// Runtimes of Kubernetes, where they listen unless told otherwise.
pub const RUNTIMES: [Runtime; 3] = [
    Runtime { name: "containerd", socket: "/run/containerd/containerd.sock" },
    Runtime { name: "containerd of k3s", socket: "/run/k3s/containerd/containerd.sock" },
    Runtime { name: "CRI-O", socket: "/var/run/crio/crio.sock" },
];

/// What a runtime says when it is asked for all it has.
#[derive(Debug)]
pub enum Said {
    /// Nothing: it is not there, or does not listen.
    Nothing,
    /// That it does not speak CRI v1: containerd beside Docker, where CRI is disabled, or before 1.6.
    OtherLanguage,
    /// All it has.
    All(Node),
}

impl Runtime {
    /// Asks for all pods and containers.
    pub fn ask(&self) -> Result<Said, Problem> {
        let failed = |problem: String| self.unanswered(problem);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        let answer = runtime.block_on(async { tokio::time::timeout(LIMIT, list(self.socket)).await });
        match answer {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(failed(format!("no answer within {} s", LIMIT.as_secs()))),
        }
    }

    /// It might know more than could be learnt.
    pub fn unanswered(&self, problem: String) -> Problem {
        Problem::Unanswered { runtime: self.name, socket: self.socket, problem }
    }
}

/// A connection to a runtime.
pub struct Client(Grpc<Channel>);

impl Client {
    /// Connects to the socket of this path. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// If nobody listens there, or does not speak HTTP/2.
    pub async fn connect(socket: &str) -> Result<Self, transport::Error> {
        let channel = Endpoint::from_shared(format!("unix://{socket}"))?.connect().await?;
        Ok(Self(Grpc::new(channel).max_decoding_message_size(ANSWER_MAX)))
    }

    /// Asks by a method of `runtime.v1.RuntimeService`, which is named with its service, as a path.
    ///
    /// # Errors
    /// The runtime's, or what became of the connection.
    pub async fn call<Q, A>(&mut self, method: &'static str, question: Q) -> Result<A, Status>
    where
        Q: prost::Message + Send + Sync + 'static,
        A: prost::Message + Default + Send + Sync + 'static,
    {
        self.0.ready().await.map_err(|error| Status::unavailable(chain(&error)))?;
        let codec = ProstCodec::<Q, A>::default();
        let method = PathAndQuery::from_static(method);
        Ok(self.0.unary(Request::new(question), method, codec).await?.into_inner())
    }
}

/// Sandboxes first: a container without its sandbox is one that came in between.
async fn list(socket: &str) -> Result<Said, String> {
    let mut client = match Client::connect(socket).await {
        Ok(client) => client,
        Err(error) if cause(&error).is_some_and(is_absence) => return Ok(Said::Nothing),
        Err(error) => return Err(chain(&error)),
    };
    let sandboxes: Result<ListPodSandboxResponse, _> =
        client.call("/runtime.v1.RuntimeService/ListPodSandbox", ListPodSandboxRequest {}).await;
    let sandboxes = match sandboxes {
        Ok(list) => list.items,
        Err(status) if status.code() == Code::Unimplemented => return Ok(Said::OtherLanguage),
        Err(status) => return Err(told(&status)),
    };
    let containers: Result<ListContainersResponse, _> =
        client.call("/runtime.v1.RuntimeService/ListContainers", ListContainersRequest {}).await;
    let containers = containers.map_err(|status| told(&status))?.containers;
    Node::read(sandboxes, containers).map(Said::All)
}

/// The error of the system behind one of the library.
fn cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a io::Error> {
    causes::of(error).find_map(|error| error.downcast_ref())
}

/// An error with all that is behind it, with escapes.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    format!("{:?}", causes::told(error))
}

/// What a server says is shown with escapes.
fn told(status: &Status) -> String {
    let behind = status.source().map(|error| format!(" ({})", chain(error))).unwrap_or_default();
    format!("{}: {:?}{behind}", status.code().description(), status.message())
}
