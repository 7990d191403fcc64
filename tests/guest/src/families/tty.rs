//! Terminals: pseudo-terminal pairs, termios, canonical editing, echo, output processing, flow control, packet mode.

use crate::sys::*;
use crate::{c, cases, sc};

cases! {
    pair, pair_open_close, termios_roundtrip, termios_fields, canonical_lines, canonical_editing, canonical_long_line, echo_modes, raw_mode, min_and_time, output_processing, input_mapping, eof_character, packet_mode, flow_control, queue_ioctls, extproc_and_exclusive, locked_slave, nonblocking, devpts_names, sti_and_legacy, ioctl_errors, poll_states,
}

pub(super) fn master() -> i32 {
    let m = c!(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC)).fd();
    assert!(c!(libc::grantpt(m)).is_ok() && c!(libc::unlockpt(m)).is_ok());
    m
}

pub(super) fn slave_name(m: i32) -> String {
    let mut n = 0i32;
    unsafe { libc::ioctl(m, libc::TIOCGPTN, &mut n) };
    format!("/dev/pts/{n}")
}

pub(super) fn slave(m: i32) -> i32 {
    open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC).fd()
}

pub(super) fn ptys() -> (i32, i32) {
    let m = master();
    (m, slave(m))
}

pub(super) fn attr(fd: i32) -> libc::termios {
    let mut t: libc::termios = unsafe { std::mem::zeroed() };
    let r = c!(libc::tcgetattr(fd, &mut t));
    assert!(r.is_ok(), "tcgetattr: {r}");
    t
}

pub(super) fn set_attr(fd: i32, t: &libc::termios) -> R {
    c!(libc::tcsetattr(fd, libc::TCSANOW, t))
}

pub(super) fn change(fd: i32, f: impl FnOnce(&mut libc::termios)) {
    let mut t = attr(fd);
    f(&mut t);
    set_attr(fd, &t);
}

pub(super) fn no_echo(fd: i32) {
    change(fd, |t| t.c_lflag &= !libc::ECHO);
}

fn nonblock(fd: i32) {
    unsafe { libc::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK) };
}

/// What the master can read; the output of a pty passes through a work queue, so it is waited for.
pub(super) fn drain(m: i32, want: usize) -> String {
    let mut out = Vec::new();
    while out.len() < want {
        match read(m, 4096) {
            Ok(b) => out.extend(b),
            Err(r) => return format!("{} then {r}", quoted(&out)),
        }
    }
    quoted(&out)
}

/// Waits until the slave has something to read, or says that nothing came of a marker typed behind.
pub(super) fn typed(m: i32, s: i32, text: &[u8], n: usize) -> String {
    write(m, text);
    read_text(s, n)
}

fn pair() {
    let (m, s) = ptys();
    say("isatty", format!("{} {}", unsafe { libc::isatty(m) }, unsafe { libc::isatty(s) }));
    write(m, b"typed\n");
    say("slave reads", read_text(s, 100));
    say("master sees the echo", drain(m, 7));
    write(s, b"output\n");
    say("master reads", drain(m, 8));
    let mut st: libc::stat = unsafe { std::mem::zeroed() };
    unsafe { libc::fstat(s, &mut st) };
    say("slave's major", libc::major(st.st_rdev));
    unsafe { libc::fstat(m, &mut st) };
    say("master is 5:2", format!("{}:{}", libc::major(st.st_rdev), libc::minor(st.st_rdev)));
    say(
        "/proc link",
        std::fs::read_link(format!("/proc/self/fd/{s}")).unwrap().to_str().unwrap()
            == slave_name(m),
    );
    let mut b = [0i8; 100];
    say("ttyname", unsafe { libc::ttyname_r(s, b.as_mut_ptr(), 100) });
}

fn pair_open_close() {
    let m = master();
    nonblock(m);
    say("no slave open yet", read_text(m, 1));
    let s = slave(m);
    say("slave open, nothing", read_text(m, 1));
    write(s, b"bye");
    close(s);
    unsafe { libc::fcntl(m, libc::F_SETFL, 0) };
    say("data of the closed slave", drain(m, 3));
    nonblock(m);
    say("then EIO", read_text(m, 1));
    let s = slave(m);
    say("reopened", read_text(m, 1));
    write(m, b"again\n");
    say("works again", read_text(s, 10));
    close(m);
    say("slave after the master closed: read", read_text(s, 10));
    say("write", write(s, b"x"));
    let mut t: libc::termios = unsafe { std::mem::zeroed() };
    say("ioctl", c!(libc::tcgetattr(s, &mut t)));
}

