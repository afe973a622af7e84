//! Memory for bodies that may be sent again: to another endpoint, on another connection, or to a mirror.

use std::cell::Cell;
use std::rc::Rc;

/// What is kept of one body: Envoy's default for a buffer (`per_connection_buffer_limit_bytes`). A larger one is sent once.
pub(super) const BODY_BYTES_MAX: usize = 1024 * 1024;

/// So much of a body is kept without asking: most bodies are smaller, and pay for no account.
const FREE_BYTES: usize = 64 * 1024;

/// What a worker keeps of larger bodies in all: 32 of the largest. Past it a body is sent once.
const WORKER_BYTES_MAX: usize = 32 * BODY_BYTES_MAX;

/// A worker's account.
#[derive(Debug, Default)]
pub(crate) struct Account {
    used: Cell<usize>,
}

/// One body's part of the account. Dropping it gives it back.
#[derive(Debug)]
pub(super) struct Charge {
    account: Rc<Account>,
    bytes: usize,
}

impl Charge {
    pub(super) fn new(account: &Rc<Account>) -> Self {
        Self { account: account.clone(), bytes: 0 }
    }

    /// Whether so much of the body may be kept; it is paid for then.
    pub(super) fn covers(&mut self, body_bytes: usize) -> bool {
        if body_bytes <= FREE_BYTES.max(self.bytes) {
            return true;
        }
        let used = self.account.used.get() - self.bytes + body_bytes;
        let covered = body_bytes <= BODY_BYTES_MAX && used <= WORKER_BYTES_MAX;
        if covered {
            self.account.used.set(used);
            self.bytes = body_bytes;
        }
        covered
    }

    pub(super) fn give_back(&mut self) {
        self.account.used.set(self.account.used.get() - std::mem::take(&mut self.bytes));
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_bodies_share_a_bound_and_small_ones_are_free() {
        let account = Rc::default();
        let mut large: Vec<_> = (0..32).map(|_| Charge::new(&account)).collect();
        assert!(large.iter_mut().all(|one| one.covers(FREE_BYTES + 1) && one.covers(BODY_BYTES_MAX)));
        assert!(!large[0].covers(BODY_BYTES_MAX + 1) && large[0].covers(7));
        let mut one_more = Charge::new(&account);
        assert!(one_more.covers(FREE_BYTES) && !one_more.covers(FREE_BYTES + 1));
        large[0].give_back();
        assert!(one_more.covers(BODY_BYTES_MAX));
        drop((large, one_more));
        assert_eq!(account.used.get(), 0);
    }
}
