//! Envoy's response flags, those whose events happen here: why a response is what it is, in two letters
//! (envoy `docs/root/configuration/observability/access_log/usage`, `%RESPONSE_FLAGS%`).

use std::fmt;

/// A set of flags. Empty is written `-`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal, $short:literal;)*) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            const NAMES: &[(Self, &'static str)] = &[$((Self::$name, $short)),*];
        }
    };
}

// In the order in which they are written. Envoy writes them in the order in which they are set: what was injected, why there was
// no further retry, what ended the last attempt, what became of the client.
flags! {
    /// A delay was injected.
    DELAY_INJECTED = 10, "DI";
    /// An abort was injected.
    FAULT_INJECTED = 11, "FI";
    /// A circuit breaker is full: of requests, of those that wait, or of retries.
    UPSTREAM_OVERFLOW = 2, "UO";
    /// The retries are used up.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 4, "URX";
    /// No endpoint of the cluster is healthy.
    NO_HEALTHY_UPSTREAM = 0, "UH";
    /// The connection to the endpoint failed.
    UPSTREAM_CONNECTION_FAILURE = 1, "UF";
    /// No route matches.
    NO_ROUTE_FOUND = 3, "NR";
    /// The upstream took longer than the timeout.
    UPSTREAM_REQUEST_TIMEOUT = 5, "UT";
    /// The upstream closed the connection before it answered.
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC";
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET = 7, "UR";
    /// The upstream's message breaks the protocol.
    UPSTREAM_PROTOCOL_ERROR = 14, "UPE";
    /// The stream was idle too long.
    STREAM_IDLE_TIMEOUT = 12, "SI";
    /// The client's message breaks the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = 13, "DPE";
    /// The overload manager refused.
    OVERLOAD_MANAGER = 15, "OM";
    /// The route's cluster does not exist.
    NO_CLUSTER_FOUND = 16, "NC";
    /// The response came from the cache.
    RESPONSE_FROM_CACHE_FILTER = 17, "RFCF";
    /// The client closed the connection.
    DOWNSTREAM_CONNECTION_TERMINATION = 8, "DC";
    /// The client reset the stream.
    DOWNSTREAM_REMOTE_RESET = 9, "DR";
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub fn remove(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    /// Whether it tells of anything that went wrong; an answer from the cache is none.
    pub fn is_trouble(self) -> bool {
        self.0 & !Self::RESPONSE_FROM_CACHE_FILTER.0 != 0
    }

    pub fn bits(self) -> u32 {
        self.0
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl std::ops::BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.insert(other);
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return out.write_str("-");
        }
        let mut first = true;
        for (flag, name) in Self::NAMES {
            if self.contains(*flag) {
                if !first {
                    out.write_str(",")?;
                }
                out.write_str(name)?;
                first = false;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_written_as_envoy_writes_them() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let both = ResponseFlags::UPSTREAM_CONNECTION_FAILURE | ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        assert_eq!(both.to_string(), "URX,UF");
    }

    #[test]
    fn no_two_flags_share_a_bit_or_a_name() {
        let mut all = 0;
        for (at, (flag, name)) in ResponseFlags::NAMES.iter().enumerate() {
            assert_eq!(all & flag.bits(), 0);
            all |= flag.bits();
            assert!(ResponseFlags::NAMES[at + 1..].iter().all(|(_, other)| other != name));
        }
    }
}
