//! Bounds on what a peer may make this side do for nothing. Each costs the peer a frame and us more than that; above
//! the bound the connection is closed with ENHANCE_YOUR_CALM.

/// CONTINUATION frames of one header block. The largest section in frames of 16 KiB needs five; a flood of empty ones
/// would hold a block open for ever.
pub(crate) const MAX_CONTINUATIONS: u32 = 16;

/// The largest compressed header block, as a multiple of the largest section: compression never makes it longer but by
/// the lengths of its strings.
pub(crate) const MAX_BLOCK_SHARE: usize = 2;

/// Octets of answers (PING, SETTINGS, RST_STREAM) that may wait while the peer reads nothing.
pub(crate) const MAX_ANSWERS_QUEUED: usize = 64 * 1024;

/// Streams that are reset within [`YOUNG_MS`] of their start and before their response: rapid reset
/// (CVE-2023-44487), and also the streams that the peer makes us reset by breaking a rule. A client of ours that gives
/// up a burst of requests at once stays far below.
pub(crate) const YOUNG_RESETS: Rate = Rate { burst: 500, per_second: 100 };
pub(crate) const YOUNG_MS: u64 = 1000;

/// Frames that carry no work: PING, SETTINGS, PRIORITY, empty DATA or HEADERS, unknown types. gRPC probes the
/// bandwidth with a PING in each round trip, so the rate is generous; it bounds time, memory is bounded above.
pub(crate) const IDLE_FRAMES: Rate = Rate { burst: 4000, per_second: 2000 };

/// DATA frames of fewer octets than this carry no work either: gRPC's smallest message has five. Empty ones are counted
/// with the connection's idle frames.
pub(crate) const TINY_DATA: usize = 5;

/// Tiny DATA frames of one stream. A client may send its body octet by octet, which a proxy before us passes on as it
/// comes; above this the stream is reset, not the connection, which others share. The rate is some ten thousand times what
/// a person types.
pub(crate) const TINY_FRAMES: Rate = Rate { burst: 20_000, per_second: 2000 };

/// WINDOW_UPDATE frames that a peer may send for each DATA frame that it was sent, as Envoy's
/// `max_inbound_window_update_frames_per_data_frame_sent`, and for each stream. Half of a pair is the stream's, the other half
/// the connection's.
pub(crate) const WINDOW_UPDATES_PER_DATA_FRAME: u64 = 20;
pub(crate) const WINDOW_UPDATES_PER_STREAM: u64 = 2;

/// Before the first of either: a client may widen its windows step by step.
pub(crate) const WINDOW_UPDATES_AT_START: u64 = 100;

/// Interim responses that wait for their reader.
pub(crate) const MAX_INTERIM_WAITING: usize = 8;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) per_second: u32,
}

/// A bucket that leaks `per_second` and overflows above `burst`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    level: u32,
    leaked_ms: u64,
}

impl Bucket {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, level: 0, leaked_ms: 0 }
    }

    /// One more event; false where there are too many.
    #[must_use]
    pub(crate) fn add(&mut self, now_ms: u64) -> bool {
        let leaked = now_ms.saturating_sub(self.leaked_ms).saturating_mul(u64::from(self.rate.per_second)) / 1000;
        if leaked > 0 {
            self.level = self.level.saturating_sub(u32::try_from(leaked).unwrap_or(u32::MAX));
            self.leaked_ms = now_ms;
        }
        self.level += 1;
        self.level <= self.rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_overflows_and_recovers() {
        let mut bucket = Bucket::new(Rate { burst: 3, per_second: 10 });
        assert!((0..3).all(|_| bucket.add(0)));
        assert!(!bucket.add(50));
        assert!(bucket.add(300));
        assert!((0..100).all(|nth| bucket.add(300 + nth * 100)));
    }
}
