//! The response on its way down, while the rest of the request may still be on its way up.

use super::patience::{Expired, Patience};
use super::upload::{Upload, UploadError};
use crate::downstream::stream::{ClientError, DownstreamStream};
use crate::h1::BodyLength;
use crate::http::{HeaderId, ResponseHead};
use crate::upstream::{AttemptError, UpstreamStream};
use celerity_telemetry::{Clock, Direction, Ledger, State};
use std::future::poll_fn;
use std::task::{Context, Poll, ready};
use std::time::Instant;

/// How a wait for a response's head, or its relay, ended badly.
#[derive(Debug)]
pub(super) enum Broken {
    Client(ClientError),
    Upstream(AttemptError),
    Expired(Expired),
}

impl From<UploadError> for Broken {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Client(error) => Self::Client(error),
            UploadError::Upstream(error) => Self::Upstream(error),
        }
    }
}

/// What waits for a response's head, and looks at while it does.
pub(super) struct Wait<'a> {
    pub response: &'a mut ResponseHead,
    pub patience: &'a mut Patience,
    pub ledger: &'a mut Ledger,
    pub clock: &'a Clock,
    /// The client asked for a switch of protocols.
    pub websocket: bool,
    /// A 100 is the upstream's to give; otherwise the client that wanted one has it.
    pub passes_100: bool,
}

/// Sends the request and waits for the final response's head, passing interim ones on. `on_uploaded` is called when
/// the upstream has the whole request.
pub(super) async fn until_head(
    up: &mut UpstreamStream,
    down: &mut DownstreamStream<'_>,
    upload: &mut Upload,
    wait: Wait<'_>,
    on_uploaded: impl Fn(&mut Patience),
) -> Result<BodyLength, Broken> {
    let Wait { response, patience, ledger, clock, websocket, passes_100 } = wait;
    let mut uploading = true;
    // An interim head was put in the client's buffer and may still be there.
    let mut interim = false;
    let mut seen_bytes = upload.bytes;
    let result = poll_fn(|cx| {
        if uploading {
            let mut waits_for_client = false;
            match upload.poll(cx, down, up, &mut waits_for_client) {
                Poll::Ready(Ok(())) => {
                    uploading = false;
                    patience.request_is_in();
                    on_uploaded(patience);
                    ledger.enter(State::AwaitResponse, clock.now());
                }
                // A response may explain why the upstream does not read on: look for one first.
                Poll::Ready(Err(UploadError::Upstream(error))) => {
                    return match up.poll_head(cx, response) {
                        Poll::Ready(Ok(length)) if !response.is_interim() => Poll::Ready(Ok(length)),
                        _ => Poll::Ready(Err(Broken::Upstream(error))),
                    };
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                Poll::Pending => {
                    // What is still on its way up waits for the upstream, no longer for the client.
                    if upload.is_read() {
                        patience.request_is_in();
                    }
                    let state = match (waits_for_client, up.is_http2()) {
                        (true, _) => State::RequestBodyWait,
                        (false, true) => State::StreamWait,
                        (false, false) => State::UpstreamFlush,
                    };
                    ledger.enter_direction(Direction::Request, state, clock.now());
                }
            }
        }
        loop {
            // The upstream is not read further than the client takes: 1xx heads are as many as it likes.
            if interim {
                match down.poll_room(cx) {
                    Poll::Ready(Ok(())) => interim = false,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Client(error))),
                    Poll::Pending => break,
                }
            }
            match up.poll_head(cx, response) {
                Poll::Ready(Ok(_)) if response.status == 100 && !passes_100 => patience.progressed(Instant::now()),
                Poll::Ready(Ok(_)) if response.is_interim() => {
                    patience.progressed(Instant::now());
                    response.headers.remove_id(HeaderId::XCelerityHop);
                    down.send_interim(response);
                    interim = true;
                }
                // Nobody asked for it: the client would take what follows for another protocol.
                Poll::Ready(Ok(_)) if response.status == 101 && !(websocket && up.speaks_websocket()) => {
                    let error = AttemptError::Protocol("it switched protocols and was not asked to".into());
                    return Poll::Ready(Err(Broken::Upstream(error)));
                }
                Poll::Ready(Ok(length)) => return Poll::Ready(Ok(length)),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Upstream(error))),
                Poll::Pending => break,
            }
        }
        if !uploading && down.poll_gone(cx).is_ready() {
            return Poll::Ready(Err(Broken::Client(ClientError::Gone("while it waited for the response".into()))));
        }
        if upload.bytes != seen_bytes {
            seen_bytes = upload.bytes;
            patience.progressed(Instant::now());
        }
        patience.poll(cx).map(|expired| Err(Broken::Expired(expired)))
    })
    .await;
    ledger.end_directions(State::Copy, clock.now());
    result
}