fn termios_roundtrip() {
    let (m, s) = ptys();
    let mut t = attr(s);
    t.c_lflag = libc::ICANON | libc::NOFLSH;
    t.c_iflag = libc::ICRNL | libc::ISTRIP;
    t.c_oflag = libc::OPOST | libc::ONOCR;
    t.c_cc[libc::VINTR] = b'X';
    t.c_cc[libc::VMIN] = 7;
    say("set", set_attr(s, &t));
    let u = attr(s);
    say(
        "read back",
        format!(
            "{:#o} {:#o} {:#o} {} {}",
            u.c_lflag,
            u.c_iflag,
            u.c_oflag,
            u.c_cc[libc::VINTR],
            u.c_cc[libc::VMIN]
        ),
    );
    let v = attr(m);
    say("the master shows the slave's", v.c_lflag == u.c_lflag && v.c_iflag == u.c_iflag);
    unsafe { libc::cfsetspeed(&mut t, libc::B115200) };
    set_attr(s, &t);
    say("speed", unsafe { libc::cfgetospeed(&attr(s)) } == libc::B115200);
    for (n, a) in [("TCSADRAIN", libc::TCSADRAIN), ("TCSAFLUSH", libc::TCSAFLUSH), ("bad", 77)] {
        say(n, c!(libc::tcsetattr(s, a, &t)));
    }
    say("not a terminal", c!(libc::tcgetattr(0, &mut t)));
    say("bad pointer", sc!(libc::SYS_ioctl, s, libc::TCGETS, 8));
}

fn termios_fields() {
    let (_m, s) = ptys();
    let t = attr(s);
    say("c_iflag", format!("{:#o}", t.c_iflag));
    say("c_oflag", format!("{:#o}", t.c_oflag));
    say("c_cflag", format!("{:#o}", t.c_cflag));
    say("c_lflag", format!("{:#o}", t.c_lflag));
    say("c_cc", format!("{:?}", &t.c_cc[..17]));
    let mut k = [0u8; 44];
    say("TCGETS2", sc!(libc::SYS_ioctl, s, 0x802c_542au64, k.as_mut_ptr()));
    say(
        "speeds",
        format!(
            "{} {}",
            u32::from_ne_bytes(k[36..40].try_into().unwrap()),
            u32::from_ne_bytes(k[40..44].try_into().unwrap())
        ),
    );
}

fn canonical_lines() {
    let (m, s) = ptys();
    no_echo(s);
    write(m, b"one\ntwo\nthr");
    say("first line", read_text(s, 100));
    say("second", read_text(s, 100));
    nonblock(s);
    say("unfinished", read_text(s, 100));
    write(m, b"ee\n");
    say("finished", read_text(s, 100));
    write(m, b"abcdef\n");
    say("in parts", format!("{} {} {}", read_text(s, 2), read_text(s, 2), read_text(s, 10)));
    write(m, b"a\x00b\n");
    say("NUL passes", read_text(s, 10));
    change(s, |t| t.c_cc[libc::VEOL] = b';');
    write(m, b"x;y\n");
    say("VEOL ends a line too", format!("{} {}", read_text(s, 10), read_text(s, 10)));
}

fn canonical_editing() {
    let (m, s) = ptys();
    no_echo(s);
    let t = |text: &[u8]| typed(m, s, text, 100);
    say("erase", t(b"abx\x7fc\n"));
    say("erase at the start", t(b"\x7f\x7fa\n"));
    say("kill", t(b"junk\x15good\n"));
    say("word erase", t(b"one two  three\x17four\n"));
    say("word erase over blanks", t(b"one two   \x17x\n"));
    say("literal next", t(b"a\x16\x7fb\n"));
    say("literal newline", {
        write(m, b"p\x16\nq\n");
        read_text(s, 100)
    });
    say("reprint changes nothing", t(b"ab\x12c\n"));
    change(s, |t| t.c_iflag |= libc::IUTF8);
    say("erase of a UTF-8 character", t("a\u{e9}\u{20ac}\x7fz\n".as_bytes()));
    change(s, |t| t.c_lflag &= !libc::IEXTEN);
    say("without IEXTEN no word erase", t(b"one two\x17\n"));
    change(s, |t| t.c_cc[libc::VERASE] = b'#');
    say("another erase character", t(b"abc##d\x7f\n"));
    change(s, |t| t.c_cc[libc::VKILL] = 0);
    say("disabled kill", t(b"a\x15b\n"));
}

