//! Building and parsing the text of synthetic files.

use std::fmt;
use std::io::Write;

use uml_abi::Result;
use uml_abi::errno::*;

/// Text being generated. Bytes, because names and arguments need not be UTF-8.
#[derive(Default)]
pub struct Text {
    bytes: Vec<u8>,
}

impl Text {
    /// Nothing yet.
    pub fn new() -> Text {
        Text::default()
    }

    /// What `write!` calls; it cannot fail.
    pub fn write_fmt(&mut self, args: fmt::Arguments<'_>) {
        // A vector takes whatever is written to it.
        let _ = self.bytes.write_fmt(args);
    }

    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a name with blanks, newlines and backslashes as octal escapes, as mount tables have them
    /// (getmntent(3)).
    pub fn mangled(&mut self, bytes: &[u8], special: &[u8]) {
        for &b in bytes {
            if b == b'\\' || special.contains(&b) {
                write!(self, "\\{b:03o}");
            } else {
                self.bytes.push(b);
            }
        }
    }

    /// A line `Name:` padded as /proc/meminfo does it, in kB.
    pub fn kb(&mut self, name: &str, bytes: u64) {
        self.kb_line(name, bytes >> 10);
    }

    /// As [`Text::kb`] with a value in kB.
    pub fn kb_line(&mut self, name: &str, kb: u64) {
        let pad = 15usize.saturating_sub(name.len());
        writeln!(self, "{name}:{:pad$}{kb:>8} kB", "");
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The finished text.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The vector behind it, for code that fills one.
    pub fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

/// The blank-separated words of what was written to a file; a NUL ends the text. `EINVAL` when it is not UTF-8.
pub fn words(data: &[u8]) -> Result<Vec<&str>> {
    let end = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    let s = std::str::from_utf8(&data[..end]).map_err(|_| EINVAL)?;
    Ok(s.split_ascii_whitespace().collect())
}

/// One signed number: decimal, `0x` hexadecimal or `0` octal, as the kernel reads settings. `ERANGE` when it does
/// not fit.
pub fn parse_i64(word: &str) -> Result<i64> {
    let (neg, digits) = match word.strip_prefix('-') {
        Some(d) => (true, d),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let v = parse_u64(digits)?;
    if neg {
        if v > 1 << 63 { Err(ERANGE) } else { Ok((v as i64).wrapping_neg()) }
    } else {
        i64::try_from(v).map_err(|_| ERANGE)
    }
}

/// As [`parse_i64`] without a sign.
pub fn parse_u64(word: &str) -> Result<u64> {
    let (digits, radix) = if let Some(h) = word.strip_prefix("0x").or(word.strip_prefix("0X")) {
        (h, 16)
    } else if word.len() > 1 && word.starts_with('0') {
        (&word[1..], 8)
    } else {
        (word, 10)
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(EINVAL);
    }
    u64::from_str_radix(digits, radix).map_err(|_| ERANGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_the_kernel_does() {
        assert_eq!(parse_i64("-17"), Ok(-17));
        assert_eq!(parse_i64("0x1f"), Ok(31));
        assert_eq!(parse_i64("010"), Ok(8));
        assert_eq!(parse_i64("-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(parse_i64("9223372036854775808"), Err(ERANGE));
        for bad in ["", "-", "0x", "1a", "08", "--1"] {
            assert_eq!(parse_i64(bad), Err(EINVAL), "{bad}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let mut t = Text::new();
        t.mangled(b"/a b\\c\n", b" \t\n");
        assert_eq!(t.into_bytes(), b"/a\\040b\\134c\\012");
    }
}
