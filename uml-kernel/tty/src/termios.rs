//! Terminal settings (termios(3)) and the layouts in which ioctl_tty(2) moves them.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Number of control characters in the kernel's structures (`NCCS` of `<asm/termbits.h>`, which
/// differs from the C library's).
pub const NCCS: usize = 19;

/// A control character with this value is switched off (`_POSIX_VDISABLE`).
pub const DISABLED: u8 = 0;

/// `struct termios` of TCGETS and TCSETS.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RawTermios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
}
const _: () = assert!(size_of::<RawTermios>() == 36);

/// `struct termios2` of TCGETS2 and TCSETS2.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RawTermios2 {
    pub base: RawTermios,
    pub ispeed: u32,
    pub ospeed: u32,
}
const _: () = assert!(size_of::<RawTermios2>() == 44);

/// `struct termio` of TCGETA and TCSETA.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RawTermio {
    pub iflag: u16,
    pub oflag: u16,
    pub cflag: u16,
    pub lflag: u16,
    pub line: u8,
    pub cc: [u8; 8],
    pub pad: u8,
}
const _: () = assert!(size_of::<RawTermio>() == 18);

/// `struct winsize` (ioctl_tty(2) TIOCGWINSZ).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct WinSize {
    pub rows: u16,
    pub cols: u16,
    pub xpixel: u16,
    pub ypixel: u16,
}

/// The settings of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Termios {
    pub iflag: u32,
    pub oflag: u32,
    pub cflag: u32,
    pub lflag: u32,
    pub line: u8,
    pub cc: [u8; NCCS],
    /// Bits per second.
    pub ispeed: u32,
    pub ospeed: u32,
}

/// Speeds that have a code in `c_cflag`, by code.
const SPEEDS: [(u32, u32); 31] = [
    (libc::B0, 0),
    (libc::B50, 50),
    (libc::B75, 75),
    (libc::B110, 110),
    (libc::B134, 134),
    (libc::B150, 150),
    (libc::B200, 200),
    (libc::B300, 300),
    (libc::B600, 600),
    (libc::B1200, 1200),
    (libc::B1800, 1800),
    (libc::B2400, 2400),
    (libc::B4800, 4800),
    (libc::B9600, 9600),
    (libc::B19200, 19_200),
    (libc::B38400, 38_400),
    (libc::B57600, 57_600),
    (libc::B115200, 115_200),
    (libc::B230400, 230_400),
    (libc::B460800, 460_800),
    (libc::B500000, 500_000),
    (libc::B576000, 576_000),
    (libc::B921600, 921_600),
    (libc::B1000000, 1_000_000),
    (libc::B1152000, 1_152_000),
    (libc::B1500000, 1_500_000),
    (libc::B2000000, 2_000_000),
    (libc::B2500000, 2_500_000),
    (libc::B3000000, 3_000_000),
    (libc::B3500000, 3_500_000),
    (libc::B4000000, 4_000_000),
];

/// Position of the input speed's code in `c_cflag`.
const IBSHIFT: u32 = 16;

impl Termios {
    /// What a terminal starts with: the settings of Linux's `tty_std_termios`.
    pub fn standard() -> Termios {
        let mut cc = [DISABLED; NCCS];
        for (index, value) in [
            (libc::VINTR, 0x03),
            (libc::VQUIT, 0x1c),
            (libc::VERASE, 0x7f),
            (libc::VKILL, 0x15),
            (libc::VEOF, 0x04),
            (libc::VMIN, 1),
            (libc::VSTART, 0x11),
            (libc::VSTOP, 0x13),
            (libc::VSUSP, 0x1a),
            (libc::VREPRINT, 0x12),
            (libc::VDISCARD, 0x0f),
            (libc::VWERASE, 0x17),
            (libc::VLNEXT, 0x16),
        ] {
            cc[index] = value;
        }
        Termios {
            iflag: libc::ICRNL | libc::IXON,
            oflag: libc::OPOST | libc::ONLCR,
            cflag: libc::B38400 | libc::CS8 | libc::CREAD | libc::HUPCL,
            lflag: libc::ISIG
                | libc::ICANON
                | libc::ECHO
                | libc::ECHOE
                | libc::ECHOK
                | libc::ECHOCTL
                | libc::ECHOKE
                | libc::IEXTEN,
            line: 0,
            cc,
            ispeed: 38_400,
            ospeed: 38_400,
        }
    }

    /// What a pseudo-terminal starts with (no HUPCL: there is no modem).
    pub fn pty() -> Termios {
        Termios { cflag: libc::B38400 | libc::CS8 | libc::CREAD, ..Termios::standard() }
    }