fn canonical_long_line() {
    let (m, s) = ptys();
    no_echo(s);
    // A line holds 4095 bytes and its newline; the rest is dropped.
    nonblock(m);
    write(m, &[b'x'; 4094]);
    write(m, &[b'y'; 100]);
    write(m, b"\n");
    let b = read(s, 10_000).unwrap();
    say("bytes", b.len());
    say("ends with newline", b.ends_with(b"\n"));
    say("next line is clean", typed(m, s, b"next\n", 100));
}

fn echo_modes() {
    let (m, s) = ptys();
    let t = |text: &[u8], n: usize| {
        write(m, text);
        drain(m, n)
    };
    say("plain", t(b"ab\n", 4));
    say("control characters as ^X", t(b"\x01\x1b\n", 6));
    say("erase", t(b"ab\x7f\n", 7));
    say("erase of ^X", t(b"\x01\x7f\n", 10));
    say("tab is not ^I", t(b"\tx\n", 4));
    say("kill with ECHOKE", t(b"ab\x15\n", 10));
    change(s, |t| t.c_lflag &= !libc::ECHOKE);
    say("kill with ECHOK", t(b"ab\x15\n", 8));
    change(s, |t| t.c_lflag &= !libc::ECHOE);
    say("erase without ECHOE", t(b"ab\x7f\n", 5));
    change(s, |t| t.c_lflag &= !libc::ECHOCTL);
    say("control without ECHOCTL", t(b"\x01\n", 3));
    change(s, |t| t.c_lflag = (t.c_lflag & !libc::ECHO) | libc::ECHONL);
    say("only newline", t(b"secret\n", 2));
    change(s, |t| {
        t.c_lflag = (t.c_lflag | libc::ECHO | libc::ECHOPRT | libc::ECHOE) & !libc::ECHONL
    });
    say("ECHOPRT", t(b"abc\x7f\x7fx\n", 10));
    let _ = s;
}

fn raw(fd: i32) {
    change(fd, |t| unsafe { libc::cfmakeraw(t) });
}

fn raw_mode() {
    let (m, s) = ptys();
    raw(s);
    say("no line, no editing", typed(m, s, b"a\x7f\x03\x1a\r\x04", 100));
    write(s, b"x\ny");
    say("output as it is", drain(m, 3));
    nonblock(m);
    say("no echo", read_text(m, 10));
    write(m, b"z");
    say("a byte at a time", read_text(s, 1));
    // Turning canonical mode on and off with input waiting.
    write(m, b"waiting");
    say("waiting raw input", {
        let mut n = 0i32;
        while n < 7 {
            unsafe { libc::ioctl(s, libc::FIONREAD, &mut n) };
        }
        n
    });
    change(s, |t| t.c_lflag |= libc::ICANON);
    write(m, b"\n");
    say("read as a line", read_text(s, 100));
}

fn min_and_time() {
    let (m, s) = ptys();
    raw(s);
    let set = |min: u8, time: u8| {
        change(s, |t| {
            t.c_cc[libc::VMIN] = min;
            t.c_cc[libc::VTIME] = time;
        })
    };
    set(0, 0);
    say("MIN 0 TIME 0, nothing", read_text(s, 10));
    set(0, 1);
    say("MIN 0 TIME 1, nothing", read_text(s, 10));
    set(3, 0);
    let pid = child(|| {
        let r = read_text(s, 10);
        (r == "\"abc\"") as i32
    });
    write(m, b"ab");
    await_sleep(pid);
    write(m, b"c");
    say("MIN 3 waits for three", reap(pid));
    write(m, b"xyz12");
    say("less asked than MIN", {
        let mut n = 0i32;
        while n < 5 {
            unsafe { libc::ioctl(s, libc::FIONREAD, &mut n) };
        }
        read_text(s, 2)
    });
    say("rest", read_text(s, 10));
    set(10, 1);
    write(m, b"part");
    say("MIN 10 TIME 1 gives what came", read_text(s, 20));
}

