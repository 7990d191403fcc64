//! Packets of interfaces written to files of the host in the pcap format.
//!
//! A capture is a packet socket that no program of the guest has, and a thread that empties it into the file. The
//! network never waits for the file: what finds the socket's buffer full is dropped and counted.

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex as Lock, PoisonError};
use std::time::Duration;

use uml_base::{Events, Mutex, Rank, Wakeable};
use uml_formats::pcap::{LinkType, RECORD_HEADER, SLL2_HEADER, file_header, record_header, sll2};
use uml_formats::strerror;
use uml_host::netdev::{Signal, wait};
use uml_host::stream::{Stream, wait_writable};
use uml_host::wait::any_readable;
use uml_net::interface::Link;
use uml_net::stack::Stack;
use uml_net::tap::{Frame, PacketSocket, pkttype};
use uml_net::wire::ethernet::ethertype;

/// Captures that are remembered, ended ones included.
const LIMIT: usize = 16;
/// Bytes that wait for a capture's file; as many are on their way into it.
const BUFFER: usize = 4 << 20;
/// Bytes that are written at once.
const CHUNK: usize = 256 << 10;
/// How long a pipe that is not read may keep what was captured before the end.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is to be captured, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Name of an interface; none is all of them.
    pub interface: Option<String>,
    /// Bytes that are kept of a packet.
    pub snap_len: u32,
    /// Ends the capture after so many packets.
    pub count: Option<u64>,
    /// Ends the capture before the file grows beyond so many bytes.
    pub size: Option<u64>,
    /// An ordinary file, which is replaced, or a pipe that is open for reading.
    pub file: PathBuf,
}

/// The captures of a network namespace.
pub struct Captures {
    net: Arc<Stack>,
    list: Mutex<Vec<Arc<Capture>>>,
    next: AtomicU32,
}

struct Capture {
    number: u32,
    wanted: Wanted,
    tap: Arc<PacketSocket>,
    /// Raised when packets wait, once for as many as come before the writer looks; and to end.
    signal: Signal,
    told: AtomicBool,
    stop: AtomicBool,
    packets: AtomicU64,
    bytes: AtomicU64,
    /// Packets that found no room, or that the file did not take.
    dropped: AtomicU64,
    /// Why it ended.
    ended: Lock<Option<String>>,
    end: Condvar,
}

impl Wakeable for Capture {
    fn wake(&self, _: Events) -> bool {
        if !self.told.swap(true, Ordering::SeqCst) {
            self.signal.raise();
        }
        true
    }
}

impl Captures {
    /// None yet.
    pub fn new(net: &Arc<Stack>) -> Captures {
        let list = Mutex::new(Rank::LEAF, Vec::new());
        Captures { net: net.clone(), list, next: AtomicU32::new(1) }
    }

    /// Begins a capture; returns its number. The error is a text.
    pub fn start(&self, wanted: Wanted) -> Result<u32, String> {
        let (index, link) = match &wanted.interface {
            None => (0, LinkType::LinuxSll2),
            Some(name) => {
                let i = self.net.interface_named(name);
                let i = i.ok_or_else(|| format!("There is no interface {name}"))?;
                let raw = i.link == Link::None;
                (i.index, if raw { LinkType::Raw } else { LinkType::Ethernet })
            }
        };
        if self.list().iter().filter(|c| c.reason().is_none()).count() >= LIMIT {
            return Err(format!("There are {LIMIT} captures already"));
        }
        let failed =
            |e: io::Error| format!("Cannot write {}: {}", wanted.file.display(), strerror(&e));
        let file = open(&wanted.file).map_err(failed)?;
        let signal = Signal::new().map_err(failed)?;
        let tap = PacketSocket::outside(&self.net, index, index == 0, wanted.snap_len, BUFFER)
            .map_err(|e| e.to_string())?;
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let c = Arc::new(Capture {
            number,
            wanted,
            tap,
            signal,
            told: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            packets: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            ended: Lock::new(None),
            end: Condvar::new(),
        });
        let writer = c.clone();
        let run = move || writer.run(&file, link);
        if let Err(e) = std::thread::Builder::new().name("capture".into()).spawn(run) {
            c.tap.close();
            return Err(format!("Cannot begin: {}", strerror(&e)));
        }
        let mut list = self.list.lock();
        while list.len() >= LIMIT {
            // One of them has ended.
            let Some(at) = list.iter().position(|c| c.reason().is_some()) else { break };
            list.remove(at);
        }
        list.push(c);
        Ok(number)
    }

