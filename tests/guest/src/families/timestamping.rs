//! Times of packets: SO_TIMESTAMP and its kin, SO_TIMESTAMPING of what is received and of what is sent (socket(7),
//! Documentation/networking/timestamping.rst).

use super::datagram::{self, Message, bound, receive};
use super::inet::socket;
use crate::sys::*;
use crate::{c, cases};

cases! { options, wrong_options, stamps_of_what_came, stamps_of_what_went, stamps_with_the_packet, stamps_of_one_message, new_and_old }

const SOL: i32 = libc::SOL_SOCKET;
const TIMESTAMP: i32 = 29;
const TIMESTAMPNS: i32 = 35;
const TIMESTAMPING: i32 = 37;
const TIMESTAMP_NEW: i32 = 63;
const TIMESTAMPNS_NEW: i32 = 64;
const TIMESTAMPING_NEW: i32 = 65;

const TX_HARDWARE: u32 = 1;
const TX_SOFTWARE: u32 = 2;
const RX_HARDWARE: u32 = 4;
const RX_SOFTWARE: u32 = 8;
const SOFTWARE: u32 = 16;
const RAW_HARDWARE: u32 = 64;
const OPT_ID: u32 = 128;
const TX_SCHED: u32 = 256;
const TX_ACK: u32 = 512;
const OPT_CMSG: u32 = 1024;
const OPT_TSONLY: u32 = 2048;

fn set(fd: i32, name: i32, v: u32) -> R {
    c!(libc::setsockopt(fd, SOL, name, (&raw const v).cast(), 4))
}

fn get(fd: i32, name: i32) -> String {
    let mut b = [0u8; 64];
    let mut n = 64u32;
    let r = c!(libc::getsockopt(fd, SOL, name, b.as_mut_ptr().cast(), &mut n));
    let hex: String = b[..n.min(64) as usize].iter().map(|b| format!("{b:02x}")).collect();
    if r.is_ok() { hex } else { r.to_string() }
}

const ALL: [(i32, &str); 6] = [
    (TIMESTAMP, "timestamp"),
    (TIMESTAMPNS, "timestampns"),
    (TIMESTAMPING, "timestamping"),
    (TIMESTAMP_NEW, "new timestamp"),
    (TIMESTAMPNS_NEW, "new timestampns"),
    (TIMESTAMPING_NEW, "new timestamping"),
];

fn shown(fd: i32) -> String {
    ALL.map(|(o, _)| get(fd, o)).join(" ")
}

fn options() {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let s = socket(false, kind);
        say("default", shown(s));
        for (o, label) in ALL {
            say(&format!("{label} on"), format!("{} {}", set(s, o, 1), shown(s)));
        }
        for (o, label) in ALL {
            say(&format!("{label} off"), format!("{} {}", set(s, o, 0), shown(s)));
        }
    }
}

fn wrong_options() {
    for kind in [libc::SOCK_DGRAM, libc::SOCK_STREAM] {
        let s = socket(false, kind);
        for v in [
            RX_HARDWARE | TX_HARDWARE | RAW_HARDWARE,
            OPT_TSONLY,
            TX_ACK,
            1 << 15,
            1 << 18,
            1 << 30,
            0x8000_0000,
            OPT_ID,
            1 << 16,
            1 << 16 | OPT_ID,
        ] {
            // Of streams only arrivals have times here.
            if kind == libc::SOCK_STREAM && v & (TX_SOFTWARE | TX_SCHED | TX_ACK) != 0 {
                continue;
            }
            say(
                &format!("{v:#x}"),
                format!("{} {}", set(s, TIMESTAMPING, v), get(s, TIMESTAMPING)),
            );
        }
        let v = 1u32;
        let r = c!(libc::setsockopt(s, SOL, TIMESTAMPING, (&raw const v).cast(), 2));
        say("two bytes", r);
    }
}

/// Words of a structure of times: `t` for each that is there.
fn times(b: &[u8]) -> String {
    b.chunks(16).map(|c| if c.iter().any(|b| *b != 0) { 't' } else { '0' }).collect()
}

fn say_message(label: &str, m: &Message, shown: impl Fn(&[u8]) -> String) {
    say(label, format!("{} {} flags {:#x}", m.r, shown(&m.data), m.flags));
    for (level, kind, b) in &m.control {
        let text = match (*level, *kind) {
            (SOL, _) => format!("{} bytes {}", b.len(), times(b)),
            // struct sock_extended_err and an address.
            _ => {
                let word = |at: usize| u32::from_ne_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]]);
                let (errno, origin, info, data) = (word(0), b[4], word(8), word(12));
                format!(
                    "{} bytes errno {errno} origin {origin} type {} code {} info {info} data {data} family {}",
                    b.len(),
                    b[5],
                    b[6],
                    b.get(16).copied().unwrap_or(0)
                )
            }
        };
        say(&format!("{label} control"), format!("{level}/{kind} {text}"));
    }
    let family = m.name.get(..2).map_or(0, |b| u16::from_ne_bytes([b[0], b[1]]));
    say(&format!("{label} name"), format!("{} bytes family {family}", m.name.len()));
}

/// One datagram to `port` of the loopback, with flags of its own.
fn send(fd: i32, v6: bool, port: u16, flags: Option<u32>) -> R {
    let flags = flags.map(u32::to_ne_bytes);
    datagram::send(fd, v6, port, flags.as_ref().map(|f| (SOL, TIMESTAMPING, &f[..])))
}