fn output_processing() {
    let (m, s) = ptys();
    let out = |text: &[u8], n: usize| {
        write(s, text);
        drain(m, n)
    };
    say("ONLCR", out(b"a\nb", 4));
    change(s, |t| t.c_oflag &= !libc::ONLCR);
    say("without", out(b"a\nb", 3));
    change(s, |t| t.c_oflag |= libc::OCRNL);
    say("OCRNL", out(b"a\rb", 3));
    change(s, |t| t.c_oflag = libc::OPOST | libc::TAB3);
    say("TAB3", out(b"\ra\tb", 10));
    change(s, |t| t.c_oflag = libc::OPOST | libc::OLCUC);
    say("OLCUC", out(b"abC", 3));
    change(s, |t| t.c_oflag = libc::OPOST | libc::ONOCR);
    say("ONOCR at column 0", out(b"\r\rx", 2));
    change(s, |t| t.c_oflag = libc::ONLCR | libc::OLCUC);
    say("no OPOST", out(b"a\n", 2));
}

fn input_mapping() {
    let (m, s) = ptys();
    change(s, |t| {
        t.c_lflag &= !(libc::ICANON | libc::ECHO | libc::ISIG);
        t.c_iflag = 0;
    });
    let with = |f: u32, text: &[u8], n: usize| {
        change(s, |t| t.c_iflag = f);
        write(m, text);
        let mut have = 0i32;
        while (have as usize) < n {
            unsafe { libc::ioctl(s, libc::FIONREAD, &mut have) };
        }
        read_text(s, 100)
    };
    say("none", with(0, b"a\r\nB\xff", 5));
    say("ICRNL", with(libc::ICRNL, b"a\r\n", 3));
    say("INLCR", with(libc::INLCR, b"a\r\n", 3));
    say("IGNCR", with(libc::IGNCR, b"a\r\nb", 3));
    say("ISTRIP", with(libc::ISTRIP, b"\xe1", 1));
    say("IUCLC", {
        change(s, |t| t.c_lflag |= libc::IEXTEN);
        with(libc::IUCLC, b"AbC", 3)
    });
    say("PARMRK doubles 0xff", with(libc::PARMRK, b"\xffx", 3));
}

fn eof_character() {
    let (m, s) = ptys();
    no_echo(s);
    say("at the start of a line", typed(m, s, b"\x04", 10));
    say("after text", typed(m, s, b"abc\x04", 10));
    say("then a line", typed(m, s, b"def\n", 10));
    write(m, b"x\n\x04y\n");
    say(
        "line, end, line",
        format!("{} {} {}", read_text(s, 10), read_text(s, 10), read_text(s, 10)),
    );
    say("text that fills the buffer, then end", {
        write(m, b"12345\x04\x04");
        format!("{} {}", read_text(s, 5), read_text(s, 5))
    });
}

/// A child in a session of its own with the slave as controlling terminal.
pub(super) fn session(m: i32, f: impl FnOnce(i32) -> i32) -> i32 {
    child(|| {
        unsafe { libc::setsid() };
        let s = open(&slave_name(m), libc::O_RDWR).fd();
        f(s)
    })
}

fn packet_mode() {
    let (m, s) = ptys();
    let on = 1i32;
    say("on", c!(libc::ioctl(m, libc::TIOCPKT, &on)));
    write(s, b"data");
    say("data", drain(m, 5));
    unsafe { libc::tcflush(s, libc::TCIFLUSH) };
    say("flush", drain(m, 1));
    change(s, |t| t.c_iflag &= !libc::IXON);
    say("no flow control by keys", drain(m, 1));
    unsafe { libc::tcflow(s, libc::TCOOFF) };
    say("stopped", drain(m, 1));
    unsafe { libc::tcflow(s, libc::TCOON) };
    say("started", drain(m, 1));
    let mut v = 0i32;
    say("get", format!("{} ", c!(libc::ioctl(m, 0x8004_5438u64, &mut v))));
    say("value", v);
    say("on the slave", c!(libc::ioctl(s, libc::TIOCPKT, &on)));
}

