//! Numbers in options.

/// Reads an unsigned number with C base prefixes (`0x1f`, `017`, `9`) from the start of `text`; returns it
/// and what follows. Without any digit the number is 0 and nothing is consumed, as with strtoul(3);
/// a number beyond 64 bits saturates.
pub fn leading(text: &str) -> (u64, &str) {
    let (base, digits) = match text.as_bytes() {
        [b'0', b'x' | b'X', d, ..] if d.is_ascii_hexdigit() => (16, &text[2..]),
        [b'0', ..] => (8, text),
        _ => (10, text),
    };
    let len = digits.chars().take_while(|c| c.is_digit(base)).count();
    let value = digits[..len]
        .chars()
        .filter_map(|c| c.to_digit(base))
        .fold(0u64, |n, d| n.saturating_mul(u64::from(base)).saturating_add(u64::from(d)));
    (value, &digits[len..])
}

/// A text that is one such number and nothing else.
pub fn whole(text: &str) -> Option<u64> {
    match leading(text) {
        (n, "") if !text.is_empty() => Some(n),
        _ => None,
    }
}

/// A number of bytes with an optional suffix, K, M, G, T, P or E, and nothing else.
pub fn size(text: &str) -> Option<u64> {
    if !text.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (n, rest) = leading(text);
    let shift = match rest {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        "t" | "T" => 40,
        "p" | "P" => 50,
        "e" | "E" => 60,
        _ => return None,
    };
    Some(n.checked_shl(shift).filter(|v| v >> shift == n).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases() {
        assert_eq!(leading("12=x"), (12, "=x"));
        assert_eq!(leading("0x1F,"), (31, ","));
        assert_eq!(leading("017"), (15, ""));
        assert_eq!(leading("0xg"), (0, "xg"));
        assert_eq!(leading("=x"), (0, "=x"));
        assert_eq!(leading("99999999999999999999"), (u64::MAX, ""));
        assert_eq!(whole("08"), None);
        assert_eq!(whole(""), None);
        assert_eq!(whole("7"), Some(7));
        assert_eq!(size("0x10k"), Some(16 << 10));
        assert_eq!(size("99999999999E"), Some(u64::MAX));
        assert_eq!((size("1Mx"), size(""), size("M")), (None, None, None));
    }
}
