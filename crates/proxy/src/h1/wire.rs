//! A byte stream with a bounded buffer on each side, polled by whoever relays over it.

use super::body::{BodyLength, BodyReader, BodyWriteError, Step};
use super::write;
use crate::http::Headers;
use crate::net::{Arrives, Io};
use celerity_telemetry::Tick;
use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What an idle connection holds. Most requests and many responses fit.
const READ_BYTES_IDLE: usize = 4 * 1024;

/// What one read may bring while a large body passes: fewer, larger reads and writes.
pub const READ_BYTES_MAX: usize = 64 * 1024;

/// What a connection may keep for writing while it is idle: a head and the beginning of a body that went with it.
const OUT_BYTES_IDLE: usize = 8 * 1024;

/// Large read buffers that a thread keeps for the next body: 2 MiB. More than so many bodies at once pay for the
/// allocation, and for filling it with zeros, which costs more than everything else that is done for a body of 64 KiB.
const SPARE_BUFFERS_MAX: usize = 32;

thread_local! {
    /// They are as long as [`READ_BYTES_MAX`] and hold what was read before; only what is read anew is ever shown.
    static SPARE_BUFFERS: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

fn large_buffer() -> Vec<u8> {
    SPARE_BUFFERS.with_borrow_mut(Vec::pop).unwrap_or_else(|| vec![0; READ_BYTES_MAX])
}

fn give_back(buffer: Vec<u8>) {
    SPARE_BUFFERS.with_borrow_mut(|spare| {
        if buffer.len() == READ_BYTES_MAX && spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    });
}

/// Pieces up to this size are copied behind the head and written with it: one system call instead of two is worth
/// more than the copy. Larger ones go out from where they lie.
const COPY_BYTES_MAX: usize = 8 * 1024;

/// What may wait to be written before whoever writes has to wait.
const OUT_BYTES_MAX: usize = 32 * 1024;

#[derive(Debug)]
pub struct Wire {
    io: Io,
    read: Vec<u8>,
    /// The idle connection's buffer while a large one stands in for it.
    small: Vec<u8>,
    start: usize,
    end: usize,
    /// The last read filled the buffer, so more is waiting.
    filled: bool,
    out: Vec<u8>,
    out_start: usize,
    needs_flush: bool,
    /// Bytes handed to the stream since it was opened.
    pub written_bytes: u64,
    /// Bytes taken from the stream since it was opened.
    pub read_bytes: u64,
}

impl Wire {
    pub fn new(io: Io) -> Self {
        Self {
            io,
            read: Vec::new(),
            small: Vec::new(),
            start: 0,
            end: 0,
            filled: false,
            out: Vec::new(),
            out_start: 0,
            needs_flush: false,
            written_bytes: 0,
            read_bytes: 0,
        }
    }

    /// With bytes that were read before the protocol was known.
    pub fn with_bytes(io: Io, bytes: &[u8]) -> Self {
        let mut wire = Self::new(io);
        wire.read.resize(READ_BYTES_IDLE.max(bytes.len()), 0);
        wire.read[..bytes.len()].copy_from_slice(bytes);
        wire.end = bytes.len();
        wire
    }

    pub fn io(&self) -> &Io {
        &self.io
    }

    /// The stream and what was read of it and not used.
    pub fn into_parts(self) -> (Io, Vec<u8>) {
        let unread = self.read[self.start..self.end].to_vec();
        (self.io, unread)
    }

    /// When what was read last had come. `None` where nobody counts it.
    pub fn arrived(&self) -> Option<Tick> {
        self.io.arrival()
    }

    pub fn unread(&self) -> &[u8] {
        &self.read[self.start..self.end]
    }

    pub fn consume(&mut self, bytes: usize) {
        self.start = (self.start + bytes).min(self.end);
    }

    pub fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    pub fn has_unwritten(&self) -> bool {
        self.out_start < self.out.len() || self.needs_flush
    }

    /// Gives the large buffers back when the connection goes idle.
    pub fn shrink(&mut self) {
        if self.start == self.end && self.read.len() > READ_BYTES_IDLE {
            give_back(std::mem::replace(&mut self.read, std::mem::take(&mut self.small)));
            // A long head may have made it larger.
            self.read.truncate(READ_BYTES_IDLE);
            self.read.shrink_to_fit();
            (self.start, self.end, self.filled) = (0, 0, false);
        }
        if self.out.is_empty() && self.out.capacity() > OUT_BYTES_IDLE {
            self.out = Vec::new();
        }
    }

    /// Reads more behind what is there. `Ready(Ok(0))`: the peer closed its side, or the buffer is at `limit`.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>, limit: usize) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            if self.filled && self.read.len() < READ_BYTES_MAX && limit >= READ_BYTES_MAX {
                self.small = std::mem::replace(&mut self.read, large_buffer());
            }
        }
        if self.end == self.read.len() {
            if self.start > 0 {
                self.read.copy_within(self.start..self.end, 0);
                self.end -= self.start;
                self.start = 0;
            } else {
                let larger = (self.read.len() * 4).clamp(READ_BYTES_IDLE, limit.max(READ_BYTES_IDLE));
                if larger <= self.read.len() {
                    return Poll::Ready(Ok(0));
                }
                self.read.resize(larger, 0);
            }
        }
        let mut buf = ReadBuf::new(&mut self.read[self.end..]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf))?;
        let count = buf.filled().len();
        self.end += count;
        self.read_bytes += count as u64;
        self.filled = self.end == self.read.len();
        Poll::Ready(Ok(count))
    }

    /// Ready when the peer has closed its side, or broken the connection. Reads at most one buffer.
    pub fn poll_peer_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.end - self.start >= READ_BYTES_IDLE {
            return Poll::Pending;
        }
        match self.poll_fill(cx, READ_BYTES_IDLE * 2) {
            Poll::Ready(Ok(0)) => Poll::Ready(Ok(())),
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // A pipelined request: it waits its turn. Ask again, so that the waker is registered.
            Poll::Ready(Ok(_)) => self.poll_peer_end(cx),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Whether nothing has arrived on an idle connection, neither bytes nor an end. What has is lost: the connection is not
    /// to be used again.
    pub fn is_silent(&mut self) -> bool {
        let nothing = match &self.io {
            // No waker is left behind: the request that takes the connection leaves its own.
            Io::Tcp(stream) => {
                matches!(stream.tcp().try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
            }
            _ => self.poll_fill(&mut Context::from_waker(Waker::noop()), READ_BYTES_MAX).is_pending(),
        };
        nothing && self.unread().is_empty()
    }

    /// Writes what waits. Ready when nothing does.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.out_start < self.out.len() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, &self.out[self.out_start..]))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count);
        }
        if self.needs_flush {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    pub async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    fn wrote(&mut self, count: usize) {
        self.written_bytes += count as u64;
        self.out_start += count;
        // TLS may hold a record back until it is flushed; TCP never does.
        self.needs_flush = self.io.is_tls();
        if self.out_start >= self.out.len() {
            self.out.clear();
            self.out_start = 0;
        }
    }

    /// Writes what waits and then `data`, in one call; says how much of `data` went.
    pub fn poll_write_behind(&mut self, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let waiting = self.out.len() - self.out_start;
            let count = if waiting == 0 {
                ready!(Pin::new(&mut self.io).poll_write(cx, data))?
            } else {
                let slices = [io::IoSlice::new(&self.out[self.out_start..]), io::IoSlice::new(data)];
                ready!(Pin::new(&mut self.io).poll_write_vectored(cx, &slices))?
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count.min(waiting));
            if count > waiting {
                self.written_bytes += (count - waiting) as u64;
                self.needs_flush = self.io.is_tls();
                return Poll::Ready(Ok(count - waiting));
            }
        }
    }

    pub fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    /// The next piece of a body that `reader` frames: how many bytes of `unread` are body, or `None` at its end.
    pub fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut BodyReader,
        trailer: &mut Headers,
    ) -> Poll<Result<Option<usize>, super::body::BodyReadError>> {
        loop {
            match reader.step(&self.read[self.start..self.end], trailer)? {
                Step::Data(count) => return Poll::Ready(Ok(Some(count))),
                Step::Done => return Poll::Ready(Ok(None)),
                Step::Skip(count) => self.consume(count),
                Step::More => {
                    if ready!(self.poll_fill(cx, READ_BYTES_MAX))? == 0 {
                        reader.end_of_stream()?;
                    }
                }
            }
        }
    }
}