    /// Ends and forgets a capture, and says what it got; none when there is none of this number.
    pub fn stop(&self, number: u32) -> Option<String> {
        let c = {
            let mut list = self.list.lock();
            let at = list.iter().position(|c| c.number == number)?;
            list.remove(at)
        };
        c.stop();
        c.wait();
        Some(c.describe())
    }

    /// Ends all of them: the machine ends.
    pub fn stop_all(&self) {
        let all = std::mem::take(&mut *self.list.lock());
        all.iter().for_each(|c| c.stop());
        all.iter().for_each(|c| c.wait());
    }

    fn list(&self) -> Vec<Arc<Capture>> {
        self.list.lock().clone()
    }

    /// A line for each.
    pub fn describe(&self) -> String {
        self.list().iter().map(|c| c.describe() + "\n").collect()
    }
}

/// Opens without waiting for the other end of a pipe: `ENXIO` when there is none. Packets are nobody else's business.
fn open(path: &Path) -> io::Result<Stream> {
    let mut o = std::fs::OpenOptions::new();
    o.write(true).create(true).truncate(true).mode(0o600);
    o.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    Stream::from_fd(o.open(path)?.into())
}

/// Records on their way to the file.
struct Records {
    bytes: Vec<u8>,
    packets: u64,
}

impl Capture {
    fn run(self: Arc<Capture>, file: &Stream, link: LinkType) {
        let token = self.tap.wait.register(self.clone(), Events::READABLE, false);
        let mut records =
            Records { bytes: file_header(link, self.wanted.snap_len).to_vec(), packets: 0 };
        let end = self.write(file, link, &mut records);
        self.tap.wait.unregister(&token);
        // What came after the end is nobody's loss.
        let left = self.tap.take_all().len() as u64;
        if end.is_err() {
            self.count_drops(records.packets + left);
        }
        self.tap.close();
        let why = match end {
            Ok(()) if self.stop.load(Ordering::SeqCst) => "stopped".into(),
            Ok(()) => "complete".into(),
            Err(e) => strerror(&e),
        };
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.end.notify_all();
    }

    fn write(&self, file: &Stream, link: LinkType, out: &mut Records) -> io::Result<()> {
        loop {
            self.signal.clear();
            self.told.store(false, Ordering::SeqCst);
            let last = self.stop.load(Ordering::SeqCst);
            let mut frames = self.tap.take_all().into_iter();
            while let Some(f) = frames.next() {
                if !self.fits(&f, link, out) {
                    return self.flush(file, out);
                }
                record(&f, link, out);
                if out.bytes.len() >= CHUNK
                    && let Err(e) = self.flush(file, out)
                {
                    self.count_drops(frames.len() as u64);
                    return Err(e);
                }
            }
            self.flush(file, out)?;
            if last || self.wanted.count.is_some_and(|n| self.packets.load(Ordering::Relaxed) >= n)
            {
                return Ok(());
            }
            if file.is_regular() {
                any_readable(&[self.signal.fd()], -1);
            } else if wait(file.as_fd(), self.signal.fd(), false)?.0 {
                return Err(io::Error::from_raw_os_error(libc::EPIPE));
            }
        }
    }

