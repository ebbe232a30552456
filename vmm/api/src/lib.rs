//! What the monitor's users can ask, whatever carries it: the table of endpoints, the bodies, the status of each
//! answer.
//!
//! [`ENDPOINTS`] is the whole of the API. [`Api`] reads a [`Request`], hands it to the driver of `machine` and turns
//! the answer, or the chain of errors, into a [`Response`]. It never waits: the answer comes through a function.
#![forbid(unsafe_code)]

mod body;
mod create;
mod endpoint;
mod metrics;
pub mod openapi;
mod response;

use std::os::fd::OwnedFd;

use machine::{Answer, Call, Remote, Reply};

pub use body::Bad;
pub use create::vm_config;
pub use endpoint::{ENDPOINTS, Endpoint, Method, PREFIX, find};
pub use response::{Body, Content, Ping, Response};

use endpoint::Takes;

/// What a user asks.
#[derive(Debug)]
pub struct Request {
    /// How.
    pub method: Method,
    /// Path from the root, without a query: `/api/v1/vm.info`.
    pub path: String,
    /// The body; empty if there is none.
    pub body: Vec<u8>,
    /// Descriptors that came with it. Those that no endpoint takes are closed.
    pub descriptors: Vec<OwnedFd>,
}

/// Where the answer goes. It is called once and must not block.
pub type Respond = Box<dyn FnOnce(Response) + Send>;

/// Answers requests.
pub trait Handler: Send + Sync {
    /// Sees to it that `respond` is called, now or later, on any thread. Does not wait.
    fn serve(&self, request: Request, respond: Respond);
}

/// The API of one monitor.
#[derive(Debug)]
pub struct Api {
    remote: Remote,
    ping: Ping,
}

impl Api {
    /// Asks the driver at the end of `remote`; `ping` is the answer to `vmm.ping`.
    #[must_use]
    pub fn new(remote: Remote, ping: Ping) -> Self {
        Self { remote, ping }
    }

    /// What the request asks of the driver, or the answer if it asks nothing of it.
    fn read(&self, request: &mut Request) -> Result<Ask, Response> {
        let endpoint = find(&request.path).ok_or_else(Response::not_found)?;
        if endpoint.method != request.method {
            return Err(Response::bad_request());
        }
        let body = request.body.as_slice();
        match endpoint.takes {
            Takes::Ping => Err(Response::ok(&self.ping)),
            Takes::Document => Err(Response::json(200, openapi::text().into())),
            Takes::Later => Err(Response::later(endpoint.name)),
            Takes::Anything(call) => Ok((call(), 200)),
            Takes::Nothing(_) | Takes::Events | Takes::Metrics if !body.is_empty() => {
                Err(Response::bad_request())
            }
            Takes::Nothing(call) => Ok((call(), 204)),
            Takes::Events => Err(Response::events()),
            Takes::Metrics => Ok((Call::Measure, 200)),
            _ if body.is_empty() => Err(Response::empty(400)),
            Takes::Machine => called(create::call(body)),
            Takes::Json(read, _) => called(read(body)),
            Takes::Fork => {
                let descriptors = std::mem::take(&mut request.descriptors);
                called(body::receive_fork(&request.body, descriptors))
            }
            Takes::Device(member) => {
                let descriptors = std::mem::take(&mut request.descriptors);
                called(body::device(
                    endpoint.name,
                    member,
                    &request.body,
                    descriptors,
                ))
            }
        }
    }
}

/// What a request asks of the driver, and the status of an answer without a body.
type Ask = (Call, u16);

fn called(read: Result<Call, Bad>) -> Result<Ask, Response> {
    match read {
        Ok(call) => Ok((call, 204)),
        Err(Bad::Later(what)) => Err(Response::later(&what)),
        Err(Bad::Body(text)) => Err(Response::bad_body(&text)),
    }
}

/// `respond`, and a line of the log for each request that did not succeed.
fn logged(method: Method, path: String, respond: Respond) -> Respond {
    Box::new(move |response| {
        if response.is_failure() {
            telemetry::warn!("API: {}", response.describe(method, &path));
        }
        respond(response);
    })
}

impl Handler for Api {
    fn serve(&self, mut request: Request, respond: Respond) {
        let asked = self.read(&mut request);
        let respond = logged(request.method, request.path, respond);
        match asked {
            Ok((call, status)) => {
                let reply = Reply::new(move |answer: machine::Result<Answer>| {
                    respond(match answer {
                        Ok(answer) => Response::done(answer, status),
                        Err(error) => Response::failed(&error),
                    });
                });
                self.remote.call(call, reply);
            }
            Err(response) => respond(response),
        }
    }
}

#[cfg(test)]
mod tests;
