//! Decompression of LZO1X, as the kernel's documentation describes the stream (Documentation/staging/lzo.rst).

use uml_abi::Result;
use uml_abi::errno::EIO;

struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Result<usize> {
        let (b, rest) = self.rest.split_first().ok_or(EIO)?;
        self.rest = rest;
        Ok(usize::from(*b))
    }

    fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(n).ok_or(EIO)?;
        self.rest = rest;
        Ok(taken)
    }

    /// A length whose field in the instruction is zero: `base`, 255 for each zero byte, and the byte that is none.
    fn long(&mut self, base: usize) -> Result<usize> {
        let zeros = self.rest.iter().take_while(|b| **b == 0).count();
        self.take(zeros)?;
        Ok(base + zeros * 255 + self.byte()?)
    }

    /// A field of an instruction, or what follows when it is zero.
    fn length(&mut self, field: usize, base: usize) -> Result<usize> {
        if field == 0 { self.long(base) } else { Ok(field) }
    }
}

struct Output {
    bytes: Vec<u8>,
    max: usize,
}

impl Output {
    fn room(&self, n: usize) -> Result<()> {
        if n <= self.max - self.bytes.len() { Ok(()) } else { Err(EIO) }
    }

    fn literals(&mut self, b: &[u8]) -> Result<()> {
        self.room(b.len())?;
        self.bytes.extend_from_slice(b);
        Ok(())
    }

    /// Repeats bytes from `distance` back; they may overlap with what is made.
    fn repeat(&mut self, distance: usize, len: usize) -> Result<()> {
        self.room(len)?;
        let from = self.bytes.len().checked_sub(distance).ok_or(EIO)?;
        if distance >= len {
            self.bytes.extend_from_within(from..from + len);
        } else {
            for i in from..from + len {
                self.bytes.push(self.bytes[i]);
            }
        }
        Ok(())
    }
}

/// Decompresses `src` to at most `max` bytes.
pub(crate) fn decompress(src: &[u8], max: usize) -> Result<Vec<u8>> {
    let mut input = Input { rest: src };
    let mut out = Output { bytes: Vec::with_capacity(max), max };
    // Literals that the last instruction copied; 4 stands for more.
    let mut state = 0;
    if let Some(first) = src.first().filter(|b| **b > 17) {
        let n = usize::from(*first) - 17;
        input.byte()?;
        out.literals(input.take(n)?)?;
        state = n.min(4);
    }
    loop {
        let op = input.byte()?;
        let (distance, len, literals) = match op {
            0..=15 if state == 0 => {
                let n = 3 + input.length(op, 15)?;
                out.literals(input.take(n)?)?;
                state = 4;
                continue;
            }
            0..=15 => {
                let d = (input.byte()? << 2) + (op >> 2);
                if state == 4 { (d + 2049, 3, op & 3) } else { (d + 1, 2, op & 3) }
            }
            16..=31 => {
                let len = 2 + input.length(op & 7, 7)?;
                let low = input.byte()? | input.byte()? << 8;
                let d = 16384 + ((op & 8) << 11) + (low >> 2);
                if d == 16384 {
                    return if input.rest.is_empty() { Ok(out.bytes) } else { Err(EIO) };
                }
                (d, len, low & 3)
            }
            32..=63 => {
                let len = 2 + input.length(op & 31, 31)?;
                let low = input.byte()? | input.byte()? << 8;
                ((low >> 2) + 1, len, low & 3)
            }
            64..=127 => ((input.byte()? << 3) + (op >> 2 & 7) + 1, 3 + (op >> 5 & 1), op & 3),
            _ => ((input.byte()? << 3) + (op >> 2 & 7) + 1, 5 + (op >> 5 & 3), op & 3),
        };
        out.repeat(distance, len)?;
        out.literals(input.take(literals)?)?;
        state = literals;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_the_end() {
        // Four literals, then a repetition of six at distance 4, then the end.
        let s = [21, b'a', b'b', b'c', b'd', 0b1010_1100, 0, 0x11, 0, 0];
        assert_eq!(decompress(&s, 100).unwrap(), b"abcdabcdab");
        assert_eq!(decompress(&s, 9), Err(EIO), "more than there may be");
        assert_eq!(decompress(&s[..8], 100), Err(EIO), "cut");
        assert_eq!(decompress(&[0x11, 0, 0], 10).unwrap(), b"");
        assert_eq!(decompress(&[0x20, 0, 0, 0, 0], 10), Err(EIO), "before the start");
    }
}
