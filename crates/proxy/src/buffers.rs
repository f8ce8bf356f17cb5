//! The read buffers of one worker.
//!
//! A connection holds a buffer only while bytes are in it. The one given back last is lent next, so that nearly all reads
//! go through one piece of memory that is in the processor's cache. Knows nothing of connections.

use std::cell::RefCell;

/// Larger than nearly every head with its body: one read then takes a whole message.
pub const BUFFER_BYTES: usize = 128 * 1024;
/// Buffers that are kept while nobody uses them.
const KEPT_MAX: usize = 16;

/// Buffers that nobody uses at the moment.
#[derive(Debug, Default)]
pub struct Buffers(RefCell<Vec<Box<[u8]>>>);

impl Buffers {
    /// Lends a buffer of [`BUFFER_BYTES`]; its content is undefined.
    pub fn take(&self) -> Box<[u8]> {
        let kept = self.0.borrow_mut().pop();
        kept.unwrap_or_else(|| vec![0; BUFFER_BYTES].into_boxed_slice())
    }

    /// Takes a buffer back.
    pub fn put(&self, buffer: Box<[u8]>) {
        let mut kept = self.0.borrow_mut();
        if buffer.len() == BUFFER_BYTES && kept.len() < KEPT_MAX {
            kept.push(buffer);
        }
    }
}
