//! One type for every byte stream that carries HTTP: plain TCP, and TLS in either role.

use super::socket::{Arrives, Socket};
use celerity_telemetry::Tick;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// An enum, not a box: a match per call is cheaper than an indirect call, and the plain case inlines.
/// The TLS states are boxed because they are a kilobyte each and plain connections should not carry it.
#[derive(Debug)]
pub enum Io {
    Tcp(Socket),
    TlsServer(Box<tokio_rustls::server::TlsStream<Socket>>),
    TlsClient(Box<tokio_rustls::client::TlsStream<Socket>>),
}

impl Io {
    pub fn tcp(&self) -> &TcpStream {
        self.socket().tcp()
    }

    pub fn socket(&self) -> &Socket {
        match self {
            Self::Tcp(stream) => stream,
            Self::TlsServer(stream) => stream.get_ref().0,
            Self::TlsClient(stream) => stream.get_ref().0,
        }
    }

    pub fn is_tls(&self) -> bool {
        !matches!(self, Self::Tcp(_))
    }
}

impl Arrives for Io {
    /// Of the bytes that were read last: those of a TLS record that is not whole yet, too.
    fn arrival(&self) -> Option<Tick> {
        self.socket().arrival()
    }

    fn sent(&self) -> u64 {
        self.socket().sent()
    }

    fn acked(&self) -> Option<u64> {
        self.socket().acked()
    }
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::TlsServer(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
            Self::TlsClient(stream) => Pin::new(stream.as_mut()).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::TlsServer(stream) => Pin::new(stream.as_mut()).poll_write(cx, data),
            Self::TlsClient(stream) => Pin::new(stream.as_mut()).poll_write(cx, data),
        }
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Self::TlsServer(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
            Self::TlsClient(stream) => Pin::new(stream.as_mut()).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::TlsServer(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
            Self::TlsClient(stream) => Pin::new(stream.as_mut()).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::TlsServer(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
            Self::TlsClient(stream) => Pin::new(stream.as_mut()).poll_shutdown(cx),
        }
    }
}
