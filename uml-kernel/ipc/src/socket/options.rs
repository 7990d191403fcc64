//! Options at level SOL_SOCKET that do not depend on the family (socket(7)).

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank};
use uml_core::task::{Cap, Task};

/// Default and largest buffer (net.core.wmem_default, wmem_max and their rmem kin).
pub const BUF_DEFAULT: usize = 212_992;
const SNDBUF_MIN: usize = 4608;
const RCVBUF_MIN: usize = 2304;

pub const SO_SNDBUFFORCE: i32 = 32;
pub const SO_RCVBUFFORCE: i32 = 33;
/// The time options with 64-bit times on every machine; on x86-64 the old ones have them, too.
pub const SO_TIMESTAMP_NEW: i32 = 63;
pub const SO_TIMESTAMPNS_NEW: i32 = 64;
pub const SO_TIMESTAMPING_NEW: i32 = 65;
pub const SO_PASSPIDFD: i32 = 76;
pub const SO_PEERPIDFD: i32 = 77;

/// Values of the common options.
pub struct Options {
    pub sndbuf: AtomicUsize,
    pub rcvbuf: AtomicUsize,
    pub rcvlowat: AtomicI32,
    /// Nanoseconds; 0 is no limit.
    rcvtimeo: AtomicU64,
    sndtimeo: AtomicU64,
    pub passcred: AtomicBool,
    pub passpidfd: AtomicBool,
    flags: AtomicU64,
    /// Bits of [`stamp`].
    stamps: AtomicU32,
    stamping: AtomicU32,
    priority: AtomicI32,
    mark: AtomicI32,
    linger: Mutex<(i32, i32)>,
    /// SO_PEEK_OFF: where the next MSG_PEEK starts; negative for "always at the front".
    pub peek_off: AtomicI32,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            sndbuf: AtomicUsize::new(BUF_DEFAULT),
            rcvbuf: AtomicUsize::new(BUF_DEFAULT),
            rcvlowat: AtomicI32::new(1),
            rcvtimeo: AtomicU64::new(0),
            sndtimeo: AtomicU64::new(0),
            passcred: AtomicBool::new(false),
            passpidfd: AtomicBool::new(false),
            flags: AtomicU64::new(0),
            stamps: AtomicU32::new(0),
            stamping: AtomicU32::new(0),
            priority: AtomicI32::new(0),
            mark: AtomicI32::new(0),
            linger: Mutex::new(Rank::LEAF, (0, 0)),
            peek_off: AtomicI32::new(-1),
        }
    }
}

/// What is known of the time options.
mod stamp {
    /// Messages have times; in nanoseconds; by the names of the new options.
    pub const ON: u32 = 1;
    pub const NANO: u32 = 2;
    pub const NEW: u32 = 4;
}

/// Whether the option is SO_TIMESTAMP, SO_TIMESTAMPNS or one of the new ones, with its bits.
fn time_option(name: i32) -> Option<u32> {
    match name {
        libc::SO_TIMESTAMP => Some(stamp::ON),
        libc::SO_TIMESTAMPNS => Some(stamp::ON | stamp::NANO),
        SO_TIMESTAMP_NEW => Some(stamp::ON | stamp::NEW),
        SO_TIMESTAMPNS_NEW => Some(stamp::ON | stamp::NANO | stamp::NEW),
        _ => None,
    }
}

