//! Addresses as text, without the formatting machinery: a thousand services have ten thousand of them, each written twice
//! while a proxy starts.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Longest text: `255.255.255.255:65535`.
const V4_TEXT_MAX: usize = 21;

/// The canonical text, as `Display` gives it.
pub(crate) fn text(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => Text::of(address, None).as_str().to_owned(),
        IpAddr::V6(_) => address.to_string(),
    }
}

/// Gives the canonical text, as `Display` gives it, to `read`.
pub(crate) fn with_socket_text<T>(address: SocketAddr, read: impl FnOnce(&str) -> T) -> T {
    match address {
        SocketAddr::V4(address) => read(Text::of(*address.ip(), Some(address.port())).as_str()),
        SocketAddr::V6(_) => read(&address.to_string()),
    }
}

struct Text {
    bytes: [u8; V4_TEXT_MAX],
    length: usize,
}

impl Text {
    fn of(address: Ipv4Addr, port: Option<u16>) -> Self {
        let mut text = Self { bytes: [0; V4_TEXT_MAX], length: 0 };
        for (at, octet) in address.octets().into_iter().enumerate() {
            if at > 0 {
                text.push(b'.');
            }
            text.number(octet.into());
        }
        if let Some(port) = port {
            text.push(b':');
            text.number(port);
        }
        text
    }

    fn push(&mut self, byte: u8) {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
    }

    fn number(&mut self, number: u16) {
        let mut begun = false;
        for power in [10_000, 1_000, 100, 10, 1] {
            let digit = (number / power % 10) as u8;
            begun |= digit > 0 || power == 1;
            if begun {
                self.push(b'0' + digit);
            }
        }
    }

    fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_standard_library_writes_them() {
        for address in ["0.0.0.0", "1.20.255.100", "255.255.255.255", "10.0.9.1", "::1", "2001:db8::ff"] {
            let ip: IpAddr = address.parse().expect("an address");
            assert_eq!(text(ip), ip.to_string());
            for port in [0, 1, 80, 8080, 10_000, 65_535] {
                let socket = SocketAddr::new(ip, port);
                with_socket_text(socket, |text| assert_eq!(text, socket.to_string()));
            }
        }
    }
}
