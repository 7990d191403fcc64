//! The `ubd` option, typed: shared by the command line, the management console and configuration
//! files.

use std::fmt;

use crate::number;

/// Disks of the driver, ubda..ubdp.
pub const UNITS: usize = 16;
/// Flag letters before `=`.
const MAX_FLAGS: usize = 6;

/// One disk as configured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskSpec {
    pub unit: usize,
    /// The file, or the COW file when `backing` is given. `None`: the slot's default.
    pub file: Option<String>,
    pub backing: Option<String>,
    pub serial: Option<String>,
    /// `r`.
    pub read_only: bool,
    /// `s`.
    pub sync: bool,
    /// `d`: do not look for a COW header.
    pub plain: bool,
    /// `c`: no host file lock.
    pub shared: bool,
    /// `t`: no discard.
    pub no_trim: bool,
}

/// What follows the word `ubd`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UbdOption {
    /// `=sync`: every later disk is synchronous.
    Sync,
    /// `=<anything else>`: once a fake major number.
    FakeMajor,
    Disk(DiskSpec),
}

/// Why an option was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecError {
    Number,
    Range,
    Flag,
    MissingEquals,
    TooManyFlags,
    PlainCow,
}

impl SpecError {
    /// The number in a management-console reply.
    pub fn code(self) -> i32 {
        if self == SpecError::Range { 1 } else { -libc::EINVAL }
    }
}

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SpecError::Number => "Couldn't parse device number",
            SpecError::Range => "Device number out of range",
            SpecError::Flag => "Expected '=' or flag letter (r, s, c, t or d)",
            SpecError::MissingEquals => "Missing '='",
            SpecError::TooManyFlags => "Too many flags specified",
            SpecError::PlainCow => "Can't specify both 'd' and a cow file",
        })
    }
}

/// The unit at the start of `text`, and what follows: a number with C base prefixes, or a letter.
pub fn parse_unit(text: &str) -> Result<(usize, &str), SpecError> {
    let (n, rest) = match text.bytes().next() {
        Some(b'0'..=b'9') => number::leading(text),
        Some(c @ b'a'..=b'z') => (u64::from(c - b'a'), &text[1..]),
        _ => return Err(SpecError::Number),
    };
    match usize::try_from(n).ok().filter(|n| *n < UNITS) {
        Some(n) => Ok((n, rest)),
        None => Err(SpecError::Range),
    }
}

impl UbdOption {
    /// Parses what follows `ubd`.
    pub fn parse(text: &str) -> Result<UbdOption, SpecError> {
        match text.strip_prefix('=') {
            Some("sync") => return Ok(UbdOption::Sync),
            Some(_) => return Ok(UbdOption::FakeMajor),
            None => {}
        }
        let (unit, rest) = parse_unit(text)?;
        let mut spec = DiskSpec { unit, ..DiskSpec::default() };
        let mut flags = 0;
        let mut rest = rest.chars();
        loop {
            match rest.next() {
                Some('=') if flags <= MAX_FLAGS => break,
                Some('=') => return Err(SpecError::TooManyFlags),
                _ if flags > MAX_FLAGS => return Err(SpecError::MissingEquals),
                Some('r') => spec.read_only = true,
                Some('s') => spec.sync = true,
                Some('d') => spec.plain = true,
                Some('c') => spec.shared = true,
                Some('t') => spec.no_trim = true,
                _ => return Err(SpecError::Flag),
            }
            flags += 1;
        }
        // Either separator, in any mix; so paths cannot contain them.
        let mut fields =
            rest.as_str().split([',', ':']).map(|f| (!f.is_empty()).then(|| f.to_owned()));
        spec.file = fields.next().flatten();
        spec.backing = fields.next().flatten();
        spec.serial = fields.next().flatten();
        if spec.plain && spec.backing.is_some() {
            return Err(SpecError::PlainCow);
        }
        Ok(UbdOption::Disk(spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn disk(text: &str) -> Result<DiskSpec, SpecError> {
        match UbdOption::parse(text)? {
            UbdOption::Disk(d) => Ok(d),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn fields_and_flags() {
        let d = disk("0=root").expect("valid");
        assert_eq!((d.unit, d.file.as_deref(), d.backing), (0, Some("root"), None));
        let d = disk("brsc=cow,back:SER").expect("valid");
        assert_eq!((d.unit, d.read_only, d.sync, d.shared), (1, true, true, true));
        assert_eq!(d.backing.as_deref(), Some("back"));
        assert_eq!(d.serial.as_deref(), Some("SER"));
        let d = disk("0xf=File,,Serial").expect("valid");
        assert_eq!((d.unit, d.backing, d.serial.as_deref()), (15, None, Some("Serial")));
        assert_eq!(disk("0=").expect("valid").file, None);
        assert_eq!(UbdOption::parse("=sync"), Ok(UbdOption::Sync));
        assert_eq!(UbdOption::parse("=98"), Ok(UbdOption::FakeMajor));
    }

    #[test]
    fn errors() {
        assert_eq!(disk(""), Err(SpecError::Number));
        assert_eq!(disk("-1=x"), Err(SpecError::Number));
        assert_eq!(disk("16=x"), Err(SpecError::Range));
        assert_eq!(disk("q=x"), Err(SpecError::Range));
        assert_eq!(disk("0x=f"), Err(SpecError::Flag));
        assert_eq!(disk("0"), Err(SpecError::Flag));
        assert_eq!(disk("0rrrrrr=f").map(|d| d.read_only), Ok(true));
        assert_eq!(disk("0rrrrrrr=f"), Err(SpecError::TooManyFlags));
        assert_eq!(disk("0rrrrrrrx"), Err(SpecError::MissingEquals));
        assert_eq!(disk("0d=a,b"), Err(SpecError::PlainCow));
    }

    proptest! {
        #[test]
        fn nothing_panics(text in ".{0,30}") {
            let _ = UbdOption::parse(&text);
        }
    }
}
