use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::NamedGroup;
use rustls::client::{ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue};
use rustls::pki_types::ServerName;

/// Endpoints remembered per upstream. The oldest goes first; forgetting one costs a full handshake, no more.
const ENDPOINTS_MAX: usize = 1024;

/// Tickets kept per endpoint. Each is used once, so this is how many connections can be opened in a burst.
const TICKETS_PER_ENDPOINT_MAX: usize = 4;

/// Sessions of one upstream, by endpoint: all endpoints of a cluster share a server name, but not their ticket keys, so that
/// a cache by name alone would offer most of them a ticket that they cannot read.
///
/// The lock is taken a few times per handshake, never per request.
#[derive(Default)]
pub(super) struct Sessions {
    inner: Mutex<Inner>,
}

type Key = (SocketAddr, ServerName<'static>);

#[derive(Default)]
struct Inner {
    by_endpoint: HashMap<Key, Remembered>,
    oldest_first: VecDeque<Key>,
}

#[derive(Default)]
struct Remembered {
    group: Option<NamedGroup>,
    tls12: Option<Tls12ClientSessionValue>,
    tls13: VecDeque<Tls13ClientSessionValue>,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn edit(&self, key: Key, change: impl FnOnce(&mut Remembered)) {
        let mut inner = self.lock();
        if !inner.by_endpoint.contains_key(&key) {
            if inner.oldest_first.len() >= ENDPOINTS_MAX
                && let Some(oldest) = inner.oldest_first.pop_front()
            {
                inner.by_endpoint.remove(&oldest);
            }
            inner.oldest_first.push_back(key.clone());
        }
        change(inner.by_endpoint.entry(key).or_default());
    }
}

/// The sessions of one endpoint, as rustls wants them.
pub(super) struct EndpointSessions {
    pub(super) sessions: Arc<Sessions>,
    pub(super) endpoint: SocketAddr,
}

impl fmt::Debug for EndpointSessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sessions of {}", self.endpoint)
    }
}

impl EndpointSessions {
    fn key(&self, name: &ServerName<'_>) -> Key {
        (self.endpoint, name.to_owned())
    }
}

impl ClientSessionStore for EndpointSessions {
    fn set_kx_hint(&self, name: ServerName<'static>, group: NamedGroup) {
        self.sessions.edit((self.endpoint, name), |known| known.group = Some(group));
    }

    fn kx_hint(&self, name: &ServerName<'_>) -> Option<NamedGroup> {
        self.sessions.lock().by_endpoint.get(&self.key(name))?.group
    }

    fn set_tls12_session(&self, name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.sessions.edit((self.endpoint, name), |known| known.tls12 = Some(value));
    }

    fn tls12_session(&self, name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.sessions.lock().by_endpoint.get(&self.key(name))?.tls12.clone()
    }

    fn remove_tls12_session(&self, name: &ServerName<'static>) {
        if let Some(known) = self.sessions.lock().by_endpoint.get_mut(&self.key(name)) {
            known.tls12 = None;
        }
    }

    fn insert_tls13_ticket(&self, name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.sessions.edit((self.endpoint, name), |known| {
            if known.tls13.len() >= TICKETS_PER_ENDPOINT_MAX {
                known.tls13.pop_front();
            }
            known.tls13.push_back(value);
        });
    }

    fn take_tls13_ticket(&self, name: &ServerName<'_>) -> Option<Tls13ClientSessionValue> {
        self.sessions.lock().by_endpoint.get_mut(&self.key(name))?.tls13.pop_back()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_endpoint_is_forgotten_first() {
        let sessions = Arc::new(Sessions::default());
        let name = ServerName::try_from("a.test").unwrap();
        let at = |port: u16| EndpointSessions {
            sessions: Arc::clone(&sessions),
            endpoint: SocketAddr::from(([127, 0, 0, 1], port)),
        };
        for port in 0..=ENDPOINTS_MAX as u16 {
            at(port).set_kx_hint(name.clone(), NamedGroup::X25519);
        }
        assert_eq!(at(0).kx_hint(&name), None);
        assert_eq!(at(1).kx_hint(&name), Some(NamedGroup::X25519));
        assert_eq!(sessions.lock().by_endpoint.len(), ENDPOINTS_MAX);
        assert_eq!(sessions.lock().oldest_first.len(), ENDPOINTS_MAX);
    }
}
