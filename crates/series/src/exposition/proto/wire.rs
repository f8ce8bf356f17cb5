//! The wire format of protocol buffers: fields of a message, one after another.

use super::Wrong;

/// What a field holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// What is left of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message<'a>(pub &'a [u8]);

const CUT: Wrong = "the message is cut off";

impl<'a> Message<'a> {
    /// The next field and its number; None at the end.
    pub fn next(&mut self) -> Result<Option<(u64, Field<'a>)>, Wrong> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => Field::Fixed64(self.fixed64()?),
            2 => Field::Bytes(self.delimited()?.0),
            5 => {
                self.0 = self.0.get(4..).ok_or(CUT)?;
                Field::Fixed32
            }
            _ => return Err("a field has an unknown wire type"),
        };
        Ok(Some((key >> 3, field)))
    }

    pub fn varint(&mut self) -> Result<u64, Wrong> {
        let mut value = 0;
        for (at, byte) in self.0.iter().enumerate().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(value);
            }
        }
        Err(if self.0.len() < 10 {
            CUT
        } else {
            "a number is longer than ten bytes"
        })
    }

    pub fn fixed64(&mut self) -> Result<u64, Wrong> {
        let (head, rest) = self.0.split_first_chunk::<8>().ok_or(CUT)?;
        self.0 = rest;
        Ok(u64::from_le_bytes(*head))
    }

    /// A message behind its length.
    pub fn delimited(&mut self) -> Result<Message<'a>, Wrong> {
        let length = usize::try_from(self.varint()?).map_err(|_| CUT)?;
        let (message, rest) = self.0.split_at_checked(length).ok_or(CUT)?;
        self.0 = rest;
        Ok(Message(message))
    }
}

/// A number of type `sint`: the sign is in the lowest bit.
pub(super) fn zigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -(value & 1).cast_signed()
}
