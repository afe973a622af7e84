//! A request's body on its way up, and what is kept of it in case it must be sent again.

use super::kept::{Account, Charge};
use crate::downstream::stream::{ClientError, DownstreamStream};
use crate::h1::BodyLength;
use crate::http::Headers;
use crate::upstream::{AttemptError, UpstreamStream};
use celerity_telemetry::grpc::Messages;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

/// Why the upload stopped, by whose fault it was.
#[derive(Debug)]
pub enum UploadError {
    Client(ClientError),
    Upstream(AttemptError),
}

fn trailers(down: &mut DownstreamStream<'_>) -> Option<Headers> {
    let mut trailers = down.take_trailers()?;
    super::fields::clean_trailers(&mut trailers);
    (!trailers.is_empty()).then_some(trailers)
}

#[derive(Debug)]
pub struct Upload {
    length: BodyLength,
    /// The body's first bytes, while they may be needed again.
    kept: Vec<u8>,
    keeps: bool,
    /// It was too large to be kept, or there were too many large ones.
    given_up: bool,
    charge: Charge,
    sent: usize,
    /// The client's body is at its end.
    ended: bool,
    /// The present attempt has all of it.
    finished: bool,
    trailers: Option<Headers>,
    pub bytes: u64,
    /// Of a gRPC request.
    messages: Option<Messages>,
}

impl Upload {
    pub(super) fn new(length: BodyLength, account: &Rc<Account>, is_grpc: bool) -> Self {
        let empty = length == BodyLength::Empty;
        Self {
            length,
            kept: Vec::new(),
            keeps: true,
            given_up: false,
            charge: Charge::new(account),
            sent: 0,
            ended: empty,
            finished: empty,
            trailers: None,
            bytes: 0,
            messages: is_grpc.then(Messages::default),
        }
    }

    /// How the body is framed towards the upstream.
    pub fn length(&self) -> BodyLength {
        self.length
    }

    /// The client's body was read to its end, whatever became of it.
    pub fn is_read(&self) -> bool {
        self.ended
    }

    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Nothing was taken from the client that another attempt would miss.
    pub fn can_repeat(&self) -> bool {
        self.keeps || self.bytes == 0
    }

    /// The next attempt starts with the first byte.
    pub fn rewind(&mut self) {
        self.sent = 0;
        self.finished = self.length == BodyLength::Empty;
    }

    /// Reads the whole body before anything is sent (the buffer filter). `Ok(false)`: it is larger than `limit`.
    pub fn poll_buffer(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut DownstreamStream<'_>,
        limit: usize,
    ) -> Poll<Result<bool, ClientError>> {
        self.keeps = true;
        while !self.ended {
            if ready!(down.poll_body(cx))? {
                down.with_body(|piece| {
                    self.kept.extend_from_slice(piece);
                    if let Some(messages) = &mut self.messages {
                        messages.take(piece);
                    }
                    (piece.len(), ())
                });
                if self.kept.len() > limit {
                    return Poll::Ready(Ok(false));
                }
            } else {
                self.ended = true;
                self.trailers = trailers(down);
            }
        }
        self.bytes = self.kept.len() as u64;
        if self.trailers.is_none() {
            self.length = if self.kept.is_empty() { BodyLength::Empty } else { BodyLength::Exact(self.bytes) };
            self.finished = self.kept.is_empty();
        }
        Poll::Ready(Ok(true))
    }

    /// Sends as much as goes. Ready when the attempt has the whole body. `waits_for_client` tells what a pending
    /// upload waits for.
    pub fn poll(
        &mut self,
        cx: &mut Context<'_>,
        down: &mut DownstreamStream<'_>,
        up: &mut UpstreamStream,
        waits_for_client: &mut bool,
    ) -> Poll<Result<(), UploadError>> {
        *waits_for_client = false;
        while !self.finished {
            if self.sent < self.kept.len() {
                let count = ready!(up.poll_send(cx, &self.kept[self.sent..])).map_err(UploadError::Upstream)?;
                self.sent += count;
                continue;
            }
            if self.ended {
                ready!(up.poll_finish(cx, self.trailers.as_ref())).map_err(UploadError::Upstream)?;
                self.finished = true;
                break;
            }
            match down.poll_body(cx) {
                Poll::Pending => {
                    *waits_for_client = true;
                    // What is there goes out while the client makes up its mind.
                    let _ = up.poll_flush(cx).map_err(UploadError::Upstream)?;
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(UploadError::Client(error))),
                Poll::Ready(Ok(false)) => {
                    self.ended = true;
                    self.trailers = trailers(down);
                }
                Poll::Ready(Ok(true)) => {
                    let sent = down.with_body(|piece| match up.poll_send(cx, piece) {
                        Poll::Ready(Ok(count)) => {
                            self.keep(&piece[..count]);
                            (count, Poll::Ready(Ok(())))
                        }
                        Poll::Ready(Err(error)) => (0, Poll::Ready(Err(UploadError::Upstream(error)))),
                        Poll::Pending => (0, Poll::Pending),
                    });
                    ready!(sent)?;
                }
            }
        }
        up.poll_flush(cx).map_err(UploadError::Upstream)
    }

    fn keep(&mut self, piece: &[u8]) {
        self.bytes += piece.len() as u64;
        if let Some(messages) = &mut self.messages {
            messages.take(piece);
        }
        if self.keeps && self.charge.covers(self.kept.len() + piece.len()) {
            self.kept.extend_from_slice(piece);
            self.sent = self.kept.len();
        } else {
            self.given_up |= self.keeps;
            self.keeps = false;
            self.charge.give_back();
            self.kept = Vec::new();
            self.sent = 0;
        }
    }

    /// Messages that the client has sent so far, where it speaks gRPC.
    pub fn messages(&self) -> u64 {
        self.messages.map_or(0, |messages| messages.count())
    }

    /// The body could not be kept: from then on no attempt could be repeated, and no mirror sent.
    pub fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// The whole body, where all of it was kept.
    pub fn whole(&self) -> Option<&[u8]> {
        (self.ended && self.keeps).then_some(&self.kept)
    }
}
