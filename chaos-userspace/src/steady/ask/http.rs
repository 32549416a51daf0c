//! Asking HTTP servers.

use super::super::value::{Value, rank};
use crate::experiment::document_steady::{HttpMeasure, Method};
use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use ureq::{
    Agent, http,
    tls::{RootCerts, TlsConfig},
};

/// A request.
#[derive(Clone, Debug)]
pub struct Request {
    /// Where.
    pub url: String,
    /// How.
    pub method: Method,
    /// What is sent along.
    pub headers: BTreeMap<String, String>,
    /// What is sent.
    pub body: Option<String>,
    /// How long it may take altogether.
    pub limit: Duration,
}

/// Longest body that is read.
const BODY_MAX: u64 = 1 << 20;

struct Response {
    status: u16,
    body: String,
    took: Duration,
}

impl Request {
    /// Sends it. Every request has a connection of its own, as a new customer has.
    fn send(&self) -> Result<Response, String> {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(self.limit))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            // Whom this host trusts, and not whom a browser does: services have authorities of their own.
            .tls_config(TlsConfig::builder().root_certs(RootCerts::PlatformVerifier).build())
            .build()
            .into();
        let method = match self.method {
            Method::Get => http::Method::GET,
            Method::Head => http::Method::HEAD,
            Method::Post => http::Method::POST,
            Method::Put => http::Method::PUT,
            Method::Delete => http::Method::DELETE,
        };
        let mut request = http::Request::builder().method(method).uri(&self.url);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", self.url);
        let unanswered = |error: ureq::Error| match error {
            ureq::Error::Timeout(_) => format!("{}: no answer within {:?}", self.url, self.limit),
            other => failed(&other),
        };
        let began = Instant::now();
        let response = match &self.body {
            Some(body) => agent.run(request.body(body.as_str()).map_err(|error| failed(&error))?),
            None => agent.run(request.body(()).map_err(|error| failed(&error))?),
        };
        let mut response = response.map_err(unanswered)?;
        let body = response.body_mut().with_config().limit(BODY_MAX).lossy_utf8(true).read_to_string();
        let body = body.map_err(unanswered)?;
        Ok(Response { status: response.status().as_u16(), body, took: began.elapsed() })
    }
}

/// Asks and measures.
pub async fn measure(
    request: Request,
    measure: HttpMeasure,
    samples: u32,
    percentile: u32,
) -> Result<Value, String> {
    in_background(move || match measure {
        HttpMeasure::Status => request.send().map(|response| Value::Number(f64::from(response.status))),
        HttpMeasure::Body => request.send().map(|response| Value::Text(response.body)),
        HttpMeasure::Latency => {
            let mut latencies = vec![];
            for _ in 0..samples {
                let response = request.send()?;
                if response.status >= 400 {
                    return Err(format!("{}: status {}", request.url, response.status));
                }
                latencies.push(response.took.as_secs_f64());
            }
            Ok(Value::Number(quantile(&mut latencies, percentile)))
        }
    })
    .await
}

