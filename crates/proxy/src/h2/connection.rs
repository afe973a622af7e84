//! The driver of a connection: the only place where its socket is read and written.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::core::{Core, KEEPALIVE_PING, Phase, Role};
use super::error::{Code, Error, Kind};
use super::frame;
use super::stream::store;
use crate::net::Arrives;

/// One read's worth: four TLS records, or the frames of some hundred requests.
const READ_BUFFER: usize = 64 * 1024;
/// Reads in one turn, so that a busy connection does not hold up the worker's others.
const READS_PER_TURN: usize = 4;
/// Read buffers that a thread keeps for connections that wake up: an idle connection holds none.
const SPARE_BUFFERS: usize = 16;
/// Written octets that stay at the front of the output before what follows is moved down.
const WRITTEN_KEPT: usize = 128 * 1024;
/// An output larger than this is given back when it is empty.
const OUTPUT_KEPT: usize = 32 * 1024;
/// How long a closed connection is read, so that a reset does not overtake our last frames, and how much.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 1024 * 1024;

/// How long a connection that can't be written is read for what the peer had said before: it has come already, or comes now.
const LAST_WORDS: Duration = Duration::from_secs(1);

thread_local! {
    static BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// One HTTP/2 connection; [`Self::run`] makes it live. Dropping it fails every stream.
pub struct Connection<Io> {
    io: Io,
    core: Rc<RefCell<Core>>,
    /// What was read before the protocol was known.
    early: Vec<u8>,
    input: Vec<u8>,
    filled: usize,
    /// The transport may hold octets that it accepted.
    unflushed: bool,
    started: Instant,
    last_read: Instant,
    keepalive: Option<Pin<Box<Sleep>>>,
    /// For what the peer owes: its SETTINGS at first, the answer to our PING at the end. None while it owes nothing.
    owed: Option<Pin<Box<Sleep>>>,
    /// For the rest of a header block that has begun.
    block_due: Option<(u32, Pin<Box<Sleep>>)>,
    shutting_down: bool,
    peer_closed: bool,
    /// What the transport had sent before the first of the streams that were started since there was none.
    sent_before: u64,
    /// Writing failed so. What the peer said before is still read, up to a limit of time: responses that are whole, and a
    /// GOAWAY that tells which requests it never looked at.
    cut: Option<(Error, Pin<Box<Sleep>>)>,
}

impl<Io> Drop for Connection<Io> {
    fn drop(&mut self) {
        give_back(std::mem::take(&mut self.input));
        if let Ok(mut core) = self.core.try_borrow_mut() {
            core.close(Error::new(Kind::Closed));
            core.driver = None;
        }
    }
}

impl<Io: AsyncRead + AsyncWrite + Arrives + Unpin> Connection<Io> {
    pub(crate) fn new(io: Io, early: Vec<u8>, core: Rc<RefCell<Core>>) -> Self {
        let now = Instant::now();
        let (keepalive, owed_within) = (core.borrow().settings.keepalive, core.borrow().settings.owed_within);
        Self {
            io,
            core,
            early,
            input: Vec::new(),
            filled: 0,
            unflushed: false,
            started: now,
            last_read: now,
            keepalive: keepalive.map(|keepalive| Box::pin(sleep_until(now + keepalive.interval))),
            owed: Some(Box::pin(sleep_until(now + owed_within))),
            block_due: None,
            shutting_down: false,
            peer_closed: false,
            sent_before: 0,
            cut: None,
        }
    }

    /// Drives the connection until it has ended: after a graceful shutdown, the last `Client`, or a failure.
    ///
    /// # Errors
    /// The connection failed, or the peer broke the protocol; its streams have been told.
    pub async fn run(self) -> Result<(), Error> {
        self.run_holding(()).await
    }

    /// As [`Self::run`]. `held` is dropped when our end is closed: what the peer still sends after that counts no more.
    ///
    /// # Errors
    /// See [`Self::run`].
    pub async fn run_holding<Held>(mut self, held: Held) -> Result<(), Error> {
        let result = poll_fn(|cx| self.poll(cx)).await;
        let closing = result.err().unwrap_or(Error::new(Kind::NotOpen));
        self.core.borrow_mut().close(closing);
        if !self.peer_closed && !matches!(closing.kind(), Kind::Io(_) | Kind::KeepaliveTimeout) {
            // What the peer still sends is of no use; not reading it could cost it our GOAWAY. Its failures neither.
            let _ = timeout(LINGER, self.linger(held)).await;
        }
        result
    }

    async fn linger<Held>(&mut self, held: Held) -> std::io::Result<()> {
        self.io.shutdown().await?;
        drop(held);
        let mut left = LINGER_BYTES;
        if self.input.is_empty() {
            self.input = buffer(READ_BUFFER);
        }
        while left > 0 {
            let read = self.io.read(&mut self.input).await?;
            if read == 0 {
                break;
            }
            left = left.saturating_sub(read);
        }
        Ok(())
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        let shared = self.core.clone();
        let mut guard = shared.borrow_mut();
        let core = &mut *guard;
        core.driver_woken = false;
        store(&mut core.driver, cx);

        if core.is_about_to_ask() {
            self.sent_before = self.io.sent();
            // A peer that has closed the connection while it was idle may have said so already: then nobody is asked.
            if let Poll::Ready(Err(error)) = self.poll_read(core, cx) {
                return Poll::Ready(self.failed(core, error));
            }
        }
        let flushed = match if self.cut.is_some() { Poll::Pending } else { self.poll_write(core, cx) } {
            Poll::Ready(Ok(())) => true,
            Poll::Ready(Err(error)) => {
                let error = Error::new(Kind::Io(error.kind()));
                if core.role == Role::Server {
                    // Requests that came before cannot be answered.
                    return Poll::Ready(self.failed(core, error));
                }
                core.shutdown();
                self.cut = Some((error, Box::pin(sleep_until(Instant::now() + LAST_WORDS))));
                false
            }
            Poll::Pending => false,
        };
        if let Some(error) = core.closed {
            // One attempt to write GOAWAY is enough for a peer that broke the protocol or was closed in haste.
            return Poll::Ready(Err(error));
        }
        if core.is_finished() && flushed {
            return Poll::Ready(Ok(()));
        }
        core.grant_turns();
        self.poll_owed(core, cx);
        self.poll_block(core, cx);

        for _ in 0..READS_PER_TURN {
            match self.poll_read(core, cx) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(self.failed(core, error)),
                Poll::Pending => {
                    // What was read last may have begun one.
                    self.poll_block(core, cx);
                    if self.filled == 0 {
                        give_back(std::mem::take(&mut self.input));
                    }
                    if let Some((error, until)) = &mut self.cut {
                        let error = *error;
                        return match until.as_mut().poll(cx) {
                            Poll::Pending if !core.is_finished() => Poll::Pending,
                            _ => Poll::Ready(self.failed(core, error)),
                        };
                    }
                    self.poll_keepalive(core, cx);
                    if flushed && (core.pending_output() > 0 || core.is_finished()) {
                        // Behind the tasks that were just woken, so that their frames leave with these.
                        self.again(core, cx);
                    }
                    return Poll::Pending;
                }
            }
            if core.closed.is_some() {
                break;
            }
        }
        self.again(core, cx);
        Poll::Pending
    }

    fn again(&self, core: &mut Core, cx: &Context<'_>) {
        core.driver_woken = true;
        cx.waker().wake_by_ref();
    }

    fn failed(&mut self, core: &mut Core, error: Error) -> Result<(), Error> {
        // An end that everybody wanted is no failure.
        if core.is_finished() && core.closed.is_none() && core.pending_output() == 0 {
            return Ok(());
        }
        let error = match core.peer_goaway {
            Some(code) => Error::new(Kind::GoAway(code)),
            None => error,
        };
        // A peer that closed an idle connection took nothing of what came after, as far as its kernel has acknowledged none of it.
        // A reset says less: it may overtake the acknowledgement of a request that was read.
        let unseen = self.peer_closed
            && self.cut.is_none()
            && core.role == Role::Client
            && self.io.acked().is_some_and(|acked| acked <= self.sent_before);
        core.close_unseen(error, if unseen { core.busy_from } else { core.written });
        Err(error)
    }

    fn poll_write(&mut self, core: &mut Core, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while let Some(rest) = core.out.get(core.sent..).filter(|rest| !rest.is_empty()) {
            match Pin::new(&mut self.io).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => {
                    core.sent += written;
                    core.written += written as u64;
                    self.unflushed = true;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    if core.sent >= WRITTEN_KEPT {
                        core.out.drain(..core.sent);
                        core.sent = 0;
                    }
                    return Poll::Pending;
                }
            }
        }
        core.out.clear();
        core.sent = 0;
        core.answers_queued = 0;
        if core.out.capacity() > OUTPUT_KEPT && core.ids.is_empty() {
            core.out = Vec::new();
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and takes what came.
    fn poll_read(&mut self, core: &mut Core, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.input.is_empty() {
            self.input = buffer(READ_BUFFER.max(2 * (core.settings.max_frame_size as usize + frame::HEADER_LEN)));
        }
        let mut space = ReadBuf::new(self.input.get_mut(self.filled..).unwrap_or_default());
        let early = std::mem::take(&mut self.early);
        let read = if early.is_empty() {
            ready!(Pin::new(&mut self.io).poll_read(cx, &mut space))
        } else {
            space.put_slice(&early);
            Ok(())
        };
        match read {
            Err(error) => return Poll::Ready(Err(Error::new(Kind::Io(error.kind())))),
            Ok(()) if space.filled().is_empty() => {
                self.peer_closed = true;
                return Poll::Ready(Err(Error::new(Kind::Closed)));
            }
            Ok(()) => {
                core.received += space.filled().len() as u64;
                self.filled += space.filled().len();
            }
        }
        self.last_read = Instant::now();
        core.arrived = self.io.arrival();
        let now_ms = self.last_read.duration_since(self.started).as_millis() as u64;
        let taken = core.receive(self.input.get(..self.filled).unwrap_or_default(), now_ms);
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Poll::Ready(Ok(()))
    }

    /// Ends the wait for what the peer owes and does not give.
    fn poll_owed(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        let waits = !core.settings_seen || core.phase == Phase::Announced;
        if !waits {
            self.owed = None;
            return;
        }
        if core.settings_seen && !self.shutting_down {
            self.shutting_down = true;
            self.owed = None;
        }
        let limit = Instant::now() + core.settings.owed_within;
        let owed = self.owed.get_or_insert_with(|| Box::pin(sleep_until(limit)));
        if owed.as_mut().poll(cx).is_pending() {
            return;
        }
        if core.settings_seen {
            core.shutdown_answered();
        } else {
            let why = "no SETTINGS came in time";
            core.close_with(Code::SETTINGS_TIMEOUT, Error::new(Kind::Violation(Code::SETTINGS_TIMEOUT, why)));
        }
        self.owed = None;
    }

    /// Ends the wait for a header block that does not end: nothing else may be sent meanwhile, and no stream is there yet whose
    /// time would run.
    fn poll_block(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        let Some((stream, _)) = core.block_of else {
            self.block_due = None;
            return;
        };
        if self.block_due.as_ref().is_none_or(|(of, _)| *of != stream) {
            self.block_due = Some((stream, Box::pin(sleep_until(Instant::now() + core.settings.owed_within))));
        }
        let Some((_, due)) = &mut self.block_due else { return };
        if due.as_mut().poll(cx).is_ready() {
            let why = "a header block did not end in time";
            core.close_with(Code::ENHANCE_YOUR_CALM, Error::new(Kind::Violation(Code::ENHANCE_YOUR_CALM, why)));
        }
    }

    /// A PING on a connection that has been quiet for the interval; the end if its answer does not come.
    fn poll_keepalive(&mut self, core: &mut Core, cx: &mut Context<'_>) {
        let (Some(timer), Some(keepalive)) = (&mut self.keepalive, core.settings.keepalive) else { return };
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let quiet = now.duration_since(self.last_read);
            let next = if quiet < keepalive.interval {
                core.ping_sent = false;
                self.last_read + keepalive.interval
            } else if core.ping_sent {
                core.close(Error::new(Kind::KeepaliveTimeout));
                return;
            } else {
                core.ping_sent = true;
                frame::put_ping(&mut core.out, KEEPALIVE_PING, false);
                now + keepalive.timeout
            };
            timer.as_mut().reset(next);
        }
    }
}

fn buffer(size: usize) -> Vec<u8> {
    let spare = BUFFERS.with_borrow_mut(Vec::pop).filter(|spare| spare.len() >= size);
    spare.unwrap_or_else(|| vec![0; size])
}

fn give_back(buffer: Vec<u8>) {
    if buffer.len() == READ_BUFFER {
        // The thread may be ending: the buffer is then freed.
        let _ = BUFFERS.try_with(|spares| {
            let mut spares = spares.borrow_mut();
            if spares.len() < SPARE_BUFFERS {
                spares.push(buffer);
            }
        });
    }
}
