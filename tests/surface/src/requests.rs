//! Bytes as what a client of the API sends: a stream of HTTP, or the body of one request.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use api::{
    Api, Body, ENDPOINTS, Endpoint, Handler, Method, PREFIX, Ping, Request, Respond, Response,
};
use machine::Remote;
use serde_json::Value;

/// Choices of the first byte that mean a stream of HTTP; the others choose the endpoint that gets the rest as its body.
const STREAMS: u8 = 64;

/// Sends the bytes to the API of a monitor whose driver has ended, so that what reads is attacked and nothing is done.
///
/// What is expected is that nothing panics and everything ends; that each answer has a status that the API's
/// description has for the endpoint and a body that is JSON; and that a machine that was read can be written and read
/// again.
pub fn on_api(data: &[u8]) {
    let Some((choice, rest)) = data.split_first() else {
        return;
    };
    match choice.checked_sub(STREAMS) {
        None => on_stream(rest),
        Some(index) => {
            on_endpoint(&ENDPOINTS[usize::from(index) % ENDPOINTS.len()], rest);
        }
    }
}

fn api() -> &'static Arc<dyn Handler> {
    static API: OnceLock<Arc<dyn Handler>> = OnceLock::new();
    API.get_or_init(|| {
        let ping = Ping {
            build_version: "v1".into(),
            version: "1".into(),
            pid: 1,
            features: Vec::new(),
        };
        Arc::new(Finite(Api::new(Remote::to_nobody(), ping)))
    })
}

/// The API, whose answers all end: the stream of events is one that has ended.
struct Finite(Api);

impl Handler for Finite {
    fn serve(&self, request: Request, respond: Respond) {
        self.0.serve(
            request,
            Box::new(|response| {
                respond(match response.body {
                    Body::Whole(_) => response,
                    Body::Events(_) => Response::json(response.status, b"[]".to_vec()),
                });
            }),
        );
    }
}

fn on_stream(bytes: &[u8]) {
    let answers = server::exchange(api(), bytes).expect("a socket");
    let mut rest = answers.as_slice();
    while !rest.is_empty() {
        rest = one_answer(rest);
    }
}

/// Reads an answer as a client would, and returns what follows it.
fn one_answer(bytes: &[u8]) -> &[u8] {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.expect("an answer has a whole head") + 4;
    let head = std::str::from_utf8(&bytes[..end]).expect("a head is text");
    let mut lines = head.lines();
    let mut first = lines.next().unwrap_or_default().split(' ');
    let version = first.next();
    assert!(matches!(version, Some("HTTP/1.0" | "HTTP/1.1")), "{head}");
    let status: u16 = first
        .next()
        .and_then(|word| word.parse().ok())
        .expect("a status");
    assert!((100..600).contains(&status), "{head}");
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, length)| length.trim().parse().expect("a length"));
    &bytes[end + length..]
}

fn on_endpoint(endpoint: &Endpoint, body: &[u8]) {
    let (sender, answer) = std::sync::mpsc::channel();
    api().serve(
        Request {
            method: endpoint.method,
            path: format!("{PREFIX}{}", endpoint.name),
            body: body.to_vec(),
            descriptors: Vec::new(),
        },
        Box::new(move |response| sender.send(response).expect("somebody waits")),
    );
    let response = answer
        .try_recv()
        .expect("a driver that has ended answers at once");
    let name = endpoint.name;
    assert!(
        statuses(endpoint).contains(&response.status),
        "{name}: the API's description does not have {response:?}"
    );
    if let Body::Whole(bytes) = &response.body
        && !bytes.is_empty()
    {
        let json: Value = serde_json::from_slice(bytes).expect("a body is JSON");
        assert!(response.status < 400 || json.is_array(), "{name}: {json}");
    }
    if name == "vm.create" {
        on_machine(body);
    }
}

/// The statuses that the description has for an endpoint.
fn statuses(endpoint: &Endpoint) -> BTreeSet<u16> {
    static PATHS: OnceLock<Value> = OnceLock::new();
    let paths = PATHS.get_or_init(|| api::openapi::document()["paths"].take());
    let method = match endpoint.method {
        Method::Get => "get",
        Method::Put => "put",
    };
    paths[format!("/{}", endpoint.name)][method]["responses"]
        .as_object()
        .into_iter()
        .flat_map(|all| all.keys())
        .filter_map(|status| status.parse().ok())
        .collect()
}

/// What a machine's configuration goes through before it is built.
fn on_machine(body: &[u8]) {
    let Ok(mut config) = api::vm_config(body) else {
        return;
    };
    machine::settle(&mut config);
    let _ = machine::check(&config);
    let text = serde_json::to_vec(&config).expect("a configuration has a JSON form");
    let again = api::vm_config(&text).expect("what was written can be read");
    assert_eq!(again, config);
}
