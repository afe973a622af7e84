//! What the inbound sidecar tells the outbound one about its part of a request.
//!
//! A response header between mesh peers only, `x-celerity-hop`: the version, then seven durations in nanoseconds as
//! lower-case hexadecimal, in the order of `Category::ALL`, all joined by dots: `1.0.2a3f.0.1c2.0.f4240.0`.
//! Strip it from requests and responses of strangers: it is a claim, and it is believed.

use crate::clock::{Clock, Tick};
use crate::ledger::{Breakdown, CATEGORIES, Category, Ledger, State};

pub const HOP_HEADER: &str = "x-celerity-hop";

/// The longest header of version 1: the version and seven parts of at most 13 digits with a dot before each.
pub const HOP_BYTES_MAX: usize = 1 + CATEGORIES * (1 + DIGITS_MAX);

/// 13 hexadecimal digits are 52 bits of nanoseconds, 52 days: seven of them cannot overflow a sum.
const DIGITS_MAX: usize = 13;
const PART_NS_MAX: u64 = (1 << (4 * DIGITS_MAX)) - 1;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopReport {
    pub category_ns: [u64; CATEGORIES],
}

impl HopReport {
    /// The report of a request whose response head is about to be written.
    pub fn of(ledger: &mut Ledger, now: Tick, clock: &Clock) -> Self {
        Self::from(&ledger.so_far(now, clock))
    }

    pub fn total_ns(&self) -> u64 {
        self.category_ns.iter().fold(0, |sum, &part| sum.saturating_add(part))
    }

    /// Appends the header's value: at most `HOP_BYTES_MAX` bytes.
    pub fn write(&self, out: &mut Vec<u8>) {
        out.push(b'1');
        for part in self.category_ns {
            out.push(b'.');
            let part = part.min(PART_NS_MAX);
            let digits = (64 - (part | 1).leading_zeros()).div_ceil(4);
            for digit in (0..digits).rev() {
                let nibble = (part >> (4 * digit)) as u8 & 0xf;
                out.push(if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 });
            }
        }
    }

    /// Reads a header's value. `None` for another version, a missing or extra part, or anything that is not a digit:
    /// the wait is then split by the round trip instead.
    pub fn parse(value: &[u8]) -> Option<Self> {
        if value.len() > HOP_BYTES_MAX {
            return None;
        }
        let mut parts = value.split(|&byte| byte == b'.');
        if parts.next()? != b"1" {
            return None;
        }
        let mut report = Self::default();
        for slot in &mut report.category_ns {
            let digits = parts.next()?;
            if digits.is_empty() || digits.len() > DIGITS_MAX {
                return None;
            }
            for &byte in digits {
                let nibble = match byte {
                    b'0'..=b'9' => byte - b'0',
                    b'a'..=b'f' => byte - b'a' + 10,
                    _ => return None,
                };
                *slot = *slot << 4 | u64::from(nibble);
            }
        }
        parts.next().is_none().then_some(report)
    }
}

impl From<&Breakdown> for HopReport {
    /// Without the handshake with the client: the peer paid for it in its own handshake, before the wait that this
    /// report splits. Told twice, it would be taken out of the service's time.
    fn from(breakdown: &Breakdown) -> Self {
        let mut category_ns = breakdown.categories();
        let protocol = &mut category_ns[Category::Protocol as usize];
        *protocol = protocol.saturating_sub(breakdown.state(State::DownstreamTls));
        Self { category_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_handshake_with_the_client_is_not_told_again() {
        let mut ledger = Ledger::start(State::Parse, Tick(0));
        ledger.charge(State::DownstreamTls, 900);
        ledger.enter(State::AwaitResponse, Tick(40));
        let report = HopReport::of(&mut ledger, Tick(100), &Clock::instant_only());
        assert_eq!(report.total_ns(), 100);
        assert_eq!(report.category_ns[Category::Protocol as usize], 40);
    }

    #[test]
    fn strangers_are_refused() {
        for value in [
            &b""[..],
            b"1",
            b"2.0.0.0.0.0.0.0",
            b"1.0.0.0.0.0.0",
            b"1.0.0.0.0.0.0.0.0",
            b"1.0.0.0.0.0.0.",
            b"1.0.0.0.0.0.0.G",
            b"1.0.0.0.0.0.0.-1",
            b"1.0.0.0.0.0.0.00000000000000",
            b" 1.0.0.0.0.0.0.0",
        ] {
            assert_eq!(HopReport::parse(value), None, "{:?}", String::from_utf8_lossy(value));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(category_ns in proptest::array::uniform7(0_u64..=PART_NS_MAX)) {
            let report = HopReport { category_ns };
            let mut out = Vec::new();
            report.write(&mut out);
            prop_assert!(out.len() <= HOP_BYTES_MAX);
            prop_assert_eq!(HopReport::parse(&out), Some(report));
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(value in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = HopReport::parse(&value);
        }

        #[test]
        fn too_long_a_part_is_clipped_not_mangled(part in any::<u64>()) {
            let mut out = Vec::new();
            HopReport { category_ns: [part; CATEGORIES] }.write(&mut out);
            prop_assert_eq!(HopReport::parse(&out), Some(HopReport { category_ns: [part.min(PART_NS_MAX); CATEGORIES] }));
        }
    }
}