/// The framing of a body on its way out.
#[derive(Clone, Copy, Debug)]
pub struct BodyWriter {
    length: BodyLength,
    /// Bytes that the body (`Exact`) or the open chunk (`Chunked`) still owes.
    left: u64,
}

impl BodyWriter {
    pub fn new(length: BodyLength) -> Self {
        Self { length, left: if let BodyLength::Exact(length) = length { length } else { 0 } }
    }

    /// Takes some of `data`, copying what is small and writing what is large. Ready with how much was taken.
    pub fn poll_send(
        &mut self,
        cx: &mut Context<'_>,
        wire: &mut Wire,
        data: &[u8],
    ) -> Poll<Result<usize, BodyWriteError>> {
        let chunked = self.length == BodyLength::Chunked;
        if !chunked && self.length != BodyLength::UntilClose && data.len() as u64 > self.left {
            return Poll::Ready(Err(BodyWriteError::TooLong));
        }
        let fits = data.len() <= COPY_BYTES_MAX && wire.out.len() + data.len() <= OUT_BYTES_MAX;
        if fits && !(chunked && self.left > 0) {
            if chunked {
                write::chunk_head(data.len(), &mut wire.out);
                wire.out.extend_from_slice(data);
                wire.out.extend_from_slice(b"\r\n");
            } else {
                wire.out.extend_from_slice(data);
                self.left = self.left.saturating_sub(data.len() as u64);
            }
            return Poll::Ready(Ok(data.len()));
        }
        if chunked && self.left == 0 {
            write::chunk_head(data.len(), &mut wire.out);
            self.left = data.len() as u64;
        }
        let piece = if chunked { &data[..data.len().min(self.left as usize)] } else { data };
        let count = ready!(wire.poll_write_behind(cx, piece))?;
        self.left = self.left.saturating_sub(count as u64);
        if chunked && self.left == 0 {
            wire.out.extend_from_slice(b"\r\n");
        }
        Poll::Ready(Ok(count))
    }

