//! How many messages a gRPC body holds.

/// A flag and a length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: u8 = 5;

/// Counts the messages of one body as its pieces pass. A message counts once its prefix has come whole.
#[derive(Clone, Copy, Debug, Default)]
pub struct Messages {
    count: u64,
    /// Bytes of the present prefix that have come.
    prefix: u8,
    length: u32,
    /// Bytes of the present message that are still to come.
    left: u32,
}

impl Messages {
    pub fn take(&mut self, mut piece: &[u8]) {
        loop {
            let skipped = piece.len().min(self.left as usize);
            self.left -= skipped as u32;
            piece = piece.get(skipped..).unwrap_or_default();
            let Some((&byte, rest)) = piece.split_first() else { return };
            piece = rest;
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(byte);
            }
            self.prefix += 1;
            if self.prefix == PREFIX_BYTES {
                self.count += 1;
                (self.left, self.length, self.prefix) = (self.length, 0, 0);
            }
        }
    }

    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let body =
            [&[0, 0, 0, 0, 3, b'a', b'b', b'c', 1, 0, 0, 1, 0][..], &[7; 256], &[0, 0, 0, 0, 0, 0, 0, 0]].concat();
        for size in 1..=body.len() {
            let mut messages = Messages::default();
            body.chunks(size).for_each(|piece| messages.take(piece));
            assert_eq!(messages.count(), 3, "pieces of {size}; the fourth prefix is not whole");
        }
    }
}
