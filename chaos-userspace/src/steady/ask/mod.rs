//! Asking: one answer of one probe, within its timeout.

mod calls;
mod cgroup;
mod command;
mod http;

use super::{Ask, Probe, value::Value};
use crate::experiment::document_steady::DnsMeasure;
pub use calls::Watched;
pub use cgroup::Target;
use nix::sys::signal::SigSet;
use serde::Serialize;
use std::time::{Duration, Instant};
use tokio::{net, time::timeout};

/// What asking needs to know of the run.
#[derive(Debug)]
pub struct Scene {
    /// Whose cgroups and namespaces are read.
    pub target: Target,
    /// Its calls, where any probe asks about them.
    pub calls: Option<Watched>,
    /// Signals that are blocked here, but not in commands.
    pub signal_mask: SigSet,
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Answer {
    /// Seconds from the start of the experiment to the end of the answer.
    pub at_s: f64,
    /// Seconds it took, retries included.
    pub took_s: f64,
    /// What was measured, if there was an answer.
    pub value: Option<Value>,
    /// The same for people.
    pub shown: String,
    /// Whether it is tolerated.
    pub holds: bool,
    /// Why not.
    pub problem: Option<String>,
    /// How often it was asked.
    pub attempts: u32,
}

/// Pause before an answer that failed is asked for again.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// Asks a probe, again if it fails and has retries. `start` is the start of the experiment.
pub async fn ask(probe: &Probe, scene: &Scene, start: Instant) -> Answer {
    let began = Instant::now();
    let mut attempts = 0;
    loop {
        attempts += 1;
        let measured = match timeout(probe.timeout, measure(probe, scene)).await {
            Ok(measured) => measured,
            Err(_) => Err(format!("no answer within {:?}", probe.timeout)),
        };
        let (value, result) = match measured {
            Ok(value) => {
                let result = probe.tolerance.check(&value);
                (Some(value), result)
            }
            Err(problem) => (None, Err(problem)),
        };
        if result.is_ok() || attempts > probe.retries {
            return Answer {
                at_s: start.elapsed().as_secs_f64(),
                took_s: began.elapsed().as_secs_f64(),
                shown: value
                    .as_ref()
                    .map_or_else(|| "no answer".to_owned(), |value| value.show(probe.ask.unit())),
                value,
                holds: result.is_ok(),
                problem: result.err(),
                attempts,
            };
        }
        tokio::time::sleep(RETRY_PAUSE.min(probe.interval)).await;
    }
}

async fn measure(probe: &Probe, scene: &Scene) -> Result<Value, String> {
    let limit = probe.timeout;
    let began = Instant::now();
    let elapsed = move || Value::Number(began.elapsed().as_secs_f64());
    match &probe.ask {
        Ask::Http { url, method, headers, body, measure, samples, percentile } => {
            let request = http::Request {
                url: url.clone(),
                method: *method,
                headers: headers.clone(),
                body: body.clone(),
                limit,
            };
            http::measure(request, *measure, *samples, *percentile).await
        }
        Ask::Tcp { address } => {
            let connected = net::TcpStream::connect(address).await;
            connected.map(|_| elapsed()).map_err(|error| format!("connecting to {address}: {error}"))
        }
        Ask::Dns { name, measure } => {
            let found = net::lookup_host((name.as_str(), 0)).await;
            let found = found.map_err(|error| format!("looking up {name}: {error}"))?;
            let mut addresses: Vec<_> = found.map(|address| address.ip().to_string()).collect();
            addresses.sort();
            addresses.dedup();
            Ok(match measure {
                DnsMeasure::Latency => elapsed(),
                DnsMeasure::Addresses => Value::Text(addresses.join(" ")),
            })
        }
        Ask::Command { argv, measure } => command::measure(argv, *measure, scene.signal_mask).await,
        Ask::Prometheus { url, query } => http::prometheus(url, query, limit).await.map(Value::Number),
        Ask::Calls { of, measure, percentile } => {
            let Some(calls) = &scene.calls else {
                return Err("the target's calls are not watched".to_owned());
            };
            calls.measure(probe, of, *measure, *percentile, &scene.target).await.map(Value::Number)
        }
        Ask::Cgroup(measure) => scene.target.read(*measure).map(Value::Number),
        Ask::Network(measure) => scene.target.network(*measure).map(Value::Number),
    }
}