    /// Ends the body. An `Exact` body that owes bytes is an error: the peer would wait for them.
    pub fn finish(&mut self, wire: &mut Wire, trailers: Option<&Headers>) -> Result<(), BodyWriteError> {
        match self.length {
            BodyLength::Chunked => write::chunk_end(trailers, &mut wire.out),
            BodyLength::Exact(_) if self.left > 0 => return Err(BodyWriteError::TooShort),
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::Socket;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::{TcpListener, TcpStream};

    async fn pair() -> (TcpStream, Wire) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let peer = TcpStream::connect(listener.local_addr().expect("an address")).await.expect("a connection");
        (peer, Wire::new(Io::Tcp(Socket::new(listener.accept().await.expect("the other end").0, false))))
    }

    async fn read(wire: &mut Wire, bytes: usize) -> Vec<u8> {
        let mut got = Vec::new();
        while got.len() < bytes {
            let count = std::future::poll_fn(|cx| wire.poll_fill(cx, READ_BYTES_MAX)).await.expect("bytes");
            assert!(count > 0, "the peer is still there");
            got.extend_from_slice(wire.unread());
            wire.consume(count);
        }
        got
    }

    #[test]
    fn a_large_body_borrows_a_buffer_and_gives_it_back() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (mut peer, mut wire) = pair().await;
            for round in 0..3u8 {
                let body: Vec<u8> = (0..200_000u32).map(|at| (at % 251) as u8 ^ round).collect();
                let sent = body.clone();
                let sending = async { peer.write_all(&sent).await.expect("written") };
                let (got, ()) = tokio::join!(read(&mut wire, body.len()), sending);
                assert!(got == body, "round {round}: what was sent, in order");
                assert_eq!(wire.read.len(), READ_BYTES_MAX);
                wire.shrink();
                assert_eq!((wire.read.len(), wire.small.len()), (READ_BYTES_IDLE, 0));
                assert_eq!(SPARE_BUFFERS.with_borrow(Vec::len), 1, "the same one each time");
            }
            // What is small needs none, and sees nothing of what was in it.
            peer.write_all(b"hello").await.expect("written");
            assert_eq!(read(&mut wire, 5).await, b"hello");
            assert_eq!(SPARE_BUFFERS.with_borrow(Vec::len), 1);
        });
    }
}
