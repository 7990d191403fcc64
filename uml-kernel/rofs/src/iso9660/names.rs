//! Names without Rock Ridge.

use crate::charset::Charset;

/// A plain name in lower case, without its version when that is 1; other semicolons and slashes become points.
pub(crate) fn normal(raw: &[u8]) -> Vec<u8> {
    let shown = raw.strip_suffix(b".;1").or_else(|| raw.strip_suffix(b";1")).unwrap_or(raw);
    shown
        .iter()
        .take_while(|b| **b != 0)
        .map(|b| match b {
            b';' | b'/' => b'.',
            b => b.to_ascii_lowercase(),
        })
        .collect()
}

/// A Joliet name (UTF-16, big-endian), without version and points at its end.
pub(crate) fn joliet(raw: &[u8], charset: Charset) -> Vec<u8> {
    let units = raw.chunks_exact(2).map(|c| u16::from_be_bytes([c[0], c[1]]));
    let mut name = charset.encode_utf16(units.take_while(|u| *u != 0));
    if name.len() > 2 && name.ends_with(b";1") {
        name.truncate(name.len() - 2);
    }
    while name.len() >= 2 && name.ends_with(b".") {
        name.pop();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_names() {
        for (raw, shown) in [
            ("README.TXT;1", "readme.txt"),
            ("NOEXT.;1", "noext"),
            ("A.B;2", "a.b.2"),
            ("DIR", "dir"),
            ("A/B;1", "a.b"),
        ] {
            assert_eq!(normal(raw.as_bytes()), shown.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn joliet_names() {
        let raw: Vec<u8> = "Grüße.;1".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert_eq!(joliet(&raw, Charset::Utf8), "Grüße".as_bytes());
        assert_eq!(joliet(&raw, Charset::Ascii), b"Gr??e");
        assert_eq!(joliet(&raw, Charset::Latin1), b"Gr\xfc\xdfe");
    }
}
