//! `/dev/null`, `zero`, `full`, `random`, `urandom`, `kmsg`.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::klog;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::file::{File, FileOps, Io};
use uml_core::io::{Sink, Source, take_vec};
use uml_core::kernel::Kernel;
use uml_core::registry::{CharDriver, DeviceNode, NodeOpen, Opened};
use uml_core::user;
use uml_core::vfs::Dev;
use uml_mm::Mappable;

/// Major number of the memory devices.
pub const MAJOR: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
    Kmsg,
}

const NODES: &[(&str, u32, Kind)] = &[
    ("null", 3, Kind::Null),
    ("zero", 5, Kind::Zero),
    ("full", 7, Kind::Full),
    ("random", 8, Kind::Random),
    ("urandom", 9, Kind::Random),
    ("kmsg", 11, Kind::Kmsg),
];

struct MemDriver;

impl CharDriver for MemDriver {
    fn open(&self, req: &NodeOpen<'_>) -> Result<Opened> {
        let kind = NODES.iter().find(|n| n.1 == req.dev.minor).map(|n| n.2).ok_or(ENXIO)?;
        let ops: Box<dyn FileOps> = match kind {
            Kind::Kmsg => Box::new(Kmsg::new()),
            _ => Box::new(MemFile { kind }),
        };
        Ok(ops.into())
    }
}

/// Enters the driver and announces the nodes.
pub fn register(kernel: &Arc<Kernel>) -> Result<()> {
    let reg = &kernel.vfs.registry;
    reg.add_char("mem", MAJOR, 0, 255, Arc::new(MemDriver))?;
    for (name, minor, kind) in NODES {
        reg.add_node(DeviceNode {
            name: (*name).into(),
            kind: libc::S_IFCHR,
            dev: Dev::new(MAJOR, *minor),
            mode: if *kind == Kind::Kmsg { 0o644 } else { 0o666 },
            uid: 0,
            gid: 0,
        });
    }
    Ok(())
}

struct MemFile {
    kind: Kind,
}

/// RNDGETENTCNT and its kin (random(4)).
const RNDGETENTCNT: u32 = 0x8004_5200;
const RNDADDTOENTCNT: u32 = 0x4004_5201;
const RNDADDENTROPY: u32 = 0x4008_5203;
const RNDZAPENTCNT: u32 = 0x5204;
const RNDCLEARPOOL: u32 = 0x5206;
const RNDRESEEDCRNG: u32 = 0x5207;

