//! Capture files (pcap, version 2.4, nanoseconds, in the host's byte order), as tcpdump(1) and Wireshark read them:
//! draft-ietf-opsawg-pcap.

const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// Major and minor version, as the two 16-bit numbers that follow the magic number.
const VERSION: [u16; 2] = [2, 4];
const NANOS: u64 = 1_000_000_000;

/// Length of the header of a file.
pub const FILE_HEADER: usize = 24;
/// Length of the header of a record.
pub const RECORD_HEADER: usize = 16;
/// The most that is kept of a packet when nothing else is said, as tcpdump(1) has it.
pub const SNAP_LEN: u32 = 262_144;

/// What the packets begin with (LINKTYPE_*).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkType {
    /// An Ethernet header.
    Ethernet,
    /// IPv4 or IPv6, without a header before it.
    Raw,
    /// The "cooked" header of captures of all interfaces ([`sll2`]).
    LinuxSll2,
}

impl LinkType {
    fn number(self) -> u32 {
        match self {
            Self::Ethernet => 1,
            Self::Raw => 101,
            Self::LinuxSll2 => 276,
        }
    }
}

/// The beginning of a file whose packets are cut at `snap_len` bytes.
pub fn file_header(link: LinkType, snap_len: u32) -> [u8; FILE_HEADER] {
    let mut b = [0; FILE_HEADER];
    b[..4].copy_from_slice(&MAGIC_NANOSECONDS.to_ne_bytes());
    b[4..6].copy_from_slice(&VERSION[0].to_ne_bytes());
    b[6..8].copy_from_slice(&VERSION[1].to_ne_bytes());
    b[16..20].copy_from_slice(&snap_len.to_ne_bytes());
    b[20..].copy_from_slice(&link.number().to_ne_bytes());
    b
}

/// What precedes `stored` bytes of a packet of `len` bytes; `stamp` is in nanoseconds since the epoch.
pub fn record_header(stamp: u64, stored: usize, len: usize) -> [u8; RECORD_HEADER] {
    let mut b = [0; RECORD_HEADER];
    let word = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let words = [(stamp / NANOS) as u32, (stamp % NANOS) as u32, word(stored), word(len)];
    for (to, w) in b.chunks_exact_mut(4).zip(words) {
        to.copy_from_slice(&w.to_ne_bytes());
    }
    b
}

/// Length of what [`sll2`] makes.
pub const SLL2_HEADER: usize = 20;

/// The header of a packet of a [`LinkType::LinuxSll2`] file: EtherType, index and ARPHRD_* of the interface, the
/// direction as packet(7) numbers it, and the sender's link address.
pub fn sll2(
    protocol: u16,
    interface: u32,
    hardware: u16,
    kind: u8,
    from: [u8; 6],
) -> [u8; SLL2_HEADER] {
    let mut b = [0; SLL2_HEADER];
    b[..2].copy_from_slice(&protocol.to_be_bytes());
    b[4..8].copy_from_slice(&interface.to_be_bytes());
    b[8..10].copy_from_slice(&hardware.to_be_bytes());
    b[10] = kind;
    b[11] = from.len() as u8;
    b[12..18].copy_from_slice(&from);
    b
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_as_the_format_has_them() {
        let f = file_header(LinkType::Ethernet, 96);
        let word = |b: &[u8], at: usize| u32::from_ne_bytes(b[at..at + 4].try_into().unwrap());
        assert_eq!((word(&f, 0), word(&f, 16), word(&f, 20)), (0xa1b2_3c4d, 96, 1));
        assert_eq!(f[4..8], [2u16.to_ne_bytes(), 4u16.to_ne_bytes()].concat());
        let r = record_header(5 * NANOS + 7, 60, 1500);
        assert_eq!([0, 4, 8, 12].map(|at| word(&r, at)), [5, 7, 60, 1500]);
        let s = sll2(0x800, 2, 1, 4, [2, 0, 0, 0, 0, 9]);
        assert_eq!(s, [8, 0, 0, 0, 0, 0, 0, 2, 0, 1, 4, 6, 2, 0, 0, 0, 0, 9, 0, 0]);
    }
}
