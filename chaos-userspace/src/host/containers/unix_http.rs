//! HTTP over Unix sockets, as container runtimes speak it.

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt::SendTimeout,
};
use nix::sys::time::{TimeVal, TimeValLike};
use std::{
    fmt,
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddr},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};
use ureq::{
    Agent, Error, Timeout, http,
    unversioned::{
        resolver::{ResolvedSocketAddrs, Resolver},
        transport::{Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport},
    },
};

/// Longest body that is read.
const BODY_MAX: u64 = 4 << 20;

/// What a server said: its status and its body.
pub struct Answer {
    /// As 200 or 404.
    pub status: u16,
    /// At most 4 MiB; what is not UTF-8 is replaced.
    pub body: String,
}

/// Asks the server behind a socket for a path, which begins with a slash. Connection, question and answer take `limit`
/// at most.
pub fn get(socket: &Path, path: &str, limit: Duration) -> Result<Answer, Error> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(limit))
        .max_redirects(0)
        .max_redirects_will_error(false)
        .proxy(None)
        .build();
    let agent = Agent::with_parts(config, ToSocket { path: socket.to_owned(), limit }, Nowhere);
    let mut response = agent.get(format!("http://localhost{path}")).call()?;
    let body = response.body_mut().with_config().limit(BODY_MAX).lossy_utf8(true).read_to_string()?;
    Ok(Answer { status: response.status().as_u16(), body })
}

/// A socket in the file system has no address to look up.
#[derive(Debug)]
struct Nowhere;

impl Resolver for Nowhere {
    fn resolve(
        &self,
        _: &http::Uri,
        _: &ureq::config::Config,
        _: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}

#[derive(Debug)]
struct ToSocket {
    path: PathBuf,
    limit: Duration,
}

impl Connector for ToSocket {
    type Out = Stream;

    fn connect(&self, details: &ConnectionDetails, _: Option<()>) -> Result<Option<Stream>, Error> {
        let stream = connected(&self.path, self.limit).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => Error::Timeout(Timeout::Connect),
            _ => Error::Io(error),
        })?;
        let buffers =
            LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Stream { stream, buffers }))
    }
}

/// A server whose queue is full would hold up a plain connect for ever (unix(7), `SO_SNDTIMEO`).
fn connected(path: &Path, limit: Duration) -> io::Result<UnixStream> {
    let file: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
    setsockopt(&file, SendTimeout, &TimeVal::milliseconds(limit))?;
    connect(file.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(file.into())
}

struct Stream {
    stream: UnixStream,
    buffers: LazyBuffers,
}

impl Transport for Stream {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.stream.set_write_timeout(timeout.not_zero().map(|left| *left))?;
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        self.stream.write_all(output).map_err(|error| timed(error, &timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.stream.set_read_timeout(timeout.not_zero().map(|left| *left))?;
        let amount = self.stream.read(self.buffers.input_append_buf());
        let amount = amount.map_err(|error| timed(error, &timeout))?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    /// Each question has a connection of its own.
    fn is_open(&mut self) -> bool {
        false
    }
}

fn timed(error: io::Error, timeout: &NextTimeout) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Error::Timeout(timeout.reason),
        _ => Error::Io(error),
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("peer", &self.stream.peer_addr().ok()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::BufRead, os::unix::net::UnixListener, thread};

    #[test]
    fn a_server_is_asked_and_answers() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = String::new();
            io::BufReader::new(&stream).read_line(&mut asked).unwrap();
            let chunked =
                "HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab\n\r\n0\r\n\r\n";
            stream.write_all(chunked.as_bytes()).unwrap();
            asked
        });
        let answer = get(&path, "/containers/web/json", Duration::from_secs(30)).unwrap();
        assert_eq!((answer.status, &*answer.body), (404, "ab\n"));
        assert_eq!(server.join().unwrap(), "GET /containers/web/json HTTP/1.1\r\n");
    }

    #[test]
    fn nobody_is_waited_for_longer_than_the_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _silent = UnixListener::bind(&path).unwrap();
        let limit = Duration::from_millis(50);
        assert!(matches!(get(&path, "/", limit), Err(Error::Timeout(_))));
        // Its queue is full at some time.
        let waiting: Vec<_> = std::iter::from_fn(|| connected(&path, limit).ok()).take(100_000).collect();
        assert!(matches!(get(&path, "/", limit), Err(Error::Timeout(_))), "{} wait", waiting.len());
    }
}