/// What the relay of a body reports and looks at.
pub(super) struct Watch<'a> {
    pub patience: &'a mut Patience,
    pub ledger: &'a mut Ledger,
    pub clock: &'a Clock,
    pub response_bytes: u64,
    /// `grpc-status` of the trailers.
    pub grpc_status: Option<u32>,
}

/// Passes the response's body down, chunk by chunk as they come, and ends the response. `tee` sees every piece, and `None`
/// where the body is whole, before the client is told of its end.
pub(super) async fn body(
    up: &mut UpstreamStream,
    down: &mut DownstreamStream<'_>,
    upload: &mut Upload,
    watch: &mut Watch<'_>,
    mut tee: impl FnMut(Option<&[u8]>),
) -> Result<(), Broken> {
    let mut finishing = Finishing::Body;
    let mut seen_bytes = upload.bytes + watch.response_bytes;
    poll_fn(|cx| {
        if !upload.is_finished() {
            let mut waits_for_client = false;
            // The response decides how this ends; an upload that fails now is only not carried on.
            if let Poll::Ready(Err(UploadError::Client(error))) = upload.poll(cx, down, up, &mut waits_for_client) {
                return Poll::Ready(Err(Broken::Client(error)));
            }
        }
        match poll_download(cx, up, down, &mut finishing, watch, &mut tee) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => {
                // Being woken is no progress: the deadline itself wakes.
                let bytes = upload.bytes + watch.response_bytes;
                if bytes != seen_bytes {
                    seen_bytes = bytes;
                    watch.patience.progressed(Instant::now());
                }
                watch.patience.poll(cx).map(|expired| Err(Broken::Expired(expired)))
            }
        }
    })
    .await
}

enum Finishing {
    Body,
    Trailers(Option<Box<crate::http::Headers>>),
    Flush,
}

fn poll_download(
    cx: &mut Context<'_>,
    up: &mut UpstreamStream,
    down: &mut DownstreamStream<'_>,
    finishing: &mut Finishing,
    watch: &mut Watch<'_>,
    tee: &mut impl FnMut(Option<&[u8]>),
) -> Poll<Result<(), Broken>> {
    loop {
        match finishing {
            Finishing::Body => match up.poll_body(cx) {
                Poll::Ready(Ok(true)) => {
                    let sent = up.with_body(|piece| match down.poll_send(cx, piece) {
                        Poll::Ready(Ok(count)) => {
                            tee(Some(&piece[..count]));
                            watch.response_bytes += count as u64;
                            (count, Poll::Ready(Ok(())))
                        }
                        Poll::Ready(Err(error)) => (0, Poll::Ready(Err(Broken::Client(error)))),
                        Poll::Pending => (0, Poll::Pending),
                    });
                    if sent.is_pending() {
                        watch.ledger.enter(State::DownstreamFlush, watch.clock.now());
                    }
                    ready!(sent)?;
                }
                Poll::Ready(Ok(false)) => {
                    tee(None);
                    let mut trailers = up.take_trailers();
                    if let Some(trailers) = &mut trailers {
                        trailers.remove_id(HeaderId::XCelerityHop);
                        watch.grpc_status = super::fields::grpc_status(trailers);
                    }
                    *finishing = Finishing::Trailers(trailers.map(Box::new));
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Broken::Upstream(error))),
                Poll::Pending => {
                    // What has come goes on at once: a stream of small pieces must not wait for a large one.
                    if let Poll::Ready(Err(error)) = down.poll_flush(cx) {
                        return Poll::Ready(Err(Broken::Client(error)));
                    }
                    watch.ledger.enter(State::ResponseBodyWait, watch.clock.now());
                    return Poll::Pending;
                }
            },
            Finishing::Trailers(trailers) => {
                ready!(down.poll_finish(cx, trailers.as_deref())).map_err(Broken::Client)?;
                watch.ledger.enter(State::DownstreamFlush, watch.clock.now());
                *finishing = Finishing::Flush;
            }
            Finishing::Flush => return down.poll_flush(cx).map_err(Broken::Client),
        }
    }
}
