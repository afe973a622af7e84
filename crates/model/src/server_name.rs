//! Which names a TLS client can send as the server's (SNI).

use std::net::IpAddr;

/// Bytes of a name, and of a label (RFC 1035, section 2.3.4).
const NAME_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

/// Whether the TLS library takes the name: a DNS name, which may have underscores, or an address, for which no name is sent.
/// Envoy sends any text. What ends in a number would be an address (WHATWG URL, "ends in a number").
pub fn is_sendable(name: &str) -> bool {
    let labels = || name.strip_suffix('.').unwrap_or(name).split('.');
    let is_label = |label: &str| {
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_number = |label: &str| {
        let hex = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
        label.bytes().all(|byte| byte.is_ascii_digit())
            || hex.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    (name.len() <= NAME_BYTES_MAX && labels().all(is_label) && !labels().next_back().is_some_and(is_number))
        || name.parse::<IpAddr>().is_ok()
}
