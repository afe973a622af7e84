//! Towards the clients: accepting, TLS, and the two protocols.

pub mod accept;
pub mod activity;
pub mod conn;
mod h1;
mod h2;
mod opaque;
mod runners;
pub mod stream;

pub use conn::Conn;
pub use runners::Runners;

#[cfg(test)]
mod tests {
    use super::{Conn, accept, h1, stream::DownstreamStream};
    use crate::exchange::{self, Begun};
    use crate::http::RequestHead;
    use std::time::Duration;

    fn bytes_of<A, F>(_: impl FnOnce(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection holds while it lives, and what a request moves when it begins. An await that keeps something
    /// large across it, or a large thing by value, shows here first.
    #[test]
    fn futures_stay_small() {
        type Down = &'static mut DownstreamStream<'static>;
        let exchange = bytes_of(|(conn, down, head, begun): (&'static Conn, Down, &'static mut RequestHead, Begun)| {
            exchange::serve(conn, down, head, begun)
        });
        let connection = bytes_of(|(conn, wire)| h1::serve(conn, wire, Duration::ZERO));
        let accepted = bytes_of(|(worker, name, stream, client)| accept::admit(worker, name, stream, client));
        assert!(exchange <= 5_000, "an exchange: {exchange} bytes");
        assert!(connection <= 6_500, "an HTTP/1.1 connection: {connection} bytes");
        assert!(accepted <= 9_200, "an accepted connection: {accepted} bytes");
    }
}