fn flow_control() {
    let (m, s) = ptys();
    no_echo(s);
    write(m, b"\x13");
    // The stop has been taken once a following line has been read.
    write(m, b"go\n");
    say("a line behind the stop", read_text(s, 10));
    nonblock(s);
    say("any key restarts only with IXANY; output waits", write(s, b"x"));
    write(m, b"\x11");
    write(m, b"on\n");
    unsafe { libc::fcntl(s, libc::F_SETFL, 0) };
    say("line", read_text(s, 10));
    say("write after start", write(s, b"y"));
    say("output", drain(m, 1));
    say("tcflow bad", c!(libc::tcflow(s, 99)));
    let pid = {
        unsafe { libc::tcflow(s, libc::TCOOFF) };
        child(|| write(s, b"z").0 as i32)
    };
    await_sleep(pid);
    unsafe { libc::tcflow(s, libc::TCOON) };
    say("a sleeping writer goes on", reap(pid));
}

fn queue_ioctls() {
    let (m, s) = ptys();
    no_echo(s);
    let n = |fd: i32, op: u64| {
        let mut v = -1i32;
        let r = c!(libc::ioctl(fd, op, &mut v));
        if r.is_ok() { v.to_string() } else { r.to_string() }
    };
    write(m, b"line\npart");
    say("read", read_text(s, 1));
    say("FIONREAD in canonical mode", n(s, libc::FIONREAD));
    say("TCIFLUSH", c!(libc::tcflush(s, libc::TCIFLUSH)));
    say("after", n(s, libc::FIONREAD));
    nonblock(s);
    say("nothing", read_text(s, 10));
    say("TIOCOUTQ", n(s, libc::TIOCOUTQ));
    say("tcdrain", c!(libc::tcdrain(s)));
    say("tcsendbreak", c!(libc::tcsendbreak(s, 0)));
    say("TCOFLUSH", c!(libc::tcflush(s, libc::TCOFLUSH)));
    say("bad queue", c!(libc::tcflush(s, 99)));
    say("TIOCGETD", n(s, libc::TIOCGETD));
    say("set discipline 0", {
        let d = 0i32;
        c!(libc::ioctl(s, libc::TIOCSETD, &d))
    });
}

fn extproc_and_exclusive() {
    let (m, s) = ptys();
    say("TIOCEXCL", c!(libc::ioctl(s, libc::TIOCEXCL)));
    let mut v = 0i32;
    unsafe { libc::ioctl(s, 0x8004_5440u64, &mut v) };
    say("TIOCGEXCL", v);
    if unsafe { libc::geteuid() } != 0 {
        say("open", open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY));
    }
    say("TIOCNXCL", c!(libc::ioctl(s, libc::TIOCNXCL)));
    say("open", open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY).ok());
}

fn locked_slave() {
    let m = c!(libc::posix_openpt(libc::O_RDWR | libc::O_NOCTTY)).fd();
    say("locked", open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY));
    let mut v = 5i32;
    unsafe { libc::ioctl(m, 0x8004_5439u64, &mut v) };
    say("TIOCGPTLCK", v);
    unsafe { libc::unlockpt(m) };
    say("unlocked", open(&slave_name(m), libc::O_RDWR | libc::O_NOCTTY).ok());
    let p = sc!(libc::SYS_ioctl, m, libc::TIOCGPTPEER, libc::O_RDWR | libc::O_NOCTTY);
    say("TIOCGPTPEER", p.ok());
    write(p.fd(), b"x");
    say("is the slave", drain(m, 1));
}

fn nonblocking() {
    let (m, s) = ptys();
    nonblock(s);
    nonblock(m);
    say("slave", read_text(s, 1));
    say("master", read_text(m, 1));
    raw(s);
    // What was refused once may be taken a moment later: Linux moves output on in the background.
    let refused = (0..10_000).map(|_| write(s, &[b'x'; 1000])).find(|r| !r.is_ok());
    say("output is bounded", refused.unwrap_or(R(0)));
}