    /// Whether a packet is still within the limits.
    fn fits(&self, f: &Frame, link: LinkType, out: &Records) -> bool {
        let packets = self.packets.load(Ordering::Relaxed) + out.packets;
        let bytes = self.bytes.load(Ordering::Relaxed) + (out.bytes.len() + length(f, link)) as u64;
        self.wanted.count.is_none_or(|n| packets < n) && self.wanted.size.is_none_or(|n| bytes <= n)
    }

    /// Writes what was collected. A pipe is waited for until the capture is stopped, and then for a moment.
    fn flush(&self, file: &Stream, out: &mut Records) -> io::Result<()> {
        let mut at = 0;
        while at < out.bytes.len() {
            match file.write(&out.bytes[at..]) {
                Ok(n) => at += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    if self.stop.load(Ordering::SeqCst) {
                        if !wait_writable(file.as_fd(), PATIENCE) {
                            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
                        }
                        continue;
                    }
                    let (gone, _, told) = wait(file.as_fd(), self.signal.fd(), true)?;
                    if gone {
                        return Err(io::Error::from_raw_os_error(libc::EPIPE));
                    }
                    if told {
                        // Packets do not raise it again before they are looked at.
                        self.signal.clear();
                    }
                }
                Err(e) => return Err(e),
            }
        }
        self.bytes.fetch_add(at as u64, Ordering::Relaxed);
        self.packets.fetch_add(out.packets, Ordering::Relaxed);
        out.bytes.clear();
        out.packets = 0;
        Ok(())
    }

    fn count_drops(&self, more: u64) {
        let n = more + u64::from(self.tap.statistics().1);
        self.dropped.fetch_add(n, Ordering::Relaxed);
    }

    fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.signal.raise();
    }

    /// Waits for the end; not for ever, as the file may be on a host that does not answer.
    fn wait(&self) {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = self.end.wait_timeout_while(ended, 3 * PATIENCE, |e| e.is_none());
    }

    fn reason(&self) -> Option<String> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn describe(&self) -> String {
        self.count_drops(0);
        let [packets, bytes, dropped] =
            [&self.packets, &self.bytes, &self.dropped].map(|n| n.load(Ordering::Relaxed));
        format!(
            "{} {} {}: {packets} packets, {bytes} bytes, {dropped} dropped, {}",
            self.number,
            self.wanted.interface.as_deref().unwrap_or("any"),
            self.wanted.file.display(),
            self.reason().unwrap_or("running".into()),
        )
    }
}

/// The tag that was taken out of a frame that arrived.
fn tag(f: &Frame, link: LinkType) -> Option<[u8; 4]> {
    let there = link == LinkType::Ethernet && f.pkttype != pkttype::OUTGOING && f.data.len() >= 12;
    let tci = f.vlan.filter(|_| there)?.to_be_bytes();
    let kind = ethertype::VLAN.to_be_bytes();
    Some([kind[0], kind[1], tci[0], tci[1]])
}

/// Bytes of a packet in the file.
fn length(f: &Frame, link: LinkType) -> usize {
    let more = if link == LinkType::LinuxSll2 { SLL2_HEADER } else { 0 };
    RECORD_HEADER + more + f.data.len() + tag(f, link).map_or(0, |t| t.len())
}

fn record(f: &Frame, link: LinkType, out: &mut Records) {
    let before = match link {
        LinkType::LinuxSll2 => sll2(f.protocol, f.iface, f.hatype, f.pkttype, f.addr.0).to_vec(),
        _ => Vec::new(),
    };
    let tag = tag(f, link);
    let extra = before.len() + tag.map_or(0, |t| t.len());
    let head = record_header(f.stamp, f.data.len() + extra, f.len + extra);
    out.bytes.extend_from_slice(&head);
    out.bytes.extend_from_slice(&before);
    match tag {
        Some(t) => {
            out.bytes.extend_from_slice(&f.data[..12]);
            out.bytes.extend_from_slice(&t);
            out.bytes.extend_from_slice(&f.data[12..]);
        }
        None => out.bytes.extend_from_slice(&f.data),
    }
    out.packets += 1;
}
