//! A runtime that speaks CRI v1 (gRPC over a Unix socket) about containers that are cgroups of a test.

use std::collections::BTreeMap;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use chaos_userspace::host::containers::messages::{
    Container, ContainerMetadata, ContainerState, ListContainersResponse, ListPodSandboxResponse, PodSandbox,
    PodSandboxMetadata, PodSandboxState,
};
use prost::Message as _;
use tokio::sync::oneshot;

/// Where CRI-O listens.
pub const SOCKET: &str = "/var/run/crio/crio.sock";

/// What a runtime has.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// Sandboxes of pods.
    pub sandboxes: Vec<PodSandbox>,
    /// Containers.
    pub containers: Vec<Container>,
}

impl Listing {
    /// Adds a pod that is called `NAMESPACE/NAME`, and returns the id of its sandbox.
    pub fn add_pod(
        &mut self,
        pod: &str,
        uid: &str,
        labels: &[(&str, &str)],
        state: PodSandboxState,
    ) -> String {
        let (namespace, name) = pod.split_once('/').unwrap_or(("default", pod));
        let id = format!("sandbox-{}", self.sandboxes.len());
        let metadata = PodSandboxMetadata {
            name: name.to_owned(),
            uid: uid.to_owned(),
            namespace: namespace.to_owned(),
        };
        let labels: BTreeMap<_, _> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        self.sandboxes.push(PodSandbox {
            id: id.clone(),
            metadata: Some(metadata),
            state: state.into(),
            labels,
        });
        id
    }

    /// Adds a container to a sandbox.
    pub fn add_container(&mut self, sandbox: &str, name: &str, id: &str, state: ContainerState) {
        self.containers.push(Container {
            id: id.to_owned(),
            pod_sandbox_id: sandbox.to_owned(),
            metadata: Some(ContainerMetadata { name: name.to_owned() }),
            state: state.into(),
        });
    }
}

/// How it answers.
#[derive(Clone, Debug)]
pub enum Manner {
    /// As it should.
    Answers(Listing),
    /// With a status of gRPC and a message.
    Refuses(u32, &'static str),
    /// With something that is no message.
    Babbles,
    /// With something that is not HTTP/2.
    Shouts,
    /// Not at all.
    Silent,
}

/// A runtime that listens, until this value goes.
pub struct Runtime {
    manner: Arc<Mutex<Manner>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Result<()>>>,
    socket: PathBuf,
}

impl Runtime {
    /// Listens where CRI-O does.
    pub fn start(manner: Manner) -> Result<Self> {
        let socket = Path::new(SOCKET).to_path_buf();
        ensure!(!socket.exists(), "{SOCKET} is there already");
        let directory = socket.parent().context("no directory")?;
        std::fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        let listener = UnixListener::bind(&socket).context(SOCKET)?;
        listener.set_nonblocking(true)?;
        let manner = Arc::new(Mutex::new(manner));
        let (stop, stopped) = oneshot::channel();
        let own = Arc::clone(&manner);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    served = serve(listener, own) => served,
                    _ = stopped => Ok(()),
                }
            })
        });
        Ok(Self { manner, stop: Some(stop), thread: Some(thread), socket })
    }

    /// Answers in another way from now on.
    pub fn set(&self, manner: Manner) {
        *self.manner.lock().unwrap_or_else(PoisonError::into_inner) = manner;
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(Err(error)) = self.thread.take().and_then(|thread| thread.join().ok()) {
            eprintln!("the test's runtime failed: {error:#}");
        }
        if let Err(error) = std::fs::remove_file(&self.socket) {
            eprintln!("{}: {error}", self.socket.display());
        }
    }
}

async fn serve(listener: UnixListener, manner: Arc<Mutex<Manner>>) -> Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let manner = manner.lock().unwrap_or_else(PoisonError::into_inner).clone();
        tokio::spawn(async move {
            // Who asks may go at any time.
            let _gone = speak(stream, manner).await;
        });
    }
}

async fn speak(mut stream: tokio::net::UnixStream, manner: Manner) -> Result<()> {
    if let Manner::Shouts = manner {
        use tokio::io::AsyncWriteExt as _;
        return Ok(stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?);
    }
    if let Manner::Silent = manner {
        std::future::pending::<()>().await;
    }
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(asked) = connection.accept().await {
        let (request, respond) = asked?;
        let manner = manner.clone();
        tokio::spawn(async move {
            let _gone = answer(request, respond, &manner).await;
        });
    }
    Ok(())
}

/// Reads one question and answers it (the protocol: grpc/doc/PROTOCOL-HTTP2.md).
async fn answer(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
    manner: &Manner,
) -> Result<()> {
    let (head, mut body) = request.into_parts();
    let mut question = Vec::new();
    while let Some(data) = body.data().await {
        question.extend_from_slice(&data?);
    }
    ensure!(head.headers.get("content-type").is_some_and(|kind| kind == "application/grpc"), "{head:?}");
    ensure!(question.len() >= 5 && question[0] == 0, "no message: {question:?}");
    let message = match (manner, head.uri.path()) {
        (Manner::Refuses(status, message), _) => Err((*status, *message)),
        (Manner::Babbles, _) => Ok(vec![0xff; 7]),
        (Manner::Answers(listing), "/runtime.v1.RuntimeService/ListPodSandbox") => {
            Ok(ListPodSandboxResponse { items: listing.sandboxes.clone() }.encode_to_vec())
        }
        (Manner::Answers(listing), "/runtime.v1.RuntimeService/ListContainers") => {
            Ok(ListContainersResponse { containers: listing.containers.clone() }.encode_to_vec())
        }
        _ => Err((12, "unknown method")),
    };
    let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(head, false)?;
    let mut trailers = http::HeaderMap::new();
    match message {
        Ok(message) => {
            let length = u32::try_from(message.len())?.to_be_bytes();
            let framed = [&[0], &length[..], &message].concat();
            stream.send_data(framed.into(), false)?;
            trailers.insert("grpc-status", 0.into());
        }
        Err((status, message)) => {
            trailers.insert("grpc-status", status.into());
            trailers.insert("grpc-message", http::HeaderValue::from_static(message));
        }
    }
    Ok(stream.send_trailers(trailers)?)
}
