//! The filters of `ss EXPRESSION` (INET_DIAG_REQ_BYTECODE, <linux/inet_diag.h>): a program whose every step is a test
//! that goes forward by one of two distances. A socket passes when the program ends exactly at its end.

use std::net::IpAddr;

use uml_abi::Result;
use uml_abi::errno::EINVAL;

/// Length of an instruction: code, distance on success, distance otherwise.
const OP: usize = 4;
/// Most bytes of a program.
const MAX: usize = 64 << 10;

/// INET_DIAG_BC_*.
mod code {
    pub const NOP: u8 = 0;
    pub const JMP: u8 = 1;
    pub const S_GE: u8 = 2;
    pub const S_LE: u8 = 3;
    pub const D_GE: u8 = 4;
    pub const D_LE: u8 = 5;
    pub const AUTO: u8 = 6;
    pub const S_COND: u8 = 7;
    pub const D_COND: u8 = 8;
    pub const DEV_COND: u8 = 9;
    pub const MARK_COND: u8 = 10;
    pub const S_EQ: u8 = 11;
    pub const D_EQ: u8 = 12;
}

/// What is tested of a socket.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    pub family: u8,
    pub local: (IpAddr, u16),
    pub remote: (IpAddr, u16),
    /// SO_BINDTODEVICE.
    pub interface: u32,
    pub mark: u32,
    /// The program asked for the local port.
    pub bound: bool,
}

/// A checked program.
#[derive(Debug)]
pub struct Program<'a>(&'a [u8]);

fn op(b: &[u8]) -> Option<(u8, usize, usize)> {
    let b = b.get(..OP)?;
    Some((b[0], usize::from(b[1]), usize::from(u16::from_le_bytes([b[2], b[3]]))))
}

fn word(b: &[u8], at: usize) -> Option<u32> {
    b.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes)
}

/// Bytes of an instruction with its operands; none for an unknown one.
fn length(b: &[u8]) -> Option<usize> {
    Some(match *b.first()? {
        code::NOP | code::JMP | code::AUTO => OP,
        code::S_GE..=code::D_LE | code::S_EQ | code::D_EQ | code::DEV_COND => OP + 4,
        code::MARK_COND => OP + 8,
        code::S_COND | code::D_COND => {
            let (family, prefix) = (*b.get(OP)?, usize::from(*b.get(OP + 1)?));
            let address = match i32::from(family) {
                libc::AF_UNSPEC => 0,
                libc::AF_INET => 4,
                libc::AF_INET6 => 16,
                _ => return None,
            };
            if prefix > 8 * address {
                return None;
            }
            OP + 8 + address
        }
        _ => return None,
    })
}

