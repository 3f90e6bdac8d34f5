//! The bodies of HTTP responses.
//!
//! That of a stream is what drives it: HTTP/2 asks it for the next frame.
//! HTTP/2 asks only when there is room on the connection, and a response is built only when it is asked
//! for: a client that reads slowly is owed a difference, and never holds a backlog. Its requests are read
//! all the same (K-06): while HTTP/2 does not ask, a task of its own hears what the client says.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker, ready},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::runtime::Handle;
use tonic::Status;

use crate::{connections::Call, status::ClientResource, stream::XdsStream};

/// The end that HTTP/2 asks, empty by default. The stream ends when this is dropped.
#[derive(Default)]
pub(crate) struct ResponseBody(Option<Arc<Driver>>);

/// A stream, and what wakes it.
pub(crate) struct Driver {
    /// There until it ends.
    stream: Mutex<Option<Box<XdsStream>>>,
    /// HTTP/2's task.
    http2: AtomicWaker,
    /// The client may have said something since it was last listened to.
    said: AtomicBool,
    /// HTTP/2 was given a frame, and has not asked for another since: there may be no room for one.
    sated: AtomicBool,
    runtime: Handle,
}

impl ResponseBody {
    /// Must be called on a tokio runtime.
    pub(crate) fn new(stream: XdsStream) -> Self {
        let driver = Arc::new(Driver {
            stream: Mutex::new(Some(Box::new(stream))),
            http2: AtomicWaker::new(),
            said: AtomicBool::new(true),
            sated: AtomicBool::new(false),
            runtime: Handle::current(),
        });
        driver.stream().iter().for_each(|stream| stream.seat().driven_by(&driver));
        Self(Some(driver))
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Driver")
    }
}

impl Driver {
    fn stream(&self) -> MutexGuard<'_, Option<Box<XdsStream>>> {
        self.stream.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The waker to listen to the client with, if it may have said something since that was last asked.
    /// Whatever else wakes the stream then leaves HTTP/2 and its lock alone.
    pub(crate) fn listen(self: &Arc<Self>) -> Option<Waker> {
        self.said.swap(false, Ordering::SeqCst).then(|| self.clone().into())
    }

    /// Has the stream looked at.
    pub(crate) fn look(&self) {
        self.http2.wake();
    }

    /// Notes that not all was heard of what the client said.
    pub(crate) fn listen_again(&self) {
        self.said.store(true, Ordering::SeqCst);
    }

    /// How each resource stands with the client, unless it is gone. Whoever drives the stream goes first.
    pub(crate) async fn report(&self) -> Option<Vec<ClientResource>> {
        loop {
            if let Some(reported) = self.try_report() {
                return reported;
            }
            tokio::task::yield_now().await;
        }
    }

    fn try_report(&self) -> Option<Option<Vec<ClientResource>>> {
        match self.stream.try_lock() {
            Ok(stream) => Some(stream.as_ref().map(|stream| stream.report())),
            Err(TryLockError::Poisoned(_)) => Some(None),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    /// Hears what the client says, though HTTP/2 does not ask for anything.
    fn hear(self: &Arc<Self>) {
        let driver = self.clone();
        self.runtime.spawn(async move {
            while driver.stream().as_mut().is_some_and(|stream| stream.hear(&driver)) {
                tokio::task::yield_now().await;
            }
        });
    }
}

/// Wakes the stream because the client said something.
impl Wake for Driver {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // In this order: either this sees that HTTP/2 is sated, or that is followed by a look at this.
        self.said.store(true, Ordering::SeqCst);
        self.http2.wake();
        if self.sated.load(Ordering::SeqCst) {
            self.hear();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(driver) = &self.0 else { return Poll::Ready(None) };
        driver.http2.register(cx.waker());
        driver.sated.store(false, Ordering::SeqCst);
        let mut slot = driver.stream();
        let Some(stream) = slot.as_mut() else { return Poll::Ready(None) };
        let frame = match ready!(stream.poll_frame(cx, driver)) {
            Ok(data) => {
                driver.sated.store(true, Ordering::SeqCst);
                if driver.said.load(Ordering::SeqCst) {
                    driver.hear();
                }
                Ok(Frame::data(data))
            }
            Err(status) => {
                *slot = None;
                let mut trailers = HeaderMap::new();
                status.add_header(&mut trailers).map(|()| Frame::trailers(trailers))
            }
        };
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }
}

/// What a connection of our own answers with. The call is over when this is dropped.
pub(crate) struct CallBody {
    body: AnyBody,
    _call: Call,
}

/// A stream, or what a tonic service says.
pub(crate) enum AnyBody {
    Stream(ResponseBody),
    Routed(tonic::body::Body),
}

impl CallBody {
    pub(crate) fn new(body: AnyBody, call: Call) -> Self {
        Self { body, _call: call }
    }
}

impl Body for CallBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.body {
            AnyBody::Stream(body) => Pin::new(body).poll_frame(cx),
            AnyBody::Routed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            AnyBody::Stream(body) => body.is_end_stream(),
            AnyBody::Routed(body) => body.is_end_stream(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        // The lock is not held while the stream is dropped.
        let stream = self.0.as_ref().and_then(|driver| driver.stream().take());
        drop(stream);
    }
}
