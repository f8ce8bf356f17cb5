//! A list of series in little room: ascending numbers as variable-length differences.

use super::Id;
use crate::varint::{Reader, put};

/// Only grows at its end, or is written anew.
#[derive(Debug, Default)]
pub(crate) struct Postings {
    bytes: Vec<u8>,
    last: Id,
    count: u32,
}

impl Postings {
    /// Appends a number above all others.
    pub fn push(&mut self, id: Id) {
        put(&mut self.bytes, id - self.last);
        self.last = id;
        self.count += 1;
    }

    pub fn len(&self) -> usize {
        self.count as usize
    }

    pub fn iter(&self) -> impl Iterator<Item = Id> {
        let (mut reader, mut last) = (Reader(&self.bytes), 0);
        std::iter::from_fn(move || {
            last += reader.number()?;
            Some(last)
        })
    }

    /// Keeps only some of the numbers.
    pub fn retain(&mut self, mut keep: impl FnMut(Id) -> bool) {
        let mut kept = Postings::default();
        self.iter().filter(|id| keep(*id)).for_each(|id| kept.push(id));
        kept.bytes.shrink_to_fit();
        *self = kept;
    }

    pub fn heap_bytes(&self) -> usize {
        self.bytes.capacity()
    }
}