fn int(value: &[u8]) -> Result<i32> {
    let b = value.get(..4).ok_or(EINVAL)?;
    Ok(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn i64_at(value: &[u8], at: usize) -> Result<i64> {
    let mut b = [0; 8];
    b.copy_from_slice(value.get(at..at + 8).ok_or(EINVAL)?);
    Ok(i64::from_le_bytes(b))
}

/// Options that are plain switches here: they are kept and reported.
fn switch(name: i32) -> Option<u64> {
    let known = [
        libc::SO_DEBUG,
        libc::SO_REUSEADDR,
        libc::SO_DONTROUTE,
        libc::SO_BROADCAST,
        libc::SO_KEEPALIVE,
        libc::SO_OOBINLINE,
        libc::SO_REUSEPORT,
        libc::SO_NO_CHECK,
        libc::SO_RXQ_OVFL,
        // There are no security labels to pass.
        libc::SO_PASSSEC,
    ];
    known.iter().position(|n| *n == name).map(|i| 1 << i)
}

impl Options {
    /// A copy for an accepted connection.
    pub fn inherit(&self) -> Options {
        let o = Options::default();
        let usizes = [(&o.sndbuf, &self.sndbuf), (&o.rcvbuf, &self.rcvbuf)];
        for (to, from) in usizes {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        o.passcred.store(self.passcred.load(Ordering::Relaxed), Ordering::Relaxed);
        o.passpidfd.store(self.passpidfd.load(Ordering::Relaxed), Ordering::Relaxed);
        o
    }

    /// Takes over the switch options of a listening socket.
    pub fn copy_switches(&self, from: &Options) {
        self.flags.store(from.flags.load(Ordering::Relaxed), Ordering::Relaxed);
        self.stamps.store(from.stamps.load(Ordering::Relaxed), Ordering::Relaxed);
        self.stamping.store(from.stamping.load(Ordering::Relaxed), Ordering::Relaxed);
        self.rcvlowat.store(from.rcvlowat.load(Ordering::Relaxed), Ordering::Relaxed);
        *self.linger.lock() = *from.linger.lock();
        for (to, from) in [(&self.priority, &from.priority), (&self.mark, &from.mark)] {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// SO_LINGER: whether it is on, and the seconds.
    pub fn linger(&self) -> (bool, i32) {
        let (on, secs) = *self.linger.lock();
        (on != 0, secs)
    }

    /// SO_MARK and SO_PRIORITY.
    pub fn mark(&self) -> (u32, u32) {
        (self.mark.load(Ordering::Relaxed) as u32, self.priority.load(Ordering::Relaxed) as u32)
    }

    /// True when the switch option is on.
    pub fn is_on(&self, name: i32) -> bool {
        switch(name).is_some_and(|b| self.flags.load(Ordering::Relaxed) & b != 0)
    }

    /// The option that times of messages are told by, and whether they are nanoseconds; `None` when they are not told.
    pub fn time_of_messages(&self) -> Option<(i32, bool)> {
        let s = self.stamps.load(Ordering::Relaxed);
        let (nano, new) = (s & stamp::NANO != 0, s & stamp::NEW != 0);
        let name = match (nano, new) {
            (false, false) => libc::SO_TIMESTAMP,
            (true, false) => libc::SO_TIMESTAMPNS,
            (false, true) => SO_TIMESTAMP_NEW,
            (true, true) => SO_TIMESTAMPNS_NEW,
        };
        (s & stamp::ON != 0).then_some((name, nano))
    }

    /// SO_TIMESTAMPING: its flags, and the option by which times are told.
    pub fn stamping(&self) -> (u32, i32) {
        let new = self.stamps.load(Ordering::Relaxed) & stamp::NEW != 0;
        let name = if new { SO_TIMESTAMPING_NEW } else { libc::SO_TIMESTAMPING };
        (self.stamping.load(Ordering::Relaxed), name)
    }

    /// Sets SO_TIMESTAMPING, by its old or new name, to flags that the family has checked.
    pub fn set_stamping(&self, name: i32, flags: u32) {
        self.stamping.store(flags, Ordering::Relaxed);
        if name == SO_TIMESTAMPING_NEW {
            self.stamps.fetch_or(stamp::NEW, Ordering::Relaxed);
        } else {
            self.stamps.fetch_and(!stamp::NEW, Ordering::Relaxed);
        }
    }

    fn deadline(ns: &AtomicU64) -> Option<Instant> {
        match ns.load(Ordering::Relaxed) {
            0 => None,
            n => uml_base::clock::now().checked_add(Duration::from_nanos(n)),
        }
    }

    /// When a receive that begins now gives up (SO_RCVTIMEO).
    pub fn recv_deadline(&self) -> Option<Instant> {
        Self::deadline(&self.rcvtimeo)
    }

    /// When a send that begins now gives up (SO_SNDTIMEO).
    pub fn send_deadline(&self) -> Option<Instant> {
        Self::deadline(&self.sndtimeo)
    }

    /// Where a receive starts to look: 0, or with MSG_PEEK what SO_PEEK_OFF says.
    pub fn peek_start(&self, peek: bool) -> usize {
        if peek { usize::try_from(self.peek_off.load(Ordering::Relaxed)).unwrap_or(0) } else { 0 }
    }

    /// Moves SO_PEEK_OFF: forward by what was peeked, back by what was taken.
    pub fn received(&self, n: usize, peek: bool) {
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        let _ = self.peek_off.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |off| match off {
            ..0 => None,
            _ if peek => Some(off.saturating_add(n)),
            _ => Some((off - n).max(0)),
        });
    }

    /// setsockopt(2) at level SOL_SOCKET; `None` when the option is the family's.
    pub fn set(&self, task: &Task, name: i32, value: &[u8]) -> Option<Result<()>> {
        if let Some(bit) = switch(name) {
            return Some(int(value).map(|v| {
                if v != 0 {
                    self.flags.fetch_or(bit, Ordering::Relaxed);
                } else {
                    self.flags.fetch_and(!bit, Ordering::Relaxed);
                }
            }));
        }
        if let Some(bits) = time_option(name) {
            return Some(int(value).map(|v| {
                if v != 0 {
                    self.stamps.store(bits, Ordering::Relaxed);
                } else {
                    self.stamps.fetch_and(stamp::NEW, Ordering::Relaxed);
                }
            }));
        }
        Some(match name {
            libc::SO_SNDBUF | libc::SO_RCVBUF => int(value).map(|v| self.set_buffer(name, v, true)),
            SO_SNDBUFFORCE | SO_RCVBUFFORCE => task.require(Cap::NetAdmin).and_then(|()| {
                let n = if name == SO_SNDBUFFORCE { libc::SO_SNDBUF } else { libc::SO_RCVBUF };
                int(value).map(|v| self.set_buffer(n, v.max(0), false))
            }),
            libc::SO_RCVLOWAT => int(value).map(|v| {
                let v = if v < 0 { i32::MAX } else { v.max(1) };
                self.rcvlowat.store(v, Ordering::Relaxed);
            }),
            libc::SO_SNDLOWAT => Err(ENOPROTOOPT),
            libc::SO_RCVTIMEO => timeout(value).map(|n| self.rcvtimeo.store(n, Ordering::Relaxed)),
            libc::SO_SNDTIMEO => timeout(value).map(|n| self.sndtimeo.store(n, Ordering::Relaxed)),
            libc::SO_PASSCRED => int(value).map(|v| self.passcred.store(v != 0, Ordering::Relaxed)),
            SO_PASSPIDFD => int(value).map(|v| self.passpidfd.store(v != 0, Ordering::Relaxed)),
            libc::SO_PRIORITY => int(value).and_then(|v| {
                if !(0..=6).contains(&v) {
                    task.require(Cap::NetAdmin)?;
                }
                self.priority.store(v, Ordering::Relaxed);
                Ok(())
            }),
            libc::SO_MARK => task.require(Cap::NetAdmin).and_then(|()| {
                self.mark.store(int(value)?, Ordering::Relaxed);
                Ok(())
            }),
            libc::SO_LINGER => {
                if value.len() < 8 {
                    return Some(Err(EINVAL));
                }
                let pair = int(value).and_then(|on| Ok((i32::from(on != 0), int(&value[4..])?)));
                pair.map(|p| *self.linger.lock() = p)
            }
            libc::SO_PEEK_OFF => int(value).map(|v| self.peek_off.store(v, Ordering::Relaxed)),
            libc::SO_TYPE
            | libc::SO_DOMAIN
            | libc::SO_PROTOCOL
            | libc::SO_ERROR
            | libc::SO_ACCEPTCONN => Err(ENOPROTOOPT),
            _ => return None,
        })
    }

    fn set_buffer(&self, name: i32, v: i32, limited: bool) {
        // A negative value is a huge unsigned one on Linux, so it means the limit.
        let v = if v < 0 { i32::MAX / 2 } else { v.min(i32::MAX / 2) } as usize;
        let v = if limited { v.min(BUF_DEFAULT) } else { v };
        // Doubled for bookkeeping, as socket(7) says.
        let (field, min) = match name {
            libc::SO_SNDBUF => (&self.sndbuf, SNDBUF_MIN),
            _ => (&self.rcvbuf, RCVBUF_MIN),
        };
        field.store((v * 2).max(min), Ordering::Relaxed);
    }

    /// getsockopt(2) at level SOL_SOCKET; `None` when the option is the family's.
    pub fn get(&self, name: i32) -> Option<Vec<u8>> {
        let one = |v: i32| v.to_le_bytes().to_vec();
        let size = |v: &AtomicUsize| one(v.load(Ordering::Relaxed).min(i32::MAX as usize) as i32);
        if switch(name).is_some() {
            return Some(one(i32::from(self.is_on(name))));
        }
        if let Some(bits) = time_option(name) {
            let s = self.stamps.load(Ordering::Relaxed);
            // SO_TIMESTAMP_NEW is told of nanoseconds, too.
            let known = if name == SO_TIMESTAMP_NEW { s & !stamp::NANO } else { s };
            let on = s & stamp::ON != 0 && known == bits;
            return Some(one(i32::from(on)));
        }
        Some(match name {
            // `struct so_timestamping`: flags, and a clock of hardware that there is none of.
            libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW => {
                let (flags, by) = self.stamping();
                let known = name == libc::SO_TIMESTAMPING || by == name;
                [if known { flags } else { 0 }.to_le_bytes(), [0; 4]].concat()
            }
            libc::SO_SNDBUF => size(&self.sndbuf),
            libc::SO_RCVBUF => size(&self.rcvbuf),
            libc::SO_RCVLOWAT => one(self.rcvlowat.load(Ordering::Relaxed)),
            libc::SO_SNDLOWAT => one(1),
            libc::SO_RCVTIMEO => timeval(self.rcvtimeo.load(Ordering::Relaxed)),
            libc::SO_SNDTIMEO => timeval(self.sndtimeo.load(Ordering::Relaxed)),
            libc::SO_PASSCRED => one(i32::from(self.passcred.load(Ordering::Relaxed))),
            SO_PASSPIDFD => one(i32::from(self.passpidfd.load(Ordering::Relaxed))),
            libc::SO_PRIORITY => one(self.priority.load(Ordering::Relaxed)),
            libc::SO_MARK => one(self.mark.load(Ordering::Relaxed)),
            libc::SO_PEEK_OFF => one(self.peek_off.load(Ordering::Relaxed)),
            libc::SO_LINGER => {
                let (on, secs) = *self.linger.lock();
                [on.to_le_bytes(), secs.to_le_bytes()].concat()
            }
            _ => return None,
        })
    }
}

/// A `struct timeval` as nanoseconds; zero and negative times are "no limit" and "at once" as on Linux.
fn timeout(value: &[u8]) -> Result<u64> {
    let (sec, usec) = (i64_at(value, 0)?, i64_at(value, 8)?);
    if !(0..1_000_000).contains(&usec) {
        return Err(EDOM);
    }
    if sec < 0 {
        return Ok(1);
    }
    Ok((sec as u64).saturating_mul(1_000_000_000).saturating_add(usec as u64 * 1000))
}

fn timeval(ns: u64) -> Vec<u8> {
    let us = ns / 1000;
    [((us / 1_000_000) as i64).to_le_bytes(), ((us % 1_000_000) as i64).to_le_bytes()].concat()
}
