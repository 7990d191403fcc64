//! Netlink attributes of nf_tables (netlink(7)): numbers in network byte order, nesting, and where in the message each
//! stands, because an error names the attribute it is about (NLMSGERR_ATTR_OFFS).

use uml_abi::Errno;
use uml_abi::errno::*;

/// Why a message is refused: the error, and the place of the attribute it is about, from the message's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    pub errno: Errno,
    pub at: Option<usize>,
}

impl From<Errno> for Refused {
    fn from(errno: Errno) -> Refused {
        Refused { errno, at: None }
    }
}

/// Result of what a message asks for.
pub type Outcome<T = ()> = Result<T, Refused>;

/// One attribute.
#[derive(Clone, Copy, Debug)]
pub struct Attr<'a> {
    pub kind: u16,
    pub data: &'a [u8],
    /// Place in the message.
    pub at: usize,
}

impl<'a> Attr<'a> {
    /// Refuses the message because of this attribute.
    pub fn refuse(&self, errno: Errno) -> Refused {
        Refused { errno, at: Some(self.at) }
    }

    /// A 32-bit number.
    pub fn be32(&self) -> Outcome<u32> {
        let b: [u8; 4] = self.data.try_into().map_err(|_| Refused::from(ERANGE))?;
        Ok(u32::from_be_bytes(b))
    }

    /// A 16-bit number.
    pub fn be16(&self) -> Outcome<u16> {
        let b: [u8; 2] = self.data.try_into().map_err(|_| Refused::from(ERANGE))?;
        Ok(u16::from_be_bytes(b))
    }

    /// A 64-bit number.
    pub fn be64(&self) -> Outcome<u64> {
        let b: [u8; 8] = self.data.try_into().map_err(|_| Refused::from(ERANGE))?;
        Ok(u64::from_be_bytes(b))
    }

    /// A byte.
    pub fn byte(&self) -> Outcome<u8> {
        self.data.first().copied().ok_or(ERANGE.into())
    }

    /// A text of at most `max` bytes, with or without its terminator.
    pub fn text(&self, max: usize) -> Outcome<&'a str> {
        let end = self.data.iter().position(|c| *c == 0).unwrap_or(self.data.len());
        if end > max {
            return Err(ERANGE.into());
        }
        std::str::from_utf8(&self.data[..end]).map_err(|_| EINVAL.into())
    }

    /// The attributes inside.
    pub fn nested(&self) -> Outcome<Attrs<'a>> {
        Attrs::parse(self.data, self.at + 4)
    }
}

/// Attributes of a message or of a nested one; of each kind the last counts.
#[derive(Clone, Debug, Default)]
pub struct Attrs<'a>(Vec<Attr<'a>>);

impl<'a> Attrs<'a> {
    /// Splits `b`, which stands at `at` in the message: `EINVAL` for an impossible length.
    pub fn parse(mut b: &'a [u8], mut at: usize) -> Outcome<Attrs<'a>> {
        let mut v = Vec::new();
        while b.len() >= 4 {
            let len = usize::from(u16::from_le_bytes([b[0], b[1]]));
            if len < 4 || len > b.len() {
                return Err(EINVAL.into());
            }
            let kind = u16::from_le_bytes([b[2], b[3]]) & 0x3fff;
            v.push(Attr { kind, data: &b[4..len], at });
            let step = len.next_multiple_of(4).min(b.len());
            b = &b[step..];
            at += step;
        }
        Ok(Attrs(v))
    }

    /// The attribute.
    pub fn get(&self, kind: u16) -> Option<Attr<'a>> {
        self.0.iter().rev().find(|a| a.kind == kind).copied()
    }

    /// The attribute, without which the message means nothing.
    pub fn need(&self, kind: u16) -> Outcome<Attr<'a>> {
        self.get(kind).ok_or(EINVAL.into())
    }

    /// A 32-bit number, if there.
    pub fn be32(&self, kind: u16) -> Outcome<Option<u32>> {
        self.get(kind).map(|a| a.be32()).transpose()
    }

    /// A 64-bit number, if there.
    pub fn be64(&self, kind: u16) -> Outcome<Option<u64>> {
        self.get(kind).map(|a| a.be64()).transpose()
    }

    /// All in order.
    pub fn iter(&self) -> impl Iterator<Item = &Attr<'a>> {
        self.0.iter()
    }
}

/// Set on attributes that hold others.
const NESTED: u16 = 0x8000;

/// Attributes being written.
#[derive(Default)]
pub struct Out(pub Vec<u8>);

impl Out {
    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, data: &[u8]) {
        let len = u16::try_from(4 + data.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(&data[..usize::from(len) - 4]);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A 32-bit number.
    pub fn be32(&mut self, kind: u16, v: u32) {
        self.put(kind, &v.to_be_bytes());
    }

    /// A 64-bit number.
    pub fn be64(&mut self, kind: u16, v: u64) {
        self.put(kind, &v.to_be_bytes());
    }

    /// A text with its terminator.
    pub fn text(&mut self, kind: u16, v: &str) {
        let mut b = v.as_bytes().to_vec();
        b.push(0);
        self.put(kind, &b);
    }

    /// An attribute that holds what `f` writes.
    pub fn nest(&mut self, kind: u16, f: impl FnOnce(&mut Out)) {
        let at = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&(kind | NESTED).to_le_bytes());
        f(self);
        let len = u16::try_from(self.0.len() - at).unwrap_or(u16::MAX);
        self.0[at..at + 2].copy_from_slice(&len.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..120)) {
            fn look(a: &Attrs<'_>, depth: usize) {
                for x in a.iter() {
                    let _ = (x.be16(), x.be32(), x.be64(), x.byte(), x.text(20));
                    if depth < 4 && let Ok(n) = x.nested() {
                        look(&n, depth + 1);
                    }
                }
            }
            if let Ok(a) = Attrs::parse(&b, 20) {
                look(&a, 0);
            }
        }
    }

    #[test]
    fn places_are_counted_from_the_message() {
        let mut o = Out::default();
        o.text(1, "abc");
        o.nest(2, |o| {
            o.be32(3, 7);
            o.be64(4, 8);
        });
        let a = Attrs::parse(&o.0, 20).unwrap();
        assert_eq!(a.get(1).unwrap().text(9), Ok("abc"));
        assert_eq!(a.get(1).unwrap().text(2), Err(ERANGE.into()));
        let n = a.get(2).unwrap().nested().unwrap();
        assert_eq!((n.get(3).unwrap().at, n.get(4).unwrap().at), (32, 40));
        assert_eq!(n.get(4).unwrap().be64(), Ok(8));
    }
}
