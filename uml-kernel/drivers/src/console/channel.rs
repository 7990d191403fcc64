//! One direction, or both, of a line's connection to the host.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use uml_base::{Mutex, Rank};
use uml_host::reactor::{Interest, Reactor, Source, Token};
use uml_host::stream::Stream;
use uml_host::terminal::{self, RawMode};
use uml_tty::termios::WinSize;

/// What bytes go through: a host descriptor, perhaps with a protocol on top.
pub trait Transport: Send + Sync {
    /// Reads what is there; 0 at the end, `WouldBlock` when nothing is there yet.
    fn read(&self, buf: &mut [u8]) -> io::Result<usize>;
    /// Writes what is taken at once; `WouldBlock` when nothing is.
    fn write(&self, data: &[u8]) -> io::Result<usize>;
    /// Bytes that were taken and wait inside; `write` of nothing tries to send them.
    fn backlog(&self) -> bool {
        false
    }
    /// What the reactor watches.
    fn fd(&self) -> BorrowedFd<'_>;
    /// Window size of the other side, when it has one.
    fn size(&self) -> Option<WinSize> {
        None
    }
    /// Waits until the other side is there, or never will be.
    fn wait_for_peer(&self) {}
    /// Nothing tells of a change of the size.
    fn size_is_silent(&self) -> bool {
        false
    }
    /// An ordinary file: always ready, and its end is final.
    fn is_regular(&self) -> bool {
        false
    }
}

impl Transport for Stream {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Stream::read(self, buf)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        Stream::write(self, data)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }

    fn size(&self) -> Option<WinSize> {
        if !self.is_tty() {
            return None;
        }
        let (rows, cols, xpixel, ypixel) = terminal::size(self)?;
        Some(WinSize { rows, cols, xpixel, ypixel })
    }

    fn is_regular(&self) -> bool {
        Stream::is_regular(self)
    }
}

/// A terminal that nobody tells us of a new size of: the master of a pseudo-terminal of the host, or a terminal by its name, which
/// may be another session's.
pub struct Silent(pub Stream);

impl Transport for Silent {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Stream::read(&self.0, buf)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        Stream::write(&self.0, data)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn size(&self) -> Option<WinSize> {
        Transport::size(&self.0)
    }

    fn size_is_silent(&self) -> bool {
        true
    }
}

/// Output that the host did not take at once.
struct Out {
    pending: VecDeque<u8>,
    /// The other side is gone: output is discarded.
    broken: bool,
}

struct Watch {
    token: Option<Token>,
    interest: Interest,
    /// epoll(7) refuses the descriptor.
    refused: bool,
}

/// An opened channel.
pub struct Channel {
    transport: Box<dyn Transport>,
    /// `type[:dev]`, as the management console shows it.
    label: String,
    reactor: Arc<Reactor>,
    out: Mutex<Out>,
    watch: Mutex<Watch>,
    /// A newline of a kernel message needs a carriage return: the other side does no output processing.
    crlf: bool,
    /// A program on this or the other side has said something.
    spoken: AtomicBool,
    /// Ends raw mode; declared after what uses the terminal.
    _raw: Option<RawMode>,
}

impl Channel {
    /// A channel on `transport`, whose other side shows a bare newline as one only without `crlf`.
    pub fn new(
        transport: Box<dyn Transport>,
        label: String,
        crlf: bool,
        raw: Option<RawMode>,
        reactor: &Arc<Reactor>,
    ) -> Arc<Channel> {
        Arc::new(Channel {
            transport,
            label,
            reactor: reactor.clone(),
            out: Mutex::new(Rank::LEAF, Out { pending: VecDeque::new(), broken: false }),
            watch: Mutex::new(
                Rank::LEAF,
                Watch { token: None, interest: Interest::default(), refused: false },
            ),
            crlf,
            spoken: AtomicBool::new(false),
            _raw: raw,
        })
    }

    /// `type[:dev]`.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Window size of the other side.
    pub fn size(&self) -> Option<WinSize> {
        self.transport.size()
    }

