//! A port: its socket or interface, what waits to be sent, its counters.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::rc::Rc;

use nix::errno::Errno;
use serde::{Deserialize, Serialize};
use uml_formats::switch::Address;
use uml_host::frames;

use crate::capture::Capture;

/// Frames that wait for a client whose socket is full. The host's own queue holds ten datagrams unless
/// net.unix.max_dgram_qlen says otherwise, less than one burst.
const BACKLOG_FRAMES: usize = 512;

/// Counters of a port, as seen from the switch: received from it and sent to it.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
    /// Frames for it that were dropped because it does not keep up.
    pub tx_dropped: u64,
    /// Frames for it that the host refused.
    pub tx_errors: u64,
}

/// What stands behind a port.
pub enum Link {
    /// A client with a data socket of its own, connected to the client's.
    Client { control: OwnedFd, data: Rc<UnixDatagram>, address: Address, connected: bool },
    /// A client of a switch with protocol version 0: all share one data socket.
    Shared { control: OwnedFd, data: Rc<UnixDatagram>, address: Address },
    /// An interface of the host.
    Tap { file: File, name: String },
}

/// A port of the switch.
pub struct Port {
    pub link: Link,
    pub counters: Counters,
    pub capture: Option<Capture>,
    /// Protocol version the client spoke.
    pub version: u32,
    /// Process that opened the port, when the host tells.
    pub pid: Option<i32>,
    /// Bytes that may still come on the control connection as padding of the request.
    pub padding: usize,
    backlog: VecDeque<Box<[u8]>>,
    /// The client does not take frames; the event loop tells when it does again.
    blocked: bool,
    /// Frames of the current batch, by index, and frames made for this port.
    outgoing: Vec<Outgoing>,
}

/// A frame to send.
pub enum Outgoing {
    /// Frame of the batch being forwarded.
    Batch(usize),
    /// A copy that was changed for this port.
    Own(Box<[u8]>),
}

/// Result of sending what waits.
#[derive(Debug, PartialEq, Eq)]
pub enum Sent {
    All,
    /// The receiver is full: wait until it can be written to.
    Blocked,
    /// A frame could not be sent for another reason than a full receiver.
    Failed(Errno),
}

/// The socket address of a client.
fn socket_address(address: &Address) -> io::Result<SocketAddr> {
    if address.is_abstract() {
        SocketAddr::from_abstract_name(address.name())
    } else {
        SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(address.name()))
    }
}

/// A data socket for one client: bound to an abstract address that nobody can guess, connected to the client, so
/// that the host lets nobody else send to it. Whether the connection came about is told; the client may bind later.
pub fn data_socket(client: &Address) -> io::Result<(UnixDatagram, Address, bool)> {
    let mut name = [0u8; 27];
    name[3..7].copy_from_slice(&std::process::id().to_ne_bytes());
    uml_host::random::fill(&mut name[7..]);
    let own = Address::from_abstract(&name).ok_or(io::ErrorKind::InvalidInput)?;
    let socket = UnixDatagram::bind_addr(&socket_address(&own)?)?;
    socket.set_nonblocking(true)?;
    let connected = socket_address(client).and_then(|a| socket.connect_addr(&a)).is_ok();
    Ok((socket, own, connected))
}

impl Port {
    /// A port with nothing waiting.
    pub fn new(link: Link, version: u32, pid: Option<i32>, padding: usize) -> Port {
        Port {
            link,
            counters: Counters::default(),
            capture: None,
            version,
            pid,
            padding,
            backlog: VecDeque::new(),
            blocked: false,
            outgoing: Vec::new(),
        }
    }

