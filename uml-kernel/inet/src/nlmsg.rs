//! Netlink messages and attributes as bytes (netlink(7), rtnetlink(7)), and how requests are answered.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_ipc::netlink::NetlinkSocket;

/// Length of `struct nlmsghdr`.
pub const HEADER: usize = 16;
/// Bytes of a datagram of a dump: what the smallest buffers of programs hold.
const DATAGRAM: usize = 3776;

/// NLM_F_*.
pub mod flag {
    pub const REQUEST: u16 = 0x1;
    pub const MULTI: u16 = 0x2;
    pub const ACK: u16 = 0x4;
    pub const DUMP: u16 = 0x300;
    pub const REPLACE: u16 = 0x100;
    pub const EXCL: u16 = 0x200;
    pub const CREATE: u16 = 0x400;
    pub const APPEND: u16 = 0x800;
}

/// RTM_*.
pub mod kind {
    pub const ERROR: u16 = 2;
    pub const DONE: u16 = 3;
    pub const MIN: u16 = 16;
    pub const NEWLINK: u16 = 16;
    pub const DELLINK: u16 = 17;
    pub const GETLINK: u16 = 18;
    pub const SETLINK: u16 = 19;
    pub const NEWLINKPROP: u16 = 108;
    pub const DELLINKPROP: u16 = 109;
    pub const NEWADDR: u16 = 20;
    pub const DELADDR: u16 = 21;
    pub const GETADDR: u16 = 22;
    pub const NEWROUTE: u16 = 24;
    pub const DELROUTE: u16 = 25;
    pub const GETROUTE: u16 = 26;
    pub const NEWNEIGH: u16 = 28;
    pub const DELNEIGH: u16 = 29;
    pub const GETNEIGH: u16 = 30;
    pub const NEWRULE: u16 = 32;
    pub const DELRULE: u16 = 33;
    pub const GETRULE: u16 = 34;
    pub const GETQDISC: u16 = 38;
    pub const GETTCLASS: u16 = 42;
    pub const GETTFILTER: u16 = 46;
    pub const GETNEIGHTBL: u16 = 66;
    pub const GETADDRLABEL: u16 = 74;
    pub const GETNETCONF: u16 = 82;
    pub const NEWNSID: u16 = 88;
    pub const GETNSID: u16 = 90;
}

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    pub len: u32,
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
}

impl Header {
    /// The header at the start of `b`, if there is one.
    pub fn parse(b: &[u8]) -> Option<Header> {
        let b = b.get(..HEADER)?;
        let word = |i: usize| u32::from_le_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        let half = |i: usize| u16::from_le_bytes([b[i], b[i + 1]]);
        Some(Header { len: word(0), kind: half(4), flags: half(6), seq: word(8) })
    }
}

/// A message being written.
pub struct Message(Vec<u8>);

impl Message {
    /// A message with its fixed part.
    pub fn new(kind: u16, flags: u16, seq: u32, portid: u32, fixed: &[u8]) -> Message {
        let mut b = vec![0; HEADER];
        b[4..6].copy_from_slice(&kind.to_le_bytes());
        b[6..8].copy_from_slice(&flags.to_le_bytes());
        b[8..12].copy_from_slice(&seq.to_le_bytes());
        b[12..16].copy_from_slice(&portid.to_le_bytes());
        b.extend_from_slice(fixed);
        Message(b)
    }