    /// See [`Transport::wait_for_peer`].
    pub fn wait_for_peer(&self) {
        self.transport.wait_for_peer();
    }

    /// See [`Transport::size_is_silent`].
    pub fn size_is_silent(&self) -> bool {
        self.transport.size_is_silent()
    }

    /// See [`Transport::is_regular`].
    pub fn is_regular(&self) -> bool {
        self.transport.is_regular()
    }

    /// Reads from the other side.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.transport.read(buf)?;
        if n > 0 {
            self.spoken.store(true, Ordering::Relaxed);
        }
        Ok(n)
    }

    /// Whether anything went through it, either way.
    pub fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// Bytes that were given to the channel and have not left it.
    pub fn unsent(&self) -> usize {
        let out = self.out.lock();
        out.pending.len() + usize::from(self.transport.backlog())
    }

    /// Sends what is pending; true when nothing is left.
    pub fn flush(&self) -> bool {
        self.out.lock().flush(&*self.transport)
    }

    /// Waits until the host may take more; false when `limit` passed.
    pub fn wait_writable(&self, limit: Duration) -> bool {
        uml_host::stream::wait_writable(self.transport.fd(), limit)
    }

    /// Queues `data` behind what is pending and sends what the host takes.
    pub fn send(&self, data: &[u8]) {
        if !data.is_empty() {
            self.spoken.store(true, Ordering::Relaxed);
        }
        let mut out = self.out.lock();
        if out.broken {
            return;
        }
        let mut sent = 0;
        if out.flush(&*self.transport) {
            while sent < data.len() {
                match self.transport.write(&data[sent..]) {
                    Ok(0) => break,
                    Ok(n) => sent += n,
                    Err(e) => {
                        out.broken |= e.kind() != io::ErrorKind::WouldBlock;
                        break;
                    }
                }
            }
        }
        if !out.broken {
            out.pending.extend(&data[sent..]);
        }
    }

    /// Prints a kernel message: all of it or, when the host takes nothing now, none.
    pub fn print(&self, text: &str) {
        if self.unsent() > 0 {
            return;
        }
        if self.crlf {
            self.send(text.replace('\n', "\r\n").as_bytes());
        } else {
            self.send(text.as_bytes());
        }
    }

    /// Tells `source` when the descriptor is ready for what `interest` says. `Err` with `EPERM` the first
    /// time epoll(7) refuses the descriptor.
    pub fn watch(&self, source: &Arc<dyn Source>, interest: Interest) -> io::Result<()> {
        let mut w = self.watch.lock();
        if w.interest == interest || w.refused {
            return Ok(());
        }
        let fd = self.transport.fd();
        // With nothing to wait for, a hang-up would be reported over and over.
        if interest == Interest::default() {
            if let Some(t) = w.token.take() {
                self.reactor.remove(fd, t);
            }
        } else if let Some(t) = w.token {
            self.reactor.modify(fd, t, interest)?;
        } else {
            match self.reactor.add(fd, interest, source) {
                Ok(t) => w.token = Some(t),
                Err(e) => {
                    w.refused = e.raw_os_error() == Some(libc::EPERM);
                    return Err(e);
                }
            }
        }
        w.interest = interest;
        Ok(())
    }

    /// What is watched for.
    pub fn interest(&self) -> Interest {
        self.watch.lock().interest
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(t) = self.watch.lock().token.take() {
            self.reactor.remove(self.transport.fd(), t);
        }
    }
}

impl Out {
    fn flush(&mut self, t: &dyn Transport) -> bool {
        while !self.broken && (!self.pending.is_empty() || t.backlog()) {
            match t.write(self.pending.as_slices().0) {
                Ok(0) if !self.pending.is_empty() => break,
                Ok(n) => drop(self.pending.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => self.broken = true,
            }
        }
        if self.broken {
            self.pending.clear();
            return true;
        }
        self.pending.is_empty() && !t.backlog()
    }
}