    /// All of `bits` of `c_iflag` set?
    pub fn i(&self, bits: u32) -> bool {
        self.iflag & bits == bits
    }

    /// All of `bits` of `c_oflag` set?
    pub fn o(&self, bits: u32) -> bool {
        self.oflag & bits == bits
    }

    /// All of `bits` of `c_lflag` set?
    pub fn l(&self, bits: u32) -> bool {
        self.lflag & bits == bits
    }

    /// True when `c` is the control character `index` and that one is not switched off.
    pub fn is_cc(&self, index: usize, c: u8) -> bool {
        c != DISABLED && self.cc[index] == c
    }

    /// As TCGETS shows it.
    pub fn to_raw(&self) -> RawTermios {
        RawTermios {
            iflag: self.iflag,
            oflag: self.oflag,
            cflag: self.cflag,
            lflag: self.lflag,
            line: self.line,
            cc: self.cc,
        }
    }

    /// As TCGETS2 shows it.
    pub fn to_raw2(&self) -> RawTermios2 {
        RawTermios2 { base: self.to_raw(), ispeed: self.ispeed, ospeed: self.ospeed }
    }

    /// As TCGETA shows it: the low halves.
    pub fn to_termio(&self) -> RawTermio {
        let mut cc = [0; 8];
        cc.copy_from_slice(&self.cc[..8]);
        RawTermio {
            iflag: self.iflag as u16,
            oflag: self.oflag as u16,
            cflag: self.cflag as u16,
            lflag: self.lflag as u16,
            line: self.line,
            cc,
            pad: 0,
        }
    }

    /// These settings after TCSETS* with `raw`; speeds follow the codes in `c_cflag`.
    pub fn with_raw(&self, raw: &RawTermios) -> Termios {
        self.with_raw2(&RawTermios2 { base: *raw, ispeed: self.ispeed, ospeed: self.ospeed })
    }

    /// These settings after TCSETS2: BOTHER takes the speeds as numbers.
    pub fn with_raw2(&self, raw: &RawTermios2) -> Termios {
        let mut t = Termios {
            iflag: raw.base.iflag,
            oflag: raw.base.oflag,
            cflag: raw.base.cflag,
            lflag: raw.base.lflag,
            line: raw.base.line,
            cc: raw.base.cc,
            ispeed: raw.ispeed,
            ospeed: raw.ospeed,
        };
        let ocode = t.cflag & libc::CBAUD;
        if ocode != libc::BOTHER {
            t.ospeed = speed(ocode).unwrap_or(self.ospeed);
        }
        // An input code of zero means: as the output (termios(3), cfsetispeed).
        let icode = (t.cflag >> IBSHIFT) & libc::CBAUD;
        if icode == 0 {
            t.ispeed = t.ospeed;
        } else if icode != libc::BOTHER {
            t.ispeed = speed(icode).unwrap_or(self.ispeed);
        }
        t
    }

    /// These settings after TCSETA* with the low halves in `raw`.
    pub fn with_termio(&self, raw: &RawTermio) -> Termios {
        let low = |old: u32, new: u16| (old & 0xffff_0000) | u32::from(new);
        let mut t = self.to_raw();
        t.iflag = low(t.iflag, raw.iflag);
        t.oflag = low(t.oflag, raw.oflag);
        t.cflag = low(t.cflag, raw.cflag);
        t.lflag = low(t.lflag, raw.lflag);
        t.line = raw.line;
        t.cc[..8].copy_from_slice(&raw.cc);
        self.with_raw(&t)
    }
}

fn speed(code: u32) -> Option<u32> {
    SPEEDS.iter().find(|(c, _)| *c == code).map(|(_, s)| *s)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speeds_follow_codes_and_numbers() {
        let t = Termios::standard();
        let mut raw = t.to_raw();
        raw.cflag = (raw.cflag & !libc::CBAUD) | libc::B115200;
        let t = t.with_raw(&raw);
        assert_eq!((t.ispeed, t.ospeed), (115_200, 115_200));
        let mut raw2 = t.to_raw2();
        raw2.base.cflag = (raw2.base.cflag & !libc::CBAUD) | libc::BOTHER;
        raw2.ospeed = 12_345;
        let t = t.with_raw2(&raw2);
        assert_eq!((t.ispeed, t.ospeed), (12_345, 12_345));
    }

    #[test]
    fn termio_keeps_high_halves() {
        let mut t = Termios::standard();
        t.iflag |= 0x4_0000;
        let mut raw = t.to_termio();
        raw.lflag = 0;
        let t = t.with_termio(&raw);
        assert_eq!(t.iflag & 0x4_0000, 0x4_0000);
        assert_eq!(t.lflag, 0);
    }
}
