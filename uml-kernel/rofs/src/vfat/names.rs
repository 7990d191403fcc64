//! Short and long names.

use crate::charset::Charset;
use uml_store::bytes::{rd8, rd16};

/// How short names appear (mount option `shortname=`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ShortNames {
    /// In the case that the entry's flags say.
    #[default]
    Mixed,
    /// As `mixed`; differs in what is created.
    Winnt,
    /// In lower case.
    Lower,
    /// In upper case.
    Win95,
}

/// Characters 128 to 255 of code page 437.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The 128 characters, looked up often.
pub(crate) struct CodePage(Vec<char>);

impl CodePage {
    pub(crate) fn new() -> CodePage {
        CodePage(CP437.chars().collect())
    }

    fn char(&self, b: u8) -> char {
        match b.checked_sub(128) {
            None => char::from(b),
            Some(i) => self.0.get(usize::from(i)).copied().unwrap_or(char::REPLACEMENT_CHARACTER),
        }
    }
}

/// Flags of an entry: lower case before and after the point.
const LOWER_BASE: u8 = 8;
const LOWER_EXT: u8 = 16;
/// Bytes of a long name's part in each entry.
const UNITS: [usize; 13] = [1, 3, 5, 7, 9, 14, 16, 18, 20, 22, 24, 28, 30];
/// Entries of the longest name.
pub(crate) const SLOTS: u8 = 20;

/// The name in a short entry.
pub(crate) fn short(e: &[u8], how: ShortNames, page: &CodePage, charset: Charset) -> Vec<u8> {
    let flags = rd8(e, 12);
    let part = |from: usize, to: usize, flag: u8| -> String {
        let lower = match how {
            ShortNames::Lower => true,
            ShortNames::Win95 => false,
            ShortNames::Mixed | ShortNames::Winnt => flags & flag != 0,
        };
        let raw: String = (from..to)
            .map(|i| match (i, rd8(e, i)) {
                // 0xe5 marks entries that are deleted.
                (0, 5) => page.char(0xe5),
                (_, b) => page.char(b),
            })
            .collect();
        let raw = raw.trim_end_matches(' ');
        if lower { raw.to_lowercase() } else { raw.to_owned() }
    };
    let (base, ext) = (part(0, 8, LOWER_BASE), part(8, 11, LOWER_EXT));
    let point = if ext.is_empty() { "" } else { "." };
    charset.encode(base.chars().chain(point.chars()).chain(ext.chars()))
}

/// The sum over a short name that the entries of its long name carry.
pub(crate) fn checksum(e: &[u8]) -> u8 {
    (0..11).fold(0u8, |s, i| s.rotate_right(1).wrapping_add(rd8(e, i)))
}

/// A long name that is being put together from entries, which come last part first.
#[derive(Default)]
pub(crate) struct Long {
    units: Vec<u16>,
    /// Part that comes next, 0 when all are there.
    next: u8,
    sum: u8,
    /// All parts came so far.
    good: bool,
}

impl Long {
    /// Takes an entry of a long name.
    pub(crate) fn slot(&mut self, e: &[u8]) {
        let id = rd8(e, 0);
        let n = id & 0x3f;
        if id & 0x40 != 0 && (1..=SLOTS).contains(&n) {
            *self = Long { units: vec![0; 0], next: n, sum: rd8(e, 13), good: true };
            self.units.resize(usize::from(n) * UNITS.len(), 0);
        }
        if !self.good || n == 0 || n != self.next || rd8(e, 13) != self.sum {
            self.good = false;
            return;
        }
        self.next = n - 1;
        let at = usize::from(n - 1) * UNITS.len();
        for (i, from) in UNITS.iter().enumerate() {
            if let Some(u) = self.units.get_mut(at + i) {
                *u = rd16(e, *from);
            }
        }
    }

    /// The name, if it belongs to the short entry `e`; forgets it.
    pub(crate) fn take(&mut self, e: &[u8], charset: Charset) -> Option<Vec<u8>> {
        let whole = std::mem::take(self);
        let fits = whole.good && whole.next == 0 && whole.sum == checksum(e);
        let end = whole.units.iter().position(|u| *u == 0).unwrap_or(whole.units.len());
        // More than 255 characters no name has.
        (fits && (1..=255).contains(&end))
            .then(|| charset.encode_utf16(whole.units[..end].iter().copied()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names() {
        let page = CodePage::new();
        assert_eq!(page.0.len(), 128);
        let mut e = *b"README  TXT\x20\0                    ";
        e[12] = 0;
        let show = |e: &[u8], how| String::from_utf8(short(e, how, &page, Charset::Utf8)).unwrap();
        assert_eq!(show(&e, ShortNames::Mixed), "README.TXT");
        assert_eq!(show(&e, ShortNames::Lower), "readme.txt");
        e[12] = LOWER_EXT;
        assert_eq!(show(&e, ShortNames::Mixed), "README.txt");
        assert_eq!(show(&e, ShortNames::Win95), "README.TXT");
        e[..11].copy_from_slice(b"\x05\x81      \x20\x20\x20");
        assert_eq!(show(&e, ShortNames::Mixed), "σü");
    }
}
