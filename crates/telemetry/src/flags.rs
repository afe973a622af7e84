//! Envoy's response flags: why a response is what it is, in two letters
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

flags! {
    /// No endpoint of the cluster is healthy.
    NO_HEALTHY_UPSTREAM = 0, "UH";
    /// The connection to the endpoint failed.
    UPSTREAM_CONNECTION_FAILURE = 1, "UF";
    /// A circuit breaker is full.
    UPSTREAM_OVERFLOW = 2, "UO";
    /// No route matches.
    NO_ROUTE_FOUND = 3, "NR";
    /// The retries or the connect attempts are used up.
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 4, "URX";
    /// The upstream took longer than the timeout.
    UPSTREAM_REQUEST_TIMEOUT = 5, "UT";
    /// The upstream closed the connection in the middle.
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC";
    /// We reset the stream.
    LOCAL_RESET = 7, "LR";
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET = 8, "UR";
    /// The client closed the connection.
    DOWNSTREAM_CONNECTION_TERMINATION = 9, "DC";
    /// The client reset the stream.
    DOWNSTREAM_REMOTE_RESET = 10, "DR";
    /// A delay was injected.
    DELAY_INJECTED = 11, "DI";
    /// An abort was injected.
    FAULT_INJECTED = 12, "FI";
    /// A rate limit refused.
    RATE_LIMITED = 13, "RL";
    /// The authorization service refused.
    UNAUTHORIZED_EXTERNAL_SERVICE = 14, "UAEX";
    /// The stream was idle too long.
    STREAM_IDLE_TIMEOUT = 15, "SI";
    /// A header must not have this value.
    INVALID_ENVOY_REQUEST_HEADERS = 16, "IH";
    /// The client's message breaks the protocol.
    DOWNSTREAM_PROTOCOL_ERROR = 17, "DPE";
    /// The upstream's message breaks the protocol.
    UPSTREAM_PROTOCOL_ERROR = 18, "UPE";
    /// The upstream's response came too late for the stream's whole duration.
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR";
    /// The overload manager refused.
    OVERLOAD_MANAGER = 20, "OM";
    /// The name could not be resolved.
    DNS_RESOLUTION_FAILURE = 21, "DF";
    /// The route's cluster does not exist.
    NO_CLUSTER_FOUND = 22, "NC";
    /// The filter's configuration is not there.
    NO_FILTER_CONFIG_FOUND = 23, "NFCF";
    /// The request took longer than the timeout of the whole of it.
    DURATION_TIMEOUT = 24, "DT";
    /// The response came from the cache.
    RESPONSE_FROM_CACHE_FILTER = 25, "RFCF";
    /// A local health check failed.
    FAILED_LOCAL_HEALTH_CHECK = 26, "LH";
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
        assert_eq!(both.to_string(), "UF,URX");
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
