//! Names in UTF-16 as bytes, and back (mount option `iocharset=`).

/// How names that the image has in Unicode appear.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Charset {
    /// UTF-8.
    #[default]
    Utf8,
    /// ISO 8859-1; `?` for other characters.
    Latin1,
    /// ASCII; `?` for other characters.
    Ascii,
}

impl Charset {
    /// The character set of that name; `None` for those that are not offered.
    pub fn by_name(name: &str) -> Option<Charset> {
        match name {
            "utf8" | "utf-8" => Some(Charset::Utf8),
            "iso8859-1" => Some(Charset::Latin1),
            "ascii" | "us-ascii" => Some(Charset::Ascii),
            _ => None,
        }
    }

    fn put(self, c: char, out: &mut Vec<u8>) {
        match (self, c as u32) {
            (Charset::Utf8, _) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            (Charset::Latin1, n @ 0..=0xff) | (Charset::Ascii, n @ 0..=0x7f) => out.push(n as u8),
            _ => out.push(b'?'),
        }
    }

    /// A name; half a surrogate pair becomes U+FFFD.
    pub(crate) fn encode_utf16(self, units: impl Iterator<Item = u16>) -> Vec<u8> {
        let mut out = Vec::new();
        for c in char::decode_utf16(units) {
            self.put(c.unwrap_or(char::REPLACEMENT_CHARACTER), &mut out);
        }
        out
    }

    /// A name made of characters.
    pub(crate) fn encode(self, chars: impl Iterator<Item = char>) -> Vec<u8> {
        let mut out = Vec::new();
        chars.for_each(|c| self.put(c, &mut out));
        out
    }

    /// The same for names that differ in case only.
    pub(crate) fn folded(self, name: &[u8]) -> Vec<u8> {
        let lower = |c: char| c.to_lowercase();
        match (self, std::str::from_utf8(name)) {
            (Charset::Utf8, Ok(s)) => self.encode(s.chars().flat_map(lower)),
            (Charset::Latin1, _) => self.encode(name.iter().flat_map(|b| lower(char::from(*b)))),
            _ => name.to_ascii_lowercase(),
        }
    }

    /// True when `name` is the same as one that was folded.
    pub(crate) fn same(self, name: &[u8], folded: &[u8]) -> bool {
        if name.is_ascii() && folded.is_ascii() {
            return name.eq_ignore_ascii_case(folded);
        }
        self.folded(name) == folded
    }
}
