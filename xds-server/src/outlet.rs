//! Where a stream's driver leaves a response, and HTTP/2 takes it; and what wakes the driver.
//!
//! There is room for one. HTTP/2 asks for a frame only when there is room on the connection, and a
//! response is built only when the last one was taken: a client that reads slowly is owed a difference,
//! and never holds a backlog. Its requests are read all the while (K-06).

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::Status;

/// The driver's end.
#[derive(Debug, Default)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
    /// The client was listened to.
    listens: bool,
}

/// The end that is the body of an HTTP response.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    slot: Mutex<Slot>,
    driver: AtomicWaker,
    body: AtomicWaker,
    /// The client may have said something since it was last listened to.
    said: AtomicBool,
}

/// Wakes the driver because the client said something.
impl Wake for Shared {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.said.store(true, Ordering::Release);
        self.driver.wake();
    }
}

#[derive(Debug, Default)]
struct Slot {
    frames: VecDeque<Bytes>,
    end: Option<Status>,
    /// The driver waits for room.
    awaited: bool,
    /// Nobody takes anything any more.
    closed: bool,
}

impl Shared {
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outlet {
    /// What HTTP/2 takes from.
    pub(crate) fn body(&self) -> ResponseBody {
        ResponseBody { shared: self.shared.clone() }
    }

    /// Whether a response may be left here; if not, the task that asked [`is_closed`](Outlet::is_closed)
    /// is woken when one may. Who does not ask is not woken for that.
    pub(crate) fn has_room(&self) -> bool {
        let mut slot = self.shared.slot();
        slot.awaited = !slot.frames.is_empty();
        !slot.awaited
    }

    /// Whether the client is gone; if not, the task is woken when it goes.
    pub(crate) fn is_closed(&self, cx: &mut Context<'_>) -> bool {
        self.shared.driver.register(cx.waker());
        self.shared.slot().closed
    }

    /// The waker to listen to the client with, if it may have said something since that was last asked, or
    /// was never listened to. Whatever else wakes the driver then leaves HTTP/2 and its lock alone.
    pub(crate) fn listen(&mut self) -> Option<Waker> {
        let is_first = !std::mem::replace(&mut self.listens, true);
        let said = self.shared.said.swap(false, Ordering::AcqRel);
        (is_first || said).then(|| self.shared.clone().into())
    }

    /// Notes that not all was heard of what the client said.
    pub(crate) fn listen_again(&self) {
        self.shared.said.store(true, Ordering::Release);
    }

    /// Leaves a response, in frames.
    pub(crate) fn put(&self, frames: impl IntoIterator<Item = Bytes>) {
        self.shared.slot().frames.extend(frames);
        self.shared.body.wake();
    }

    /// Ends the body, once what was left is taken. The first end counts.
    pub(crate) fn end(&self, status: Status) {
        self.shared.slot().end.get_or_insert(status);
        self.shared.body.wake();
    }
}

impl Drop for Outlet {
    /// A body whose driver is gone without a word must not wait for it.
    fn drop(&mut self) {
        self.end(Status::internal("the stream's driver is gone"));
    }
}

impl ResponseBody {
    /// The next frame, and whether the driver has room again; nothing after the end.
    fn take(&self) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut slot = self.shared.slot();
        if let Some(frame) = slot.frames.pop_front() {
            if slot.frames.is_empty() && std::mem::take(&mut slot.awaited) {
                self.shared.driver.wake();
            }
            return Poll::Ready(Some(Ok(Frame::data(frame))));
        }
        if slot.closed {
            return Poll::Ready(None);
        }
        let Some(status) = &slot.end else { return Poll::Pending };
        let mut trailers = HeaderMap::new();
        let trailers = status.add_header(&mut trailers).map(|()| Frame::trailers(trailers));
        slot.closed = true;
        Poll::Ready(Some(trailers))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        self.shared.body.register(cx.waker());
        self.take()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.shared.slot().closed = true;
        self.shared.driver.wake();
    }
}