    /// The descriptor that frames go through.
    pub fn data_fd(&self) -> BorrowedFd<'_> {
        match &self.link {
            Link::Client { data, .. } => data.as_fd(),
            Link::Shared { data, .. } => data.as_fd(),
            Link::Tap { file, .. } => file.as_fd(),
        }
    }

    /// Reads one frame of an interface; `None` when none waits.
    pub fn read_tap(&mut self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        let Link::Tap { file, .. } = &mut self.link else { return Ok(None) };
        match file.read(buf) {
            Ok(n) => Ok(Some(n)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Whether the client's socket was full when last tried.
    pub fn is_blocked(&self) -> bool {
        self.blocked
    }

    /// Frames waiting in the switch.
    pub fn queued(&self) -> usize {
        self.backlog.len()
    }

    /// Adds a frame to what the next [`Port::send_batch`] sends.
    pub fn queue(&mut self, frame: Outgoing) {
        self.outgoing.push(frame);
    }

    /// Whether anything was queued since the last batch.
    pub fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Sends what was queued, `frame` giving the frames of the batch; keeps what the receiver has no room for as far as
    /// the backlog reaches. `Blocked` is returned once, when the port becomes blocked.
    pub fn send_batch<'a>(&mut self, frame: impl Fn(usize) -> &'a [u8]) -> Sent {
        let outgoing = std::mem::take(&mut self.outgoing);
        let refs: Vec<&[u8]> = outgoing
            .iter()
            .map(|o| match o {
                Outgoing::Batch(n) => frame(*n),
                Outgoing::Own(bytes) => bytes,
            })
            .collect();
        if self.blocked || !self.backlog.is_empty() {
            self.keep(&refs);
            return Sent::All;
        }
        let (sent, result) = self.transmit(&refs);
        if result != Sent::Blocked {
            return result;
        }
        let rest = &refs[sent..];
        if !matches!(self.link, Link::Client { .. }) {
            // Neither an interface nor the shared socket can tell when this receiver has room.
            self.counters.tx_dropped += rest.len() as u64;
            return Sent::All;
        }
        self.keep(rest);
        self.blocked = true;
        result
    }

    /// The receiver has room again: sends the backlog.
    pub fn resume(&mut self) -> Sent {
        self.blocked = false;
        loop {
            let backlog = std::mem::take(&mut self.backlog);
            let refs: Vec<&[u8]> = backlog.iter().take(64).map(|f| &f[..]).collect();
            if refs.is_empty() {
                return Sent::All;
            }
            let (sent, result) = self.transmit(&refs);
            self.backlog = backlog;
            self.backlog.drain(..sent);
            match result {
                Sent::All => {}
                Sent::Blocked => {
                    self.blocked = true;
                    return Sent::Blocked;
                }
                failed => return failed,
            }
        }
    }

    fn keep(&mut self, frames: &[&[u8]]) {
        let room = BACKLOG_FRAMES.saturating_sub(self.backlog.len()).min(frames.len());
        self.backlog.extend(frames[..room].iter().map(|f| Box::from(*f)));
        self.counters.tx_dropped += (frames.len() - room) as u64;
    }

    /// Sends frames until one does not go; returns how many are done with, failed ones included.
    fn transmit(&mut self, frames: &[&[u8]]) -> (usize, Sent) {
        let mut done = 0;
        let mut failure = Sent::All;
        while done < frames.len() {
            match self.send_some(&frames[done..]) {
                Ok(n) => {
                    self.counters.tx_frames += n as u64;
                    for f in &frames[done..done + n] {
                        self.counters.tx_bytes += f.len() as u64;
                        note(&mut self.capture, f);
                    }
                    done += n;
                }
                Err(Errno::EAGAIN | Errno::ENOBUFS) => return (done, Sent::Blocked),
                Err(e) => {
                    self.counters.tx_errors += 1;
                    done += 1;
                    failure = Sent::Failed(e);
                    if matches!(e, Errno::ECONNREFUSED | Errno::ENOENT | Errno::ENOTCONN) {
                        // Nobody is there: the rest fares no better.
                        self.counters.tx_errors += (frames.len() - done) as u64;
                        return (frames.len(), failure);
                    }
                }
            }
        }
        (done, failure)
    }

    fn send_some(&mut self, list: &[&[u8]]) -> Result<usize, Errno> {
        let errno = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(nix::libc::EIO));
        match &mut self.link {
            Link::Client { data, address, connected, .. } => {
                if !*connected {
                    let to = socket_address(address).map_err(errno)?;
                    data.connect_addr(&to).map_err(errno)?;
                    *connected = true;
                }
                frames::send(data.as_fd(), list, None).map_err(errno)
            }
            Link::Shared { data, address, .. } => {
                frames::send(data.as_fd(), list, Some(&address.0)).map_err(errno)
            }
            Link::Tap { file, .. } => file.write(list[0]).map(|_| 1).map_err(errno),
        }
    }

    /// Notes a frame that came from the port.
    pub fn received(&mut self, frame: &[u8]) {
        self.counters.rx_frames += 1;
        self.counters.rx_bytes += frame.len() as u64;
        note(&mut self.capture, frame);
    }

    /// What the port is, for people.
    pub fn describe(&self) -> String {
        match &self.link {
            Link::Client { address, .. } | Link::Shared { address, .. } => address.to_string(),
            Link::Tap { name, .. } => name.clone(),
        }
    }
}

/// Writes a frame to a capture; one that cannot be written ends.
fn note(capture: &mut Option<Capture>, frame: &[u8]) {
    if let Some(c) = capture
        && let Err(e) = c.write(frame)
    {
        eprintln!("capture {}: {e}; the capture ends", c.path().display());
        *capture = None;
    }
}
