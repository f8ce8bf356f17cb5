//! The protobuf wire format, by hand: fields go in and bytes come out, and the other way round without copying.
//!
//! Knows no message. Whoever decodes decides which fields mean something; unknown ones are passed over.

/// Why bytes are no protobuf message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside a field.
    #[error("the message ends inside a field")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a number has more than 64 bits")]
    Varint,
    /// A wire type that proto3 does not have, or field number 0.
    #[error("a field has no valid tag")]
    Tag,
    /// A field of another type than the message defines.
    #[error("field {0} is not of the type that the message defines")]
    Type(u32),
    /// A string that is not UTF-8.
    #[error("field {0} is not UTF-8")]
    Text(u32),
}

/// A field's content as it stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

/// One field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field<'a> {
    pub number: u32,
    pub value: Value<'a>,
}

/// Reads the fields of one message.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Reader(message)
    }

    /// The next field; none at the end.
    pub fn next(&mut self) -> Result<Option<Field<'a>>, WireError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let number = u32::try_from(tag >> 3).map_err(|_| WireError::Tag)?;
        if number == 0 {
            return Err(WireError::Tag);
        }
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| WireError::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            5 => {
                self.array::<4>()?;
                Value::Fixed32
            }
            _ => return Err(WireError::Tag),
        };
        Ok(Some(Field { number, value }))
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let mut number = 0u64;
        for (at, byte) in self.0.iter().copied().enumerate().take(10) {
            if at == 9 && byte > 1 {
                return Err(WireError::Varint);
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                self.0 = &self.0[at + 1..];
                return Ok(number);
            }
        }
        Err(if self.0.len() < 10 {
            WireError::Truncated
        } else {
            WireError::Varint
        })
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], WireError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.0 = rest;
        Ok(*taken)
    }
}

impl<'a> Field<'a> {
    fn wrong(&self) -> WireError {
        WireError::Type(self.number)
    }

    pub fn u64(&self) -> Result<u64, WireError> {
        match self.value {
            Value::Varint(v) => Ok(v),
            _ => Err(self.wrong()),
        }
    }

    /// `int64`; also `int32` and enumerations, which are written with as many bits.
    pub fn i64(&self) -> Result<i64, WireError> {
        self.u64().map(u64::cast_signed)
    }

    pub fn u32(&self) -> Result<u32, WireError> {
        u32::try_from(self.u64()?).map_err(|_| self.wrong())
    }

    /// `sint32`.
    pub fn s32(&self) -> Result<i32, WireError> {
        i32::try_from(unzigzag(self.u64()?)).map_err(|_| self.wrong())
    }

    pub fn f64(&self) -> Result<f64, WireError> {
        match self.value {
            Value::Fixed64(v) => Ok(f64::from_bits(v)),
            _ => Err(self.wrong()),
        }
    }

