//! Memory of finished messages, kept for new ones.

/// Pieces that a connection keeps of each kind.
const KEPT: usize = 128;

/// Message heads. Within the connection they move as pointers; a head that goes to the caller leaves its box behind.
#[derive(Debug)]
pub(crate) struct Heads<T> {
    ready: Vec<Box<T>>,
    boxes: Vec<Box<T>>,
}

impl<T: Default> Heads<T> {
    pub(crate) const fn new() -> Self {
        Self { ready: Vec::new(), boxes: Vec::new() }
    }

    /// A head to be filled; it may still hold an old one.
    pub(crate) fn take(&mut self) -> Box<T> {
        self.ready.pop().or_else(|| self.boxes.pop()).unwrap_or_default()
    }

    pub(crate) fn keep(&mut self, head: Box<T>) {
        if self.ready.len() < KEPT {
            self.ready.push(head);
        }
    }

    pub(crate) fn hand_out(&mut self, mut head: Box<T>) -> T {
        let given = std::mem::take(&mut *head);
        if self.boxes.len() < KEPT {
            self.boxes.push(head);
        }
        given
    }

    /// Takes a head back from the caller.
    pub(crate) fn recycle(&mut self, head: T) {
        if self.ready.len() < KEPT {
            let mut place = self.boxes.pop().unwrap_or_default();
            *place = head;
            self.ready.push(place);
        }
    }
}

/// Body buffers.
#[derive(Debug)]
pub(crate) struct Bodies(Vec<Vec<u8>>);

/// The largest buffer that is kept: with [`KEPT`] of them, 8 MiB for a connection whose streams all carried large
/// bodies, and nothing for one whose bodies are small.
const KEPT_BYTES: usize = 64 * 1024;

impl Bodies {
    pub(crate) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(crate) fn take(&mut self) -> Vec<u8> {
        self.0.pop().unwrap_or_default()
    }

    pub(crate) fn keep(&mut self, mut body: Vec<u8>) {
        if self.0.len() < KEPT && (1..=KEPT_BYTES).contains(&body.capacity()) {
            body.clear();
            self.0.push(body);
        }
    }
}