fn stamps_of_what_came() {
    for v6 in [false, true] {
        let (r, port) = bound(v6);
        let s = socket(v6, libc::SOCK_DGRAM);
        // Linux begins to stamp a little after the first socket of the machine wants it; another one keeps that up.
        let (keep, kept) = bound(v6);
        set(keep, TIMESTAMPING, RX_SOFTWARE | SOFTWARE);
        loop {
            send(s, v6, kept, None);
            if !receive(keep, 0).control.is_empty() {
                break;
            }
        }
        // SOFTWARE alone reports what others have stamped: packets have stamps while any socket of the machine wants them.
        for f in [
            RX_SOFTWARE | SOFTWARE,
            RX_SOFTWARE,
            RX_HARDWARE | RAW_HARDWARE,
            RX_SOFTWARE | SOFTWARE | RX_HARDWARE | RAW_HARDWARE,
            0,
        ] {
            set(r, TIMESTAMPING, f);
            send(s, v6, port, None);
            say_message(&format!("{f:#x}"), &receive(r, 0), quoted);
        }
    }
}

fn stamps_of_what_went() {
    for v6 in [false, true] {
        let (r, port) = bound(v6);
        let s = socket(v6, libc::SOCK_DGRAM);
        let only = OPT_TSONLY | SOFTWARE;
        for (label, f, n) in [
            ("when sent", TX_SOFTWARE | only, 1),
            ("when queued and sent", TX_SCHED | TX_SOFTWARE | only, 2),
            ("numbered", TX_SOFTWARE | OPT_ID | only, 1),
            ("with the place", TX_SOFTWARE | OPT_CMSG | only, 1),
            ("not reported", TX_SOFTWARE | OPT_TSONLY, 1),
            ("acknowledged", TX_ACK | only, 0),
            ("by hardware", TX_HARDWARE | RAW_HARDWARE | OPT_TSONLY, 0),
        ] {
            say(label, set(s, TIMESTAMPING, f));
            for i in 0..2 {
                say(&format!("{label} {i}"), send(s, v6, port, None));
                receive(r, 0);
                for _ in 0..n {
                    let m = receive(s, libc::MSG_ERRQUEUE);
                    say_message(label, &m, quoted);
                }
                let m = c!(libc::recv(
                    s,
                    [0u8; 8].as_mut_ptr().cast(),
                    8,
                    libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT
                ));
                say(&format!("{label} left"), m);
            }
            set(s, TIMESTAMPING, 0);
        }
        // Numbers begin anew when the option is set again.
        set(s, TIMESTAMPING, TX_SOFTWARE | OPT_ID | only);
        send(s, v6, port, None);
        say_message("again", &receive(s, libc::MSG_ERRQUEUE), quoted);
        let mut p = libc::pollfd { fd: s, events: libc::POLLIN | libc::POLLOUT, revents: 0 };
        say("poll", format!("{} {:#x}", c!(libc::poll(&mut p, 1, 0)), p.revents));
        send(s, v6, port, None);
        say("poll then", format!("{} {:#x}", c!(libc::poll(&mut p, 1, 0)), p.revents));
        let mut e = 0i32;
        let mut n = 4u32;
        c!(libc::getsockopt(s, SOL, libc::SO_ERROR, (&raw mut e).cast(), &mut n));
        say("so_error", e);
    }
}

/// Lengths of the parts of a packet, which has ports and sums in it.
fn parts(b: &[u8]) -> String {
    let end = b.get(b.len().saturating_sub(5)..).map(quoted).unwrap_or_default();
    format!("{} bytes ending in {end}", b.len())
}

fn stamps_with_the_packet() {
    for v6 in [false, true] {
        let (r, port) = bound(v6);
        let s = socket(v6, libc::SOCK_DGRAM);
        set(s, TIMESTAMPING, TX_SOFTWARE | SOFTWARE);
        send(s, v6, port, None);
        receive(r, 0);
        say_message("whole", &receive(s, libc::MSG_ERRQUEUE), parts);
        set(s, TIMESTAMPING, TX_SCHED | SOFTWARE | OPT_CMSG | OPT_ID);
        send(s, v6, port, None);
        say_message("queued", &receive(s, libc::MSG_ERRQUEUE), parts);
    }
}

fn stamps_of_one_message() {
    let (r, port) = bound(false);
    let s = socket(false, libc::SOCK_DGRAM);
    set(s, TIMESTAMPING, SOFTWARE | OPT_TSONLY);
    for f in [TX_SOFTWARE, TX_SCHED | TX_SOFTWARE, RX_SOFTWARE, TX_SOFTWARE | SOFTWARE, 0] {
        let sent = send(s, false, port, Some(f));
        say(&format!("{f:#x}"), sent);
        if !sent.is_ok() {
            continue;
        }
        receive(r, 0);
        for _ in 0..(f & TX_SOFTWARE) / 2 + (f & TX_SCHED) / 256 {
            say_message(&format!("{f:#x}"), &receive(s, libc::MSG_ERRQUEUE), quoted);
        }
        let m = c!(libc::recv(
            s,
            [0u8; 8].as_mut_ptr().cast(),
            8,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT
        ));
        say(&format!("{f:#x} left"), m);
    }
}

fn new_and_old() {
    let (r, port) = bound(false);
    let s = socket(false, libc::SOCK_DGRAM);
    for (o, label) in ALL {
        let v = if label.contains("stamping") { RX_SOFTWARE | SOFTWARE } else { 1 };
        set(r, o, v);
        send(s, false, port, None);
        say_message(label, &receive(r, 0), quoted);
    }
    set(r, TIMESTAMP, 1);
    send(s, false, port, None);
    say_message("both", &receive(r, 0), quoted);
}