/// The nearest-rank quantile; `percentile` in thousandths of a percent.
fn quantile(values: &mut [f64], percentile: u32) -> f64 {
    values.sort_by(f64::total_cmp);
    let rank = rank(values.len() as u64, percentile) as usize;
    values.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Asks a Prometheus server for one number.
pub async fn prometheus(url: &str, query: &str, limit: Duration) -> Result<f64, String> {
    let url = format!("{}/api/v1/query?query={}", url.trim_end_matches('/'), encoded(query));
    let request = Request { url, method: Method::Get, headers: BTreeMap::new(), body: None, limit };
    let body = in_background(move || {
        let response = request.send()?;
        match response.status {
            200 => Ok(response.body),
            status => Err(format!("{}: status {status}: {}", request.url, refusal(&response.body))),
        }
    })
    .await?;
    number(&body)
}

/// Why a server refuses a query: its own words, as Prometheus puts them (web/api/v1), or all it said.
fn refusal(body: &str) -> String {
    let json = serde_json::from_str::<serde_json::Value>(body).unwrap_or_default();
    json["error"].as_str().unwrap_or_else(|| body.trim()).to_owned()
}

/// The one number of an answer, whether a scalar or a vector of one element.
fn number(body: &str) -> Result<f64, String> {
    let json: serde_json::Value =
        serde_json::from_str(body).map_err(|error| format!("the answer is no JSON: {error}"))?;
    let result = &json["data"]["result"];
    let value = match json["data"]["resultType"].as_str() {
        Some("scalar") => &result[1],
        Some("vector") => match result.as_array().map(Vec::as_slice) {
            Some([one]) => &one["value"][1],
            Some([]) => {
                return Err(
                    "the query has no result: nothing has such a name and such labels now; where that means zero, say so, as \
                     with sum(...) or vector(0)"
                        .to_owned(),
                );
            }
            Some(all) => {
                return Err(format!(
                    "the query has {} results: aggregate them, as with sum() or max()",
                    all.len()
                ));
            }
            None => &serde_json::Value::Null,
        },
        Some("matrix") => {
            return Err("the query asks for a range of time: make one number of it, as with max_over_time() or rate()".to_owned());
        }
        _ => &serde_json::Value::Null,
    };
    let number = value.as_str().and_then(|text| text.parse::<f64>().ok()).filter(|number| !number.is_nan());
    number.ok_or_else(|| format!("the answer has no number: {body}"))
}

/// A text as a value of a query string (RFC 3986).
fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                char::from(byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

/// Runs what blocks on a thread of its own.
async fn in_background<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(format!("the request died: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let mut values: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(quantile(&mut values, 100_000), 10.0);
        assert_eq!(quantile(&mut values, 90_000), 9.0);
        assert_eq!(quantile(&mut values, 1), 1.0);
        assert_eq!(quantile(&mut [7.0], 50_000), 7.0);
    }

    #[test]
    fn prometheus_answers_are_one_number() {
        let vector = |values: &str| {
            format!(r#"{{"status":"success","data":{{"resultType":"vector","result":[{values}]}}}}"#)
        };
        assert_eq!(number(&vector(r#"{"metric":{},"value":[1.5,"42"]}"#)), Ok(42.0));
        assert_eq!(number(r#"{"data":{"resultType":"scalar","result":[1.5,"7"]}}"#), Ok(7.0));
        let two = r#"{"value":[1,"1"]},{"value":[1,"2"]}"#;
        assert!(number(&vector(two)).unwrap_err().contains("2 results"));
        assert!(number(&vector(r#"{"value":[1,"NaN"]}"#)).unwrap_err().contains("no number"));
        assert!(number("<html>").is_err());
    }

    /// What Prometheus 2.42 said to queries like those in the names, word for word.
    #[test]
    fn what_a_prometheus_says_is_understood() {
        let max_up = r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[1796003541.321,"1"]}]}}"#;
        assert_eq!(number(max_up), Ok(1.0));
        let scalar_max_up =
            r#"{"status":"success","data":{"resultType":"scalar","result":[1796003541.33,"1"]}}"#;
        assert_eq!(number(scalar_max_up), Ok(1.0));
        let nosuch = r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#;
        assert!(number(nosuch).unwrap_err().contains("or vector(0)"));
        let scalar_nosuch =
            r#"{"status":"success","data":{"resultType":"scalar","result":[1796003540.434,"NaN"]}}"#;
        assert!(number(scalar_nosuch).unwrap_err().contains("no number"));
        let up_5s = r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"up","instance":"127.0.0.1:19090","job":"self"},"values":[[1796003536.381,"1"],[1796003537.373,"1"]]}]}}"#;
        assert!(number(up_5s).unwrap_err().contains("max_over_time"));
        let text = r#"{"status":"success","data":{"resultType":"string","result":[1796003541.305,"text"]}}"#;
        assert!(number(text).unwrap_err().contains("no number"));
        let open = r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis"}"#;
        assert_eq!(refusal(open), "invalid parameter \"query\": 1:5: parse error: unclosed left parenthesis");
        assert_eq!(refusal("<html> \n"), "<html>");
    }

    #[test]
    fn queries_go_into_addresses() {
        assert_eq!(encoded("max(a{b=\"c\"})"), "max%28a%7Bb%3D%22c%22%7D%29");
    }
}
