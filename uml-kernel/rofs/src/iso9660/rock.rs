//! Rock Ridge: POSIX attributes in the system use areas of records (SUSP 1.12, RRIP 1.12).

use uml_abi::Result;
use uml_store::bytes::{rd8, rd32, slice};

use crate::date::{self, Timestamp};
use crate::iso9660::record::{Record, short_date, zone};
use crate::iso9660::{Iso9660, RockRidge};

/// Continuation areas of one record (RR_MAX_CE_ENTRIES of Linux).
const CONTINUATIONS: usize = 32;
/// Bytes of CD-ROM XA's own entry, behind which the root's may begin.
const XA: usize = 14;

/// PX.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Posix {
    pub mode: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
}

/// What the entries of a record say.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rock {
    pub posix: Option<Posix>,
    pub device: Option<(u32, u32)>,
    pub name: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub mtime: Option<Timestamp>,
    pub atime: Option<Timestamp>,
    pub ctime: Option<Timestamp>,
    /// Block of the directory that was moved (CL).
    pub moved_to: Option<u32>,
    /// This is where a moved directory is (RE); its place is elsewhere.
    pub moved_here: bool,
    /// The last component of `link` goes on.
    link_goes_on: bool,
}

impl Iso9660 {
    /// Rock Ridge, when the root's own record says that it is used.
    pub(crate) fn announced(&self) -> Option<RockRidge> {
        let r = self.raw_record(self.root).ok()?;
        [0, XA].into_iter().find_map(|at| {
            let e = slice(&r.area, at, 7);
            let sp = e.starts_with(b"SP") && slice(e, 4, 2) == [0xbe, 0xef];
            sp.then(|| RockRidge { root_skip: at, skip: usize::from(rd8(e, 6)) })
        })
    }

    /// The entries of a record.
    pub(crate) fn rock(&self, rr: RockRidge, r: &Record, root: bool) -> Result<Rock> {
        let mut out = Rock::default();
        let skip = if root { rr.root_skip } else { rr.skip };
        let mut area = r.area.get(skip..).unwrap_or_default().to_vec();
        for _ in 0..CONTINUATIONS {
            let Some((block, at, len)) = out.area(&area) else { break };
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if at >= 2048 || len > 2048 {
                break;
            }
            let pos = u64::from(block) * self.block + u64::from(at);
            area = self.disk.bytes(pos, len)?;
        }
        Ok(out)
    }
}

impl Rock {
    /// Takes the entries of one area; where it goes on: block, byte, length.
    fn area(&mut self, area: &[u8]) -> Option<(u32, u32, u32)> {
        let mut rest = area;
        let mut next = None;
        while rest.len() >= 4 {
            let len = usize::from(rest[2]);
            if len < 4 || len > rest.len() {
                break;
            }
            let (e, after) = rest.split_at(len);
            rest = after;
            match &e[..2] {
                b"CE" if len >= 28 => next = Some((rd32(e, 4), rd32(e, 12), rd32(e, 20))),
                b"PX" if len >= 36 => {
                    self.posix = Some(Posix {
                        mode: rd32(e, 4),
                        links: rd32(e, 12),
                        uid: rd32(e, 20),
                        gid: rd32(e, 28),
                    });
                }
                b"PN" if len >= 20 => {
                    let (high, low) = (rd32(e, 4), rd32(e, 12));
                    // Some write the whole number into the low half.
                    let whole = high == 0 && low > 0xff;
                    self.device = Some(if whole { (low >> 8, low & 0xff) } else { (high, low) });
                }
                b"NM" if len >= 5 => {
                    let flags = e[4];
                    // `.` and `..` are known without.
                    if flags & 6 == 0 {
                        let name = self.name.get_or_insert_default();
                        if name.len() + len - 5 <= 255 {
                            name.extend_from_slice(&e[5..]);
                        }
                    }
                }
                b"SL" if len >= 5 => self.link(e),
                b"TF" if len >= 5 => self.times(e),
                b"CL" if len >= 8 => self.moved_to = Some(rd32(e, 4)),
                b"RE" => self.moved_here = true,
                b"ST" => return None,
                _ => {}
            }
        }
        next
    }

    /// Adds the components of an SL entry.
    fn link(&mut self, e: &[u8]) {
        let text = self.link.get_or_insert_default();
        let mut rest = &e[5..];
        while let [flags, len, after @ ..] = rest {
            let Some((name, after)) = after.split_at_checked(usize::from(*len)) else { break };
            rest = after;
            let name: &[u8] = match flags & 0x0e {
                2 => b".",
                4 => b"..",
                8 => b"/",
                _ => name,
            };
            let separate = !self.link_goes_on && !text.is_empty() && *text != b"/";
            if text.len() + name.len() + 1 > crate::LINK_MAX {
                return;
            }
            if separate && !text.ends_with(b"/") {
                text.push(b'/');
            }
            text.extend_from_slice(name);
            self.link_goes_on = flags & 1 != 0;
        }
    }

    fn times(&mut self, e: &[u8]) {
        let flags = e[4];
        let len = if flags & 0x80 != 0 { 17 } else { 7 };
        let mut stamps = e[5..].chunks_exact(len);
        let mut next = |bit: u8| -> Option<Timestamp> {
            if flags & bit == 0 {
                return None;
            }
            let b = stamps.next()?;
            Some(if len == 17 { long_date(b) } else { short_date(b) })
        };
        // In this order; what is called creation is by some the change of attributes.
        let created = next(1);
        self.mtime = next(2).or(self.mtime);
        self.atime = next(4).or(self.atime);
        self.ctime = next(8).or(created).or(self.ctime);
    }
}

/// A date of 16 digits and a zone.
fn long_date(b: &[u8]) -> Timestamp {
    let n = |at: usize, len: usize| {
        slice(b, at, len).iter().fold(0i64, |n, d| n * 10 + i64::from(d.wrapping_sub(b'0') % 10))
    };
    let t = date::seconds(n(0, 4), n(4, 2).max(1), n(6, 2).max(1), n(8, 2), n(10, 2), n(12, 2));
    Timestamp { sec: t - zone(rd8(b, 16)), nsec: n(14, 2) as u32 * 10_000_000 }
}
