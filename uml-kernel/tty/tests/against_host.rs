//! The line discipline compared with the host's own, on a pseudo-terminal of the host: same settings, same
//! keys, same writes; echo and lines must be the same. Signal and flow-control characters are left out,
//! since when the host's queues are flushed depends on its scheduling.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::termios::{SetArg, tcgetattr, tcsetattr};
use nix::unistd::{read, write};
use proptest::prelude::*;
use uml_tty::ldisc::{Effects, LineDiscipline};
use uml_tty::termios::Termios;

/// Input and output flags that a case picks from.
const IFLAGS: &[u32] =
    &[libc::ICRNL, libc::INLCR, libc::IGNCR, libc::ISTRIP, libc::IUCLC, libc::IUTF8, libc::PARMRK];
const OFLAGS: &[u32] =
    &[libc::ONLCR, libc::OCRNL, libc::ONOCR, libc::ONLRET, libc::XTABS, libc::OLCUC];
const LFLAGS: &[u32] = &[
    libc::ICANON,
    libc::ECHO,
    libc::ECHOE,
    libc::ECHOK,
    libc::ECHOKE,
    libc::ECHOCTL,
    libc::ECHOPRT,
    libc::ECHONL,
    libc::IEXTEN,
];

fn pick(flags: &'static [u32]) -> impl Strategy<Value = u32> {
    any::<u32>().prop_map(move |bits| {
        flags.iter().enumerate().filter(|(i, _)| bits >> i & 1 != 0).map(|(_, f)| f).sum()
    })
}

/// Settings: mostly near to the usual ones, with canonical mode and echo on.
fn settings() -> impl Strategy<Value = Termios> {
    (pick(IFLAGS), pick(OFLAGS), pick(LFLAGS), any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(i, o, l, usual, opost, eol)| {
            let mut t = Termios::pty();
            t.iflag = i;
            t.oflag = o | if opost { libc::OPOST } else { 0 };
            t.lflag = l | if usual { libc::ICANON | libc::ECHO | libc::IEXTEN } else { 0 };
            if eol {
                t.cc[libc::VEOL] = b';';
                t.cc[libc::VEOL2] = b'|';
            }
            t
        })
}

/// Keys with the editing ones among them.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let key = prop_oneof![
        6 => 0x20u8..0x7f,
        2 => prop_oneof![Just(0x7fu8), Just(0x15), Just(0x17), Just(b'\t'), Just(0x16), Just(0x12)],
        2 => prop_oneof![Just(b'\r'), Just(b'\n'), Just(4u8), Just(b';'), Just(b'|'), Just(1u8)],
        1 => prop_oneof![Just(0xc3u8), Just(0xa9), Just(0xff), Just(0x80), Just(0xe2), Just(0x82)],
    ];
    prop::collection::vec(key, 0..120)
}

fn set(fd: impl AsFd, t: &Termios) {
    let mut raw: libc::termios = tcgetattr(fd.as_fd()).expect("termios").into();
    (raw.c_iflag, raw.c_oflag, raw.c_lflag) = (t.iflag, t.oflag, t.lflag);
    raw.c_cc[..19].copy_from_slice(&t.cc);
    tcsetattr(fd, SetArg::TCSANOW, &raw.into()).expect("settings");
}

/// One read(2); `None` when it would wait.
fn read_once(fd: &OwnedFd) -> Option<Vec<u8>> {
    let mut buf = [0; 8192];
    match read(fd, &mut buf) {
        Ok(n) => Some(buf[..n].to_vec()),
        Err(Errno::EAGAIN) => None,
        Err(e) => panic!("host read: {e}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn echo_and_lines_are_those_of_linux(
        t in settings(),
        prompt in prop::collection::vec(prop_oneof![Just(b'\t'), Just(b'\n'), Just(b'\r'), 0x20u8..0x7f], 0..20),
        keys in keys(),
    ) {
        let Ok(pair) = uml_host::pty::open_pts() else {
            eprintln!("skipped: the host gives us no pseudo-terminal");
            return Ok(());
        };
        let slave = pair.open_slave().expect("slave");
        use nix::fcntl::{FcntlArg, OFlag, fcntl};
        fcntl(&slave, FcntlArg::F_SETFL(OFlag::O_RDWR | OFlag::O_NONBLOCK)).expect("flags");
        let master = pair.into_master();
        set(&slave, &t);

        let mut d = LineDiscipline::new(t);
        let mut shown = Vec::new();
        d.output(&prompt, 4096, &mut shown);
        if !prompt.is_empty() {
            write(&slave, &prompt).expect("host write");
        }
        let mut fx = Effects::new(1 << 16);
        prop_assert_eq!(d.receive(&keys, &mut fx), keys.len());
        shown.extend_from_slice(&fx.echo);
        if !keys.is_empty() {
            write(&master, &keys).expect("host write");
        }

        // A read that finds nothing waits for the host's own processing first.
        loop {
            let theirs = read_once(&slave);
            let ours = d.read(8192);
            prop_assert_eq!(&ours, &theirs, "lines");
            if theirs.is_none() {
                break;
            }
        }
        let mut theirs = Vec::new();
        while let Some(part) = read_once(&master) {
            theirs.extend_from_slice(&part);
        }
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        prop_assert_eq!(text(&shown), text(&theirs), "echo");
    }
}