fn devpts_names() {
    let m = master();
    let n = slave_name(m);
    use std::os::unix::fs::MetadataExt;
    let md = std::fs::metadata(&n).unwrap();
    say("owner is the opener", md.uid() == unsafe { libc::getuid() });
    say("a device", format!("{:o}", md.mode() & 0o170000));
    close(m);
    say("gone with the master", std::fs::metadata(&n).is_err());
    let (a, b) = (master(), master());
    say("different numbers", slave_name(a) != slave_name(b));
    say("/dev/ptmx", std::fs::metadata("/dev/ptmx").map(|m| libc::major(m.rdev())).unwrap_or(0));
}

fn sti_and_legacy() {
    let (m, s) = ptys();
    let c1 = b'x';
    if unsafe { libc::geteuid() } != 0 {
        // Not the controlling terminal of the caller.
        say("TIOCSTI as user", {
            let r = c!(libc::ioctl(s, libc::TIOCSTI, &c1));
            r.is(libc::EPERM) || r.is(libc::EIO)
        });
    }
    let mut v = 0i32;
    say("TIOCMGET", c!(libc::ioctl(s, libc::TIOCMGET, &mut v)));
    say("TIOCSSERIAL", c!(libc::ioctl(s, libc::TIOCSSERIAL, &v)));
    say(
        "TIOCCONS as user",
        if unsafe { libc::geteuid() } != 0 {
            c!(libc::ioctl(s, libc::TIOCCONS, 0)).to_string()
        } else {
            "EPERM".into()
        },
    );
    say("TCSBRK on master", c!(libc::ioctl(m, libc::TCSBRK, 1)));
    say("VT ioctl", c!(libc::ioctl(s, 0x5600, 0)));
    say("lseek", c!(libc::lseek(s, 0, 0)));
    say("pread", c!(libc::pread(s, [0u8; 1].as_mut_ptr().cast(), 1, 0)));
}

fn ioctl_errors() {
    let (m, s) = ptys();
    say("unknown on slave", c!(libc::ioctl(s, 0x1234, 0)));
    say("unknown on master", c!(libc::ioctl(m, 0x1234, 0)));
    say("TIOCGPTN on slave", c!(libc::ioctl(s, libc::TIOCGPTN, 0)));
    say("TIOCGWINSZ bad pointer", sc!(libc::SYS_ioctl, s, libc::TIOCGWINSZ, 8));
    say("TIOCGSID without session", {
        let mut v = 0i32;
        c!(libc::ioctl(s, libc::TIOCGSID, &mut v))
    });
    say("on a pipe", c!(libc::ioctl(pipe().0, libc::TIOCGPGRP, 0)));
    say("mmap", c!(libc::mmap(std::ptr::null_mut(), 4096, 1, 1, s, 0)).ok());
    say("ftruncate", c!(libc::ftruncate(s, 0)));
}

fn poll_states() {
    let m = master();
    let bits = |fd: i32| {
        let mut p =
            libc::pollfd { fd, events: libc::POLLIN | libc::POLLOUT | libc::POLLPRI, revents: 0 };
        unsafe { libc::poll(&mut p, 1, 0) };
        format!("{:#x}", p.revents)
    };
    let s = slave(m);
    no_echo(s);
    say("idle", format!("{} {}", bits(m), bits(s)));
    write(m, b"part");
    let mut n = 0i32;
    // The unfinished line has arrived when its erase would echo; only the end of the line makes it readable.
    unsafe { libc::ioctl(s, libc::FIONREAD, &mut n) };
    say("unfinished line", bits(s));
    write(m, b"\n");
    let mut p = libc::pollfd { fd: s, events: libc::POLLIN, revents: 0 };
    say("finished", c!(libc::poll(&mut p, 1, -1)));
    let _ = read(s, 10);
    write(s, b"out");
    let mut p = libc::pollfd { fd: m, events: libc::POLLIN, revents: 0 };
    say("master readable", c!(libc::poll(&mut p, 1, -1)));
    let _ = read(m, 10);
    close(s);
    let mut p = libc::pollfd { fd: m, events: 0, revents: 0 };
    say("slave closed", format!("{} {:#x}", c!(libc::poll(&mut p, 1, -1)), p.revents));
}