    /// Appends an attribute.
    pub fn put(&mut self, kind: u16, data: &[u8]) {
        let len = (4 + data.len()) as u16;
        self.0.extend_from_slice(&len.to_le_bytes());
        self.0.extend_from_slice(&kind.to_le_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    /// A 32-bit attribute.
    pub fn word(&mut self, kind: u16, v: u32) {
        self.put(kind, &v.to_le_bytes());
    }

    /// A one-byte attribute.
    pub fn byte(&mut self, kind: u16, v: u8) {
        self.put(kind, &[v]);
    }

    /// A 16-bit attribute.
    pub fn half(&mut self, kind: u16, v: u16) {
        self.put(kind, &v.to_le_bytes());
    }

    /// A text attribute with its terminator.
    pub fn text(&mut self, kind: u16, v: &str) {
        let mut b = v.as_bytes().to_vec();
        b.push(0);
        self.put(kind, &b);
    }

    /// An address.
    pub fn ip(&mut self, kind: u16, a: IpAddr) {
        match a {
            IpAddr::V4(a) => self.put(kind, &a.octets()),
            IpAddr::V6(a) => self.put(kind, &a.octets()),
        }
    }

    /// The finished message.
    pub fn finish(mut self) -> Vec<u8> {
        let len = self.0.len() as u32;
        self.0[..4].copy_from_slice(&len.to_le_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self.0
    }
}

/// NLA_F_NESTED, where programs look for it.
pub const NESTED: u16 = 0x8000;

/// The attributes of a nested one, written as those of a message.
pub fn nest(f: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut m = Message(Vec::new());
    f(&mut m);
    m.0
}

/// The attributes of a nested one, for [`Message::put`].
pub fn nested(parts: &[(u16, &[u8])]) -> Vec<u8> {
    let mut m = Message(Vec::new());
    for (k, d) in parts {
        m.put(*k, d);
    }
    m.0
}

/// Has `serve` answer every request in `data`, a whole message each; an error it returns, the end of a dump (`dumps` says
/// which they are) and the acknowledgement that was asked for follow what it answered.
pub fn answer_all(
    from: &Arc<NetlinkSocket>,
    mut data: &[u8],
    dumps: impl Fn(&Header) -> bool,
    mut serve: impl FnMut(Header, &[u8], &mut Reply) -> Result<()>,
) {
    while let Some(head) = Header::parse(data) {
        let len = head.len as usize;
        if len < HEADER || len > data.len() {
            break;
        }
        let whole = &data[..len];
        data = &data[len.next_multiple_of(4).min(data.len())..];
        // Others are only acknowledged.
        let request = head.flags & flag::REQUEST != 0 && head.kind >= kind::MIN;
        let mut reply = Reply::new(head.seq, from.portid());
        let served = if request { serve(head, &whole[HEADER..], &mut reply) } else { Ok(()) };
        match served {
            Err(e) => reply.error(e.raw(), whole),
            Ok(()) if request && dumps(&head) => reply.done(),
            Ok(()) if head.flags & flag::ACK != 0 => reply.error(0, whole),
            Ok(()) => {}
        }
        // A program that does not read loses it all and is told by ENOBUFS.
        let _ = from.deliver_answer(&reply.datagrams());
    }
}

/// What a request is answered with.
pub struct Reply {
    seq: u32,
    portid: u32,
    /// Why a dump ended before its end.
    failed: i32,
    /// The end of a dump is a datagram of its own.
    end_apart: bool,
    out: Vec<Vec<u8>>,
}

impl Reply {
    /// Answers to the request `seq` of `portid`.
    pub fn new(seq: u32, portid: u32) -> Reply {
        Reply { seq, portid, failed: 0, end_apart: false, out: Vec::new() }
    }

    /// Begins a message.
    pub fn message(&self, kind: u16, multi: bool, fixed: &[u8]) -> Message {
        let flags = if multi { flag::MULTI } else { 0 };
        Message::new(kind, flags, self.seq, self.portid, fixed)
    }

    /// Adds a finished message.
    pub fn push(&mut self, m: Message) {
        let b = m.finish();
        match self.out.last_mut() {
            Some(last) if last.len() + b.len() <= DATAGRAM => last.extend_from_slice(&b),
            _ => self.out.push(b),
        }
    }

    /// The end of a dump will not share a datagram, as that of Linux' lists of sockets does not: ss(8) reads on to it after an
    /// error and has done then.
    pub fn end_apart(&mut self) {
        self.end_apart = true;
    }

    /// The end of a dump will tell this error.
    pub fn end_with(&mut self, errno: i32) {
        self.failed = errno;
    }

    /// The end of a dump.
    pub fn done(&mut self) {
        let m = self.message(kind::DONE, true, &(-self.failed).to_le_bytes());
        if self.end_apart {
            self.out.push(m.finish());
        } else {
            self.push(m);
        }
    }

    /// An error, or with 0 an acknowledgement, of the request `whole`.
    pub fn error(&mut self, errno: i32, whole: &[u8]) {
        let mut fixed = (-errno).to_le_bytes().to_vec();
        // The whole request with errors, its header with acknowledgements.
        fixed.extend_from_slice(if errno == 0 { &whole[..HEADER] } else { whole });
        let m = self.message(kind::ERROR, false, &fixed);
        self.out.push(m.finish());
    }

    /// The datagrams in order.
    pub fn datagrams(self) -> Vec<Vec<u8>> {
        self.out
    }
}

/// Attributes of a message by kind; the last of a kind counts.
pub struct Attrs<'a>(Vec<(u16, &'a [u8])>);

impl<'a> Attrs<'a> {
    /// Splits what follows the fixed part of `fixed` bytes: `EINVAL` for a length that is wrong.
    pub fn parse(body: &'a [u8], fixed: usize) -> Result<Attrs<'a>> {
        let mut b = match body.get(fixed.next_multiple_of(4)..) {
            Some(b) => b,
            None if body.len() >= fixed => &[],
            None => return Err(EINVAL),
        };
        let mut v = Vec::new();
        while b.len() >= 4 {
            let len = usize::from(u16::from_le_bytes([b[0], b[1]]));
            if len < 4 || len > b.len() {
                return Err(EINVAL);
            }
            let kind = u16::from_le_bytes([b[2], b[3]]) & 0x3fff;
            v.push((kind, &b[4..len]));
            b = &b[len.next_multiple_of(4).min(b.len())..];
        }
        Ok(Attrs(v))
    }

    /// Every attribute in its place.
    pub fn all(&self) -> impl Iterator<Item = (u16, &'a [u8])> + '_ {
        self.0.iter().copied()
    }

    /// The attribute's bytes.
    pub fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.0.iter().rev().find(|(k, _)| *k == kind).map(|(_, d)| *d)
    }

    /// A 32-bit attribute: `EINVAL` when it is shorter.
    pub fn word(&self, kind: u16) -> Result<Option<u32>> {
        let Some(d) = self.get(kind) else { return Ok(None) };
        let b = d.get(..4).ok_or(EINVAL)?;
        Ok(Some(u32::from_le_bytes([b[0], b[1], b[2], b[3]])))
    }

    /// A text.
    pub fn text(&self, kind: u16) -> Result<Option<&'a str>> {
        let Some(d) = self.get(kind) else { return Ok(None) };
        let end = d.iter().position(|c| *c == 0).unwrap_or(d.len());
        std::str::from_utf8(&d[..end]).map(Some).map_err(|_| EINVAL)
    }

