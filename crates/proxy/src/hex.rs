//! Identifiers in hexadecimal. Enters: numbers. Leaves: their digits, for every request: the standard library's formatter
//! stood out in profiles.

/// Appends the last `digits` (16 at most) of a number in hexadecimal, with leading zeros.
pub fn push(out: &mut Vec<u8>, number: u64, digits: u32) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let nibbles = (0..digits).rev().map(|place| number >> (4 * place) & 0xf);
    out.extend(nibbles.map(|nibble| DIGITS[nibble as usize]));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_those_of_the_formatter() {
        for number in [0, 1, 0x0123_4567_89ab_cdef, u64::MAX, 0xf0] {
            let mut out = b"-".to_vec();
            push(&mut out, number, 16);
            assert_eq!(out, format!("-{number:016x}").as_bytes());
        }
        let mut out = Vec::new();
        push(&mut out, 0xabcd, 3);
        push(&mut out, 0, 0);
        assert_eq!(out, b"bcd");
    }
}