impl<'a> Program<'a> {
    /// `EINVAL` for an unknown instruction, operands that are cut, a step that does not go forward over its own
    /// operands, or one that ends elsewhere than at an instruction or the end (success) or one step beyond it (failure).
    pub fn new(b: &'a [u8]) -> Result<Program<'a>> {
        if b.len() > MAX {
            return Err(EINVAL);
        }
        let mut starts = vec![false; b.len() + 1];
        let (mut at, mut targets) = (0, Vec::new());
        while at < b.len() {
            let rest = &b[at..];
            let (c, yes, no) = op(rest).ok_or(EINVAL)?;
            let own = length(rest).filter(|n| *n <= rest.len()).ok_or(EINVAL)?;
            if yes < own || yes % 4 != 0 || yes > rest.len() {
                return Err(EINVAL);
            }
            if c != code::NOP {
                if no < OP || no % 4 != 0 || no > rest.len() + OP {
                    return Err(EINVAL);
                }
                targets.push(at + no);
            }
            starts[at] = true;
            at += yes;
        }
        starts[b.len()] = true;
        if targets.iter().any(|t| *t <= b.len() && !starts[*t]) {
            return Err(EINVAL);
        }
        Ok(Program(b))
    }

    /// Whether a socket passes.
    pub fn accepts(&self, s: &Subject) -> bool {
        let mut at = 0;
        // Every step goes forward.
        while at < self.0.len() {
            let rest = &self.0[at..];
            let Some((c, yes, no)) = op(rest) else { return false };
            at += if test(c, rest, s).unwrap_or(false) { yes } else { no }.max(OP);
        }
        at == self.0.len()
    }
}

fn test(c: u8, b: &[u8], s: &Subject) -> Option<bool> {
    let port = || b.get(OP + 2..OP + 4).map(|p| u16::from_le_bytes([p[0], p[1]]));
    let (from, to) = (s.local.1, s.remote.1);
    Some(match c {
        code::NOP => true,
        code::S_GE => from >= port()?,
        code::S_LE => from <= port()?,
        code::S_EQ => from == port()?,
        code::D_GE => to >= port()?,
        code::D_LE => to <= port()?,
        code::D_EQ => to == port()?,
        code::AUTO => !s.bound,
        code::S_COND => host(b, s.family, s.local)?,
        code::D_COND => host(b, s.family, s.remote)?,
        code::DEV_COND => word(b, OP)? == s.interface,
        code::MARK_COND => s.mark & word(b, OP + 4)? == word(b, OP)?,
        _ => false,
    })
}

/// `struct inet_diag_hostcond`: family, length of the prefix, port (-1 is any), address.
fn host(b: &[u8], family: u8, (addr, port): (IpAddr, u16)) -> Option<bool> {
    let (wanted, prefix) = (*b.get(OP)?, u32::from(*b.get(OP + 1)?));
    let wanted_port = word(b, OP + 4)? as i32;
    if wanted_port != -1 && wanted_port != i32::from(port) {
        return Some(false);
    }
    let want = b.get(OP + 8..)?;
    let have = match (i32::from(wanted), addr) {
        (libc::AF_UNSPEC, _) => return Some(true),
        (libc::AF_INET, IpAddr::V4(a)) => a.octets().to_vec(),
        (libc::AF_INET, IpAddr::V6(a)) => match a.to_ipv4_mapped() {
            Some(a) => a.octets().to_vec(),
            None => return Some(false),
        },
        (libc::AF_INET6, IpAddr::V6(a)) if i32::from(family) == libc::AF_INET6 => {
            a.octets().to_vec()
        }
        _ => return Some(false),
    };
    let (whole, bits) = (prefix as usize / 8, prefix % 8);
    if want.get(..whole)? != have.get(..whole)? {
        return Some(false);
    }
    let mask = !(0xffu8.checked_shr(bits).unwrap_or(0));
    Some(bits == 0 || (want.get(whole)? ^ have.get(whole)?) & mask == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn subject() -> Subject {
        Subject {
            family: libc::AF_INET as u8,
            local: ("10.1.2.3".parse().unwrap(), 22),
            remote: ("192.168.0.9".parse().unwrap(), 40_000),
            interface: 0,
            mark: 6,
            bound: true,
        }
    }

    fn ports(c: u8, yes: u8, no: u16, port: u16) -> Vec<u8> {
        let mut b = vec![c, yes];
        b.extend(no.to_le_bytes());
        b.extend([0, 0]);
        b.extend(port.to_le_bytes());
        b
    }

    fn hosts(c: u8, addr: &[u8], prefix: u8, port: i32) -> Vec<u8> {
        let len = (12 + addr.len()) as u8;
        let family = [0, libc::AF_INET as u8, libc::AF_INET6 as u8][addr.len().div_ceil(8)];
        let mut b = vec![c, len];
        b.extend((u16::from(len) + 4).to_le_bytes());
        b.extend([family, prefix, 0, 0]);
        b.extend(port.to_le_bytes());
        b.extend(addr);
        b
    }

    #[test]
    fn ports_and_hosts_are_compared() {
        let s = subject();
        let passes = |b: &[u8]| Program::new(b).unwrap().accepts(&s);
        assert!(passes(&[]));
        assert!(passes(&ports(code::S_EQ, 8, 12, 22)));
        assert!(!passes(&ports(code::S_EQ, 8, 12, 23)));
        assert!(passes(&ports(code::D_GE, 8, 12, 40_000)));
        assert!(!passes(&ports(code::D_LE, 8, 12, 39_999)));
        assert!(passes(&hosts(code::S_COND, &[10, 1, 0, 0], 16, -1)));
        assert!(passes(&hosts(code::S_COND, &[10, 1, 4, 0], 21, 22)));
        assert!(!passes(&hosts(code::S_COND, &[10, 1, 4, 0], 22, 22)));
        assert!(!passes(&hosts(code::S_COND, &[10, 1, 0, 0], 16, 23)));
        assert!(passes(&hosts(code::D_COND, &[], 0, 40_000)));
        assert!(!passes(&hosts(code::D_COND, &[0; 16], 0, -1)));
        assert!(!passes(&[code::AUTO, 4, 8, 0]));
        let mapped = Subject {
            family: libc::AF_INET6 as u8,
            local: ("::ffff:10.1.2.3".parse().unwrap(), 22),
            ..s
        };
        let b = hosts(code::S_COND, &[10, 1, 2, 3], 32, -1);
        assert!(Program::new(&b).unwrap().accepts(&mapped));
    }

    #[test]
    fn either_of_two_ports() {
        // What ss makes of `sport = 1 or sport = 22`: the first, when it holds, jumps over the second.
        let mut b = ports(code::S_EQ, 8, 12, 1);
        b.extend([code::JMP, 4, 12, 0]);
        b.extend(ports(code::S_EQ, 8, 12, 22));
        let p = Program::new(&b).unwrap();
        assert!(p.accepts(&subject()));
        assert!(p.accepts(&Subject { local: (subject().local.0, 1), ..subject() }));
        assert!(!p.accepts(&Subject { local: (subject().local.0, 2), ..subject() }));
    }

    #[test]
    fn wrong_programs_are_refused() {
        for b in [
            &[code::NOP][..],
            &[99, 4, 8, 0],
            &[code::NOP, 0, 0, 0],
            &[code::NOP, 8, 0, 0],
            &[code::AUTO, 4, 12, 0],
            &[code::AUTO, 4, 6, 0],
            &[code::S_EQ, 4, 8, 0],
            &ports(code::S_EQ, 8, 4, 1),
            &hosts(code::S_COND, &[10, 0, 0, 0], 33, -1),
        ] {
            assert_eq!(Program::new(b).err(), Some(EINVAL), "{b:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(p) = Program::new(&b) {
                p.accepts(&subject());
            }
            Program(&b).accepts(&subject());
        }
    }
}
