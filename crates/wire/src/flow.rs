//! Flow-control windows (RFC 9113, section 5.2): pure counters.

/// The largest window (RFC 9113, section 6.9.1).
pub const MAX_WINDOW: i64 = 0x7fff_ffff;

/// What we may still send. A change of SETTINGS can make it negative (RFC 9113, section 6.9.2).
#[derive(Clone, Copy, Debug)]
pub struct SendWindow(i64);

/// The window would exceed 2^31-1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

impl SendWindow {
    #[inline]
    pub fn new(initial: u32) -> Self {
        Self(i64::from(initial))
    }

    #[inline]
    pub fn available(self) -> usize {
        usize::try_from(self.0).unwrap_or(0)
    }

    #[inline]
    pub fn take(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    #[inline]
    pub fn change(&mut self, by: i64) -> Result<(), Overflow> {
        let next = self.0 + by;
        if next > MAX_WINDOW {
            return Err(Overflow);
        }
        self.0 = next;
        Ok(())
    }
}

/// What the peer may still send, and what was consumed since we last told it.
#[derive(Clone, Copy, Debug)]
pub struct RecvWindow {
    available: i64,
    consumed: u32,
    size: u32,
}

impl RecvWindow {
    #[inline]
    pub fn new(size: u32) -> Self {
        Self { available: i64::from(size), consumed: 0, size }
    }

    /// Accounts for a DATA frame; false where the peer had no right to send so much.
    #[must_use]
    #[inline]
    pub fn receive(&mut self, bytes: u32) -> bool {
        self.available -= i64::from(bytes);
        self.available >= 0
    }

    /// Bytes that the reader has taken. Returns the increment to announce, if it is due: at half a window, so that
    /// small bodies cost no WINDOW_UPDATE at all and large ones one for every half window.
    #[inline]
    pub fn consume(&mut self, bytes: u32) -> Option<u32> {
        self.consumed += bytes;
        if self.consumed == 0 || self.consumed < self.size / 2 {
            return None;
        }
        self.available += i64::from(self.consumed);
        Some(std::mem::take(&mut self.consumed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn send_window_may_go_negative_but_not_over() {
        let mut window = SendWindow::new(10);
        window.take(10);
        assert_eq!(window.change(-5), Ok(()));
        assert_eq!(window.available(), 0);
        assert_eq!(window.change(MAX_WINDOW), Ok(()));
        assert_eq!(window.change(6), Err(Overflow));
    }

    #[test]
    fn receive_window_is_announced_by_halves() {
        let mut window = RecvWindow::new(100);
        assert!(window.receive(100));
        assert_eq!(window.consume(49), None);
        assert_eq!(window.consume(1), Some(50));
        assert!(window.receive(50));
        assert!(!window.receive(1));
    }
}