impl FileOps for MemFile {
    fn read(&self, io: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => {
                let mut done = 0;
                while dst.remaining() != 0 {
                    let want = dst.remaining().min(1 << 20);
                    match dst.put_zeros(want) {
                        Ok(n) => done += n,
                        Err(e) if done == 0 => return Err(e),
                        Err(_) => break,
                    }
                    if io.task.signal_pending() {
                        break;
                    }
                }
                Ok(done)
            }
            Kind::Random => {
                let mut buf = [0u8; 4096];
                let mut done = 0;
                while dst.remaining() != 0 {
                    let want = dst.remaining().min(buf.len());
                    uml_host::random::fill(&mut buf[..want]);
                    match dst.put(&buf[..want]) {
                        Ok(n) => done += n,
                        Err(e) if done == 0 => return Err(e),
                        Err(_) => break,
                    }
                    // Long reads can be interrupted after a page (random(4)).
                    if io.task.signal_pending() {
                        break;
                    }
                }
                Ok(done)
            }
            Kind::Kmsg => Err(EINVAL),
        }
    }

    fn write(&self, _: &Io<'_>, _: &mut u64, src: &mut dyn Source) -> Result<usize> {
        match self.kind {
            Kind::Full => Err(ENOSPC),
            Kind::Random => {
                // Adds to the pool; ours is the host's, which needs nothing. The data must be readable.
                let mut done = 0;
                while src.remaining() != 0 {
                    match src.take(&mut [0; 4096]) {
                        Ok(n) => done += n,
                        Err(e) if done == 0 => return Err(e),
                        Err(_) => break,
                    }
                }
                Ok(done)
            }
            // Not even looked at (null(4)).
            _ => Ok(src.remaining()),
        }
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, _: &Arc<File>, cmd: u32, arg: u64) -> Result<u64> {
        if self.kind != Kind::Random {
            return Err(ENOTTY);
        }
        let admin = || cx.task.require(uml_core::task::Cap::SysAdmin);
        match cmd {
            RNDGETENTCNT => {
                user::write_obj(&cx.task, arg, &256i32)?;
                Ok(0)
            }
            RNDADDTOENTCNT | RNDADDENTROPY => {
                admin()?;
                user::read_obj::<i32>(&cx.task, arg).map(|_| 0)
            }
            RNDZAPENTCNT | RNDCLEARPOOL | RNDRESEEDCRNG => admin().map(|_| 0),
            _ => Err(EINVAL),
        }
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, _: u64, _: i64, _: i32) -> Result<u64> {
        // null_lseek: the position stays 0.
        Ok(0)
    }

    fn mappable(&self) -> Result<Arc<dyn Mappable>> {
        match self.kind {
            // Mapping /dev/zero shared makes new anonymous shared memory (mem(4)); the size grows on demand.
            Kind::Zero => uml_core::shm::anonymous(i64::MAX as u64 & !0xfff),
            _ => Err(ENODEV),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `/dev/kmsg`: one record a read, one line a write.
struct Kmsg {
    next: AtomicU64,
}

impl Kmsg {
    fn new() -> Kmsg {
        Kmsg { next: AtomicU64::new(0) }
    }
}

impl FileOps for Kmsg {
    fn read(&self, io: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let record =
            io.task.retry(klog::queue(), Events::IN, io.nonblock, None, "devkmsg_read", || {
                let want = self.next.load(Ordering::SeqCst);
                match klog::read_from(want) {
                    // Overwritten before it was read (printk's EPIPE).
                    Some(r) if r.seq > want && want != 0 => {
                        self.next.store(r.seq, Ordering::SeqCst);
                        Err(EPIPE)
                    }
                    Some(r) => Ok(r),
                    None => Err(EAGAIN),
                }
            })?;
        let text = record_text(&record);
        if text.len() > dst.remaining() {
            return Err(EINVAL);
        }
        let n = dst.put(&text)?;
        self.next.store(record.seq + 1, Ordering::SeqCst);
        Ok(n)
    }

    fn write(&self, _: &Io<'_>, _: &mut u64, src: &mut dyn Source) -> Result<usize> {
        const MAX: usize = 1024 - 32;
        let total = src.remaining();
        if total > MAX {
            return Err(EINVAL);
        }
        let line = take_vec(src, MAX)?;
        let (prio, text) = split_prio(&line);
        klog::log_prio(prio, &String::from_utf8_lossy(text.trim_ascii_end()));
        Ok(total)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(klog::queue());
        }
        let ready = klog::read_from(self.next.load(Ordering::SeqCst)).is_some();
        Events::READABLE.when(ready) | Events::WRITABLE
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seek(&self, _: u64, off: i64, whence: i32) -> Result<u64> {
        if off != 0 {
            return Err(ESPIPE);
        }
        match whence {
            libc::SEEK_SET => self.next.store(0, Ordering::SeqCst),
            // After the last clear (syslog(2) SYSLOG_ACTION_CLEAR).
            libc::SEEK_DATA => self.next.store(klog::clear_seq(), Ordering::SeqCst),
            libc::SEEK_END => self.next.store(klog::next_seq(), Ordering::SeqCst),
            _ => return Err(EINVAL),
        }
        Ok(0)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// `prio,seq,usec,-;text` (Documentation of /dev/kmsg).
fn record_text(r: &klog::Record) -> Vec<u8> {
    let head = format!("{},{},{},-;", r.prio, r.seq, r.micros);
    let mut out = head.into_bytes();
    for b in r.text.bytes() {
        match b {
            b'\n' => out.extend_from_slice(b"\n "),
            0x20..=0x7e => out.push(b),
            b if b >= 0x80 => out.push(b),
            b => out.extend_from_slice(format!("\\x{b:02x}").as_bytes()),
        }
    }
    out.push(b'\n');
    out
}

/// The `<N>` prefix of a written line; programs cannot speak as the kernel (facility 0 becomes 1, user).
fn split_prio(line: &[u8]) -> (u32, &[u8]) {
    const USER: u32 = 1 << 3;
    if line.first() == Some(&b'<')
        && let Some(end) = line.iter().take(12).position(|b| *b == b'>')
        && let Ok(n) = std::str::from_utf8(&line[1..end]).unwrap_or("").parse::<u32>()
    {
        let facility = n & !7;
        return (n & 7 | if facility == 0 { USER } else { facility }, &line[end + 1..]);
    }
    (USER | 4, line)
}