    pub fn bytes(&self) -> Result<&'a [u8], WireError> {
        match self.value {
            Value::Bytes(v) => Ok(v),
            _ => Err(self.wrong()),
        }
    }

    pub fn text(&self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?).map_err(|_| WireError::Text(self.number))
    }

    pub fn message(&self) -> Result<Reader<'a>, WireError> {
        self.bytes().map(Reader)
    }

    /// A repeated number, packed or one by one.
    pub fn varints(&self, mut each: impl FnMut(u64)) -> Result<(), WireError> {
        match self.value {
            Value::Varint(v) => each(v),
            Value::Bytes(packed) => {
                let mut packed = Reader(packed);
                while !packed.0.is_empty() {
                    each(packed.varint()?);
                }
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }

    /// A repeated `double`, packed or one by one.
    pub fn doubles(&self, mut each: impl FnMut(f64)) -> Result<(), WireError> {
        match self.value {
            Value::Fixed64(v) => each(f64::from_bits(v)),
            Value::Bytes(packed) => {
                let (doubles, rest) = packed.as_chunks::<8>();
                if !rest.is_empty() {
                    return Err(WireError::Truncated);
                }
                doubles.iter().for_each(|d| each(f64::from_le_bytes(*d)));
            }
            _ => return Err(self.wrong()),
        }
        Ok(())
    }
}

/// Writes the fields of a message. What proto3 takes for granted (0, empty) is left out.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub Vec<u8>);

impl Writer {
    fn varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.0.push(number as u8);
    }

    fn tag(&mut self, field: u32, wire_type: u64) {
        self.varint(u64::from(field) << 3 | wire_type);
    }

    pub fn u64(&mut self, field: u32, value: u64) {
        if value != 0 {
            self.u64_always(field, value);
        }
    }

    /// A member of a `oneof`: being there says something.
    pub fn u64_always(&mut self, field: u32, value: u64) {
        self.tag(field, 0);
        self.varint(value);
    }

    pub fn i64(&mut self, field: u32, value: i64) {
        self.u64(field, value.cast_unsigned());
    }

    /// `sint32`.
    pub fn s32(&mut self, field: u32, value: i32) {
        self.u64(field, zigzag(value.into()));
    }

    pub fn f64(&mut self, field: u32, value: f64) {
        if value.to_bits() != 0 {
            self.f64_always(field, value);
        }
    }

    /// A member of a `oneof`.
    pub fn f64_always(&mut self, field: u32, value: f64) {
        self.tag(field, 1);
        self.0.extend_from_slice(&value.to_bits().to_le_bytes());
    }

    pub fn text(&mut self, field: u32, value: &str) {
        if !value.is_empty() {
            self.text_always(field, value);
        }
    }

    /// An element of a repeated field, which may be empty.
    pub fn text_always(&mut self, field: u32, value: &str) {
        self.tag(field, 2);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value.as_bytes());
    }

    /// A message within the message.
    pub fn message(&mut self, field: u32, write: impl FnOnce(&mut Writer)) {
        self.tag(field, 2);
        let start = self.0.len();
        write(self);
        let length = self.0.len() - start;
        // The length stands before the content and is known after it.
        let mut header = Writer::default();
        header.varint(length as u64);
        self.0.splice(start..start, header.0);
    }

    /// A repeated number, packed.
    pub fn varints(&mut self, field: u32, values: impl Iterator<Item = u64>) {
        let mut values = values.peekable();
        if values.peek().is_some() {
            self.message(field, |w| values.for_each(|v| w.varint(v)));
        }
    }

    /// A repeated `double`, packed.
    pub fn doubles(&mut self, field: u32, values: &[f64]) {
        if !values.is_empty() {
            let bytes = values.iter().flat_map(|v| v.to_bits().to_le_bytes());
            self.message(field, |w| w.0.extend(bytes));
        }
    }
}

/// Signed numbers with small magnitudes as small numbers.
pub(crate) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

/// The other way round.
pub(crate) fn unzigzag(value: u64) -> i64 {
    (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for value in [0, 1, -1, 63, -64, 64, i64::MAX, i64::MIN] {
            assert_eq!(unzigzag(zigzag(value)), value);
            let mut writer = Writer::default();
            writer.i64(3, value);
            writer.varints(4, [value.cast_unsigned(), 300].into_iter());
            let mut reader = Reader::new(&writer.0);
            let mut seen = Vec::new();
            while let Ok(Some(field)) = reader.next() {
                assert_eq!(field.varints(|v| seen.push((field.number, v))), Ok(()));
                if field.number == 4 {
                    continue;
                }
            }
            let once = [(3, value.cast_unsigned())].into_iter().filter(|(_, v)| *v != 0);
            let wanted: Vec<_> = once.chain([(4, value.cast_unsigned()), (4, 300)]).collect();
            // Field 3 holds one number, which reads as a repeated one too.
            assert_eq!(seen, wanted);
        }
    }

    #[test]
    fn broken_messages_are_refused() {
        let error = |bytes: &[u8]| Reader::new(bytes).next().err();
        assert_eq!(error(&[0x08]), Some(WireError::Truncated));
        assert_eq!(error(&[0x0a, 0x05, b'x']), Some(WireError::Truncated));
        assert_eq!(
            error(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
            Some(WireError::Truncated)
        );
        assert_eq!(
            error(&[0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
            Some(WireError::Varint)
        );
        assert_eq!(error(&[0x00, 0x00]), Some(WireError::Tag));
        assert_eq!(error(&[0x0b]), Some(WireError::Tag));
        assert_eq!(error(&[0x09, 1, 2, 3]), Some(WireError::Truncated));
    }
}
