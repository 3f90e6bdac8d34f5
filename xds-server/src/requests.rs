//! The requests of one stream, read from the body of its HTTP request.
//!
//! A request that came whole, as an ACK does, is decoded where HTTP/2 left it; only of one that came in
//! pieces is there a copy, until it is decoded. So a stream keeps no buffer.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use deltaplane_core::{DeltaRequest, Request, SotwRequest, TypeUrl, Variant};
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use prost::Message;
use tonic::{Status, body::Body};

/// A gRPC message on the wire begins with a byte that says whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// What a client says.
pub(crate) struct Requests {
    body: RequestBody,
    variant: Variant,
    /// The type that a request means without saying so, on a service of one type (B-03).
    type_url: Option<TypeUrl>,
    /// How many bytes a request may have.
    limit: usize,
    /// What came last and is not decoded.
    rest: Bytes,
    /// What of a request came in earlier pieces; the rest then comes behind it.
    begun: BytesMut,
}

/// The body of a request, as it came from a connection of our own or through a tonic router.
pub(crate) enum RequestBody {
    Own(Incoming),
    Routed(Body),
}

impl From<Incoming> for RequestBody {
    fn from(body: Incoming) -> Self {
        Self::Own(body)
    }
}

impl From<Body> for RequestBody {
    fn from(body: Body) -> Self {
        Self::Routed(body)
    }
}

impl RequestBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self {
            Self::Own(body) => {
                let frame = Pin::new(body).poll_frame(cx);
                frame.map_err(|error| Status::from_error(error.into()))
            }
            Self::Routed(body) => Pin::new(body).poll_frame(cx),
        }
    }
}

impl Requests {
    pub(crate) fn new(
        body: RequestBody,
        variant: Variant,
        type_url: Option<TypeUrl>,
        limit: usize,
    ) -> Self {
        Self { body, variant, type_url, limit, rest: Bytes::new(), begun: BytesMut::new() }
    }

    /// Whether nothing came that is not decoded.
    pub(crate) fn is_silent(&self) -> bool {
        self.rest.is_empty() && self.begun.is_empty()
    }

    /// The next request, its node still encoded; nothing once the client has closed its half of the stream.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Request, Status>>> {
        loop {
            match self.next_message() {
                Ok(Some(message)) => return Poll::Ready(Some(self.decode(message))),
                Ok(None) => {}
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(self.body.poll_frame(cx)) {
                Some(Ok(frame)) => self.take(frame.into_data().unwrap_or_default()),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None if self.begun.is_empty() => return Poll::Ready(None),
                None => {
                    self.begun.clear();
                    let message = "the client closed the stream in the middle of a request";
                    return Poll::Ready(Some(Err(Status::invalid_argument(message))));
                }
            }
        }
    }

    fn take(&mut self, data: Bytes) {
        if self.begun.is_empty() {
            self.rest = data;
        } else {
            self.begun.extend_from_slice(&data);
        }
    }

    /// The next message, if all of it came.
    fn next_message(&mut self) -> Result<Option<Bytes>, Status> {
        let came: &[u8] = if self.begun.is_empty() { &self.rest } else { &self.begun };
        let is_whole = self.length(came)?.filter(|length| came.len() - PREFIX >= *length);
        Ok(match is_whole {
            None => {
                // An empty rest would keep alive what it was a part of.
                self.begun.extend_from_slice(&std::mem::take(&mut self.rest));
                None
            }
            Some(length) if self.begun.is_empty() => {
                self.rest.advance(PREFIX);
                let message = self.rest.split_to(length);
                if self.rest.is_empty() {
                    self.rest = Bytes::new();
                }
                Some(message)
            }
            Some(length) => {
                self.begun.advance(PREFIX);
                let message = self.begun.split_to(length).freeze();
                if self.begun.is_empty() {
                    self.begun = BytesMut::new();
                }
                Some(message)
            }
        })
    }

    /// How long the message is that begins here, once that is known.
    fn length(&self, mut came: &[u8]) -> Result<Option<usize>, Status> {
        if came.len() < PREFIX {
            return Ok(None);
        }
        if came.get_u8() != 0 {
            return Err(Status::unimplemented(UNCOMPRESSED));
        }
        let length = came.get_u32() as usize;
        if length > self.limit {
            return Err(Status::resource_exhausted(format!(
                "a request may have {} bytes, and this one has {length}",
                self.limit
            )));
        }
        Ok(Some(length))
    }

    fn decode(&self, message: Bytes) -> Result<Request, Status> {
        let malformed = |error| Status::invalid_argument(format!("malformed request: {error}"));
        Ok(match self.variant {
            Variant::Delta => {
                let mut request = DeltaRequest::decode(message).map_err(malformed)?;
                self.settle_type(&mut request.type_url)?;
                request.into()
            }
            _ => {
                let mut request = SotwRequest::decode(message).map_err(malformed)?;
                self.settle_type(&mut request.type_url)?;
                request.into()
            }
        })
    }

    fn settle_type(&self, request: &mut String) -> Result<(), Status> {
        match &self.type_url {
            Some(type_url) if request.is_empty() => request.push_str(type_url),
            Some(type_url) if *request != **type_url => {
                return Err(Status::invalid_argument(format!(
                    "the request is for {request}, but this service delivers {type_url} only: \
                     use the aggregated service, or that type's own"
                )));
            }
            _ => {}
        }
        Ok(())
    }
}

/// What is said to who compresses its requests.
pub(crate) const UNCOMPRESSED: &str =
    "compressed requests are not supported: send them as they are";

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A body of these pieces.
    struct Pieces(Vec<Bytes>);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
        }
    }

    fn framed(request: &DeltaRequest) -> Vec<u8> {
        let message = request.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], &length[..], &message].concat()
    }

    fn read(bytes: &[u8], size: usize, limit: usize) -> Vec<Result<Request, Status>> {
        let pieces = bytes.chunks(size).rev().map(Bytes::copy_from_slice).collect();
        let body = Body::new(Pieces(pieces));
        let mut requests = Requests::new(body.into(), Variant::Delta, None, limit);
        let cx = &mut Context::from_waker(Waker::noop());
        let mut read = Vec::new();
        while let Poll::Ready(Some(request)) = requests.poll_next(cx) {
            let is_error = request.is_err();
            read.push(request);
            if is_error {
                break;
            }
        }
        assert_eq!(requests.begun.capacity() + requests.rest.len(), 0, "nothing is kept");
        read
    }

    fn requests() -> [DeltaRequest; 3] {
        let ack = DeltaRequest { response_nonce: "7".into(), ..DeltaRequest::default() };
        let names = (0..40).map(|n| format!("name-{n}")).collect();
        let ask = DeltaRequest { resource_names_subscribe: names, ..ack.clone() };
        [ack, ask, DeltaRequest::default()]
    }

    #[test]
    fn requests_come_in_pieces_of_any_size() {
        let bytes = requests().iter().flat_map(framed).collect::<Vec<_>>();
        for size in 1..=bytes.len() {
            let read: Vec<_> =
                read(&bytes, size, 1 << 20).into_iter().map(Result::unwrap).collect();
            assert_eq!(read, requests().map(Request::from), "in pieces of {size}");
        }
    }
}
