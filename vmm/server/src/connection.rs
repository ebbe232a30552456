//! One connection: its requests, one after the other.

use std::cell::Cell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::{Handler, Method};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Request, Response, StatusCode, Version};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::outgoing::Outgoing;
use crate::stream::Descriptors;

/// Largest body.
pub(crate) const MAX_BODY: usize = 51_200;
/// Longest that a body may take to arrive.
const BODY_TIME: Duration = Duration::from_secs(10);
/// What the server calls itself.
const NAME: HeaderValue = HeaderValue::from_static("Cloud Hypervisor API");

/// What a connection is doing, for whoever looks for one to close.
pub(crate) struct Activity {
    serving: Cell<bool>,
    since: Cell<Instant>,
}

impl Activity {
    pub(crate) fn new() -> Rc<Self> {
        Rc::new(Self {
            serving: Cell::new(false),
            since: Cell::new(Instant::now()),
        })
    }

    /// Since when nothing is being served, if so.
    pub(crate) fn idle_since(&self) -> Option<Instant> {
        (!self.serving.get()).then(|| self.since.get())
    }

    pub(crate) fn set(&self, serving: bool) {
        self.serving.set(serving);
        self.since.set(Instant::now());
    }
}

/// What a connection needs to serve requests.
#[derive(Clone)]
pub(crate) struct Service {
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) activity: Rc<Activity>,
    pub(crate) descriptors: Descriptors,
    /// Changes when the server ends.
    pub(crate) ended: watch::Receiver<()>,
}

impl Service {
    pub(crate) async fn serve(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<Outgoing>, Infallible> {
        self.activity.set(true);
        let version = request.version();
        let answer = self.answer(request).await;
        let body = match answer.body {
            api::Body::Whole(bytes) => {
                self.activity.set(false);
                Outgoing::whole(bytes)
            }
            // It is being served for as long as it is read.
            api::Body::Events(events) => Outgoing::events(events, self.activity, self.ended),
        };
        Ok(finish(answer.status, answer.content, body, version))
    }

    async fn answer(&self, request: Request<Incoming>) -> api::Response {
        let (head, body) = request.into_parts();
        let method = match head.method.as_str() {
            "GET" => Method::Get,
            "PUT" => Method::Put,
            "PATCH" | "DELETE" => return plain(400, Vec::new()),
            other => return parser_error(&format!("the method {other} is not known here")),
        };
        let body = match timeout(BODY_TIME, Limited::new(body, MAX_BODY).collect()).await {
            Ok(Ok(body)) => body.to_bytes().to_vec(),
            Ok(Err(error)) => {
                return parser_error(&format!("{error}; a body has at most {MAX_BODY} bytes"));
            }
            Err(_) => return parser_error("the body did not arrive in time"),
        };
        let descriptors = self.descriptors.take();
        // A query is a part of the path, and no path has one.
        let path = head.uri.path_and_query().map_or("", |path| path.as_str());
        let (sender, answer) = oneshot::channel();
        self.handler.serve(
            api::Request {
                method,
                path: path.to_owned(),
                body,
                descriptors,
            },
            Box::new(move |response| {
                // The client may be gone.
                let _ = sender.send(response);
            }),
        );
        // The handler always answers; if it did not, a client must not wait for ever.
        answer
            .await
            .unwrap_or_else(|_| plain(500, br#"["Error from API","no answer"]"#.to_vec()))
    }
}

fn plain(status: u16, body: Vec<u8>) -> api::Response {
    api::Response::json(status, body)
}

/// What is wrong with the request as HTTP.
fn parser_error(text: &str) -> api::Response {
    // Quotes are the only thing in these texts that JSON minds.
    let text = text.replace(['"', '\\'], "'");
    let text: String = text.chars().filter(|c| !c.is_control()).collect();
    plain(400, format!("{{\"error\":\"{text}\"}}").into_bytes())
}

fn finish(
    status: u16,
    content: api::Content,
    body: Outgoing,
    version: Version,
) -> Response<Outgoing> {
    let mut response = Response::new(body);
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(SERVER, NAME);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content.media_type()));
    if version == Version::HTTP_11 {
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    }
    response
}