    /// An address of the family.
    pub fn ip(&self, kind: u16, family: i32) -> Result<Option<IpAddr>> {
        let Some(d) = self.get(kind) else { return Ok(None) };
        ip_of(d, family).map(Some)
    }
}

/// An address of the family from its bytes.
pub fn ip_of(d: &[u8], family: i32) -> Result<IpAddr> {
    match family {
        libc::AF_INET => {
            let b: [u8; 4] = d.try_into().map_err(|_| EINVAL)?;
            Ok(Ipv4Addr::from(b).into())
        }
        libc::AF_INET6 => {
            let b: [u8; 16] = d.try_into().map_err(|_| EINVAL)?;
            Ok(Ipv6Addr::from(b).into())
        }
        _ => Err(EAFNOSUPPORT),
    }
}

/// AF_INET or AF_INET6 of an address.
pub fn family_of(a: IpAddr) -> u8 {
    if a.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn attributes_come_back() {
        let mut m = Message::new(kind::NEWLINK, 0, 7, 9, &[0; 16]);
        m.text(3, "eth0");
        m.word(4, 1500);
        m.ip(1, "1.2.3.4".parse().unwrap());
        let b = m.finish();
        assert_eq!(Header::parse(&b).unwrap().len as usize, b.len());
        let a = Attrs::parse(&b[HEADER..], 16).unwrap();
        assert_eq!(a.text(3), Ok(Some("eth0")));
        assert_eq!(a.word(4), Ok(Some(1500)));
        assert_eq!(a.ip(1, libc::AF_INET), Ok(Some("1.2.3.4".parse().unwrap())));
        assert_eq!(a.ip(1, libc::AF_INET6), Err(EINVAL));
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(b in proptest::collection::vec(any::<u8>(), 0..100), fixed in 0usize..20) {
            let _ = Header::parse(&b);
            if let Ok(a) = Attrs::parse(&b, fixed) {
                for k in 0..20 {
                    let _ = (a.word(k), a.text(k), a.ip(k, libc::AF_INET), a.ip(k, libc::AF_INET6));
                }
            }
        }
    }
}
