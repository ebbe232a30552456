//! The body of an answer: bytes, or events for as long as the client reads them.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use telemetry::event::Subscription;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use crate::connection::Activity;

/// How long a stream is silent at most. An empty line keeps it alive, and shows whether the client is still there.
const SILENCE: Duration = Duration::from_secs(10);

/// A body.
pub(crate) enum Outgoing {
    Whole(Full<Bytes>),
    Events(Events),
}

impl Outgoing {
    pub(crate) fn whole(bytes: Vec<u8>) -> Self {
        Self::Whole(Full::new(Bytes::from(bytes)))
    }

    /// Events until the client or the server ends.
    pub(crate) fn events(
        subscription: Subscription,
        activity: Rc<Activity>,
        mut ended: watch::Receiver<()>,
    ) -> Self {
        Self::Events(Events {
            subscription,
            activity,
            ended: Box::pin(async move {
                // That the sender is gone is the end, too.
                let _ = ended.changed().await;
            }),
            silence: Box::pin(sleep(SILENCE)),
            is_last: false,
        })
    }
}

/// Events of one client.
pub(crate) struct Events {
    subscription: Subscription,
    activity: Rc<Activity>,
    ended: Pin<Box<dyn Future<Output = ()>>>,
    silence: Pin<Box<Sleep>>,
    /// The server ends: what has happened until now is told, and no more.
    is_last: bool,
}

impl Events {
    fn poll_lines(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.is_last {
            self.is_last = self.ended.as_mut().poll(context).is_ready();
        }
        if let Poll::Ready(lines) = self.subscription.poll_lines(context) {
            self.be_patient();
            return Poll::Ready(Some(lines.into()));
        }
        if self.is_last {
            return Poll::Ready(None);
        }
        if self.silence.as_mut().poll(context).is_ready() {
            self.be_patient();
            return Poll::Ready(Some(Bytes::from_static(b"\n")));
        }
        Poll::Pending
    }

    fn be_patient(&mut self) {
        self.silence.set(sleep(SILENCE));
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.activity.set(false);
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Pin::new(bytes).poll_frame(context),
            Self::Events(events) => events
                .poll_lines(context)
                .map(|lines| lines.map(|lines| Ok(Frame::data(lines)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_end_stream(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => bytes.size_hint(),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
