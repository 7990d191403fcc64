//! The port channel: lines served over telnet by this process.
//!
//! A line does not see the TCP connection: it has one end of a socket pair, and a [`Bridge`]
//! on the reactor moves bytes between the other end and whoever is connected. Opening never waits for a
//! client; until one comes, the last output is kept for it.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Condvar, OnceLock, PoisonError, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Mutex, Rank, pr_err, pr_info};
use uml_host::reactor::{Interest, Reactor, Ready, Source, Token};
use uml_host::stream::Stream;
use uml_tty::termios::WinSize;

use crate::console::channel::Transport;
use crate::console::telnet::Telnet;

/// Output kept for a client that is yet to come.
const KEPT: usize = 4096;
/// Bytes moved at a time, and the most that waits for a slow side.
const CHUNK: usize = 4096;
/// Connections that wait for a line; more are turned away.
const MAX_IDLE: usize = 8;

/// Told of a new window size.
pub type OnSize = Box<dyn Fn() + Send + Sync>;

/// The listening sockets of a machine, shared by the lines of one port.
pub struct Ports {
    reactor: Arc<Reactor>,
    listeners: Mutex<HashMap<SocketAddr, Arc<Listener>>>,
}

struct Listener {
    address: SocketAddr,
    socket: TcpListener,
    token: OnceLock<Token>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    /// Lines that wait for a client, in the order in which they were opened.
    waiting: VecDeque<Weak<Bridge>>,
    /// Clients that wait for a line.
    idle: VecDeque<Idle>,
}

/// A client that no line has.
struct Idle {
    client: TcpStream,
    /// Of a line that closed before anything was said: what telnet has negotiated, and the client's size.
    met: Option<(Telnet, Option<WinSize>)>,
}

/// What a line has of the connection.
pub struct PortTransport {
    inner: Stream,
    bridge: Arc<Bridge>,
    listener: Arc<Listener>,
}

struct Bridge {
    me: Weak<Bridge>,
    reactor: Arc<Reactor>,
    on_size: OnSize,
    state: Mutex<BridgeState>,
    /// Somebody was connected, or nobody will be.
    met: (std::sync::Mutex<bool>, Condvar),
}

struct BridgeState {
    /// The other end of the line's socket pair.
    line: UnixStream,
    line_watch: Watch,
    client: Option<TcpStream>,
    client_watch: Watch,
    telnet: Telnet,
    to_client: Vec<u8>,
    to_line: Vec<u8>,
    size: Option<WinSize>,
    /// The line or the client has said something.
    spoken: bool,
    ended: bool,
}

#[derive(Default)]
struct Watch {
    token: Option<Token>,
    interest: Interest,
}

impl Ports {
    /// No listeners yet.
    pub fn new(reactor: &Arc<Reactor>) -> Ports {
        let listeners = Mutex::new(Rank::LEAF, HashMap::new());
        Ports { reactor: reactor.clone(), listeners }
    }

    /// A connection-to-be on `port`, of the loopback interface when no address is given.
    pub fn open(
        &self,
        address: Option<IpAddr>,
        port: u16,
        on_size: OnSize,
    ) -> Result<PortTransport> {
        let at = SocketAddr::new(address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)), port);
        let listener = self.listener(at)?;
        let bridge_and_end = Bridge::new(&self.reactor, on_size).map_err(Errno::from)?;
        let (bridge, end) = bridge_and_end;
        listener.serve(&bridge);
        let inner = Stream::from_fd(end.into()).map_err(Errno::from)?;
        Ok(PortTransport { inner, bridge, listener })
    }

    fn listener(&self, at: SocketAddr) -> Result<Arc<Listener>> {
        let mut all = self.listeners.lock();
        if let Some(l) = all.get(&at) {
            return Ok(l.clone());
        }
        let failed = |e: io::Error| {
            let text = uml_formats::strerror(&e);
            let errno = Errno::from(e);
            pr_err!("binding to port {} failed, errno = {} ({text})", at.port(), errno.raw());
            errno
        };
        let socket = TcpListener::bind(at).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = Arc::new(Listener {
            address: at,
            socket,
            token: OnceLock::new(),
            queue: Mutex::new(Rank::LEAF, Queue::default()),
        });
        let source: Arc<dyn Source> = listener.clone();
        let interest = Interest { read: true, write: false };
        let token = self.reactor.add(&listener.socket, interest, &source).map_err(failed)?;
        let _ = listener.token.set(token);
        all.insert(at, listener.clone());
        Ok(listener)
    }

    /// The address a port listens on, once a line of it was opened (port 0 is chosen by the host).
    #[cfg(test)]
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.listeners.lock().keys().copied().collect()
    }
}

impl Listener {
    /// Gives the line the client that waits longest, or queues it.
    fn serve(&self, bridge: &Arc<Bridge>) {
        let client = {
            let mut q = self.queue.lock();
            match q.idle.pop_front() {
                Some(c) => c,
                None => {
                    q.waiting.push_back(Arc::downgrade(bridge));
                    return;
                }
            }
        };
        bridge.connect(client);
    }

    fn accept(&self, client: TcpStream) {
        if client.set_nonblocking(true).is_err() {
            return;
        }
        if let Some(b) = self.next_line() {
            return b.connect(Idle { client, met: None });
        }
        pr_info!("No one waiting for port {}", self.address.port());
        let mut client = client;
        // A client that takes nothing at once is not worth waiting for.
        let _ = client.write(NOBODY.as_bytes());
        let mut q = self.queue.lock();
        if q.idle.len() < MAX_IDLE {
            q.idle.push_back(Idle { client, met: None });
        }
    }

    /// The line that waits longest.
    fn next_line(&self) -> Option<Arc<Bridge>> {
        let mut q = self.queue.lock();
        while let Some(line) = q.waiting.pop_front() {
            if let Some(b) = line.upgrade().filter(|b| !b.is_ended()) {
                return Some(b);
            }
        }
        None
    }

    /// A line closed before anything was said: its client is the next one's. A getty opens its line twice.
    fn give_back(&self, idle: Idle) {
        match self.next_line() {
            Some(b) => b.connect(idle),
            None => self.queue.lock().idle.push_front(idle),
        }
    }
}

const NOBODY: &str = "\r\n****\r\n\
    No console or serial line of this machine is waiting for a connection.\r\n\
    You are connected to the next one that a program opens: start a getty\r\n\
    on one of the lines configured for this port.\r\n\
    ****\r\n";

impl Source for Listener {
    fn ready(&self, _ready: Ready) {
        // Bounded: whoever comes in masses is served in the next round.
        for _ in 0..16 {
            match self.socket.accept() {
                Ok((client, _)) => self.accept(client),
                Err(_) => return,
            }
        }
    }
}

impl Bridge {
    /// A bridge without a client, and the line's end.
    fn new(reactor: &Arc<Reactor>, on_size: OnSize) -> io::Result<(Arc<Bridge>, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let bridge = Arc::new_cyclic(|me| Bridge {
            me: me.clone(),
            reactor: reactor.clone(),
            on_size,
            met: Default::default(),
            state: Mutex::new(
                Rank::LEAF,
                BridgeState {
                    line: ours,
                    line_watch: Watch::default(),
                    client: None,
                    client_watch: Watch::default(),
                    telnet: Telnet::default(),
                    to_client: Vec::new(),
                    to_line: Vec::new(),
                    size: None,
                    spoken: false,
                    ended: false,
                },
            ),
        });
        bridge.pump();
        Ok((bridge, theirs))
    }

    fn meet(&self) {
        *self.met.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.met.1.notify_all();
    }

    fn is_ended(&self) -> bool {
        self.state.lock().ended
    }

    fn connect(&self, idle: Idle) {
        let known = {
            let mut st = self.state.lock();
            let kept = std::mem::take(&mut st.to_client);
            match idle.met {
                Some((telnet, size)) => (st.telnet, st.size) = (telnet, size),
                None => st.to_client = Telnet::greeting(),
            }
            let st = &mut *st;
            st.telnet.encode(&kept, &mut st.to_client);
            st.client = Some(idle.client);
            st.size.is_some()
        };
        if known {
            (self.on_size)();
        }
        self.pump();
        self.meet();
    }

    /// Moves what can be moved and says what to wait for.
    fn pump(&self) {
        let resized = {
            let mut st = self.state.lock();
            let before = st.size;
            if !st.ended && (st.move_from_line().is_err() || st.move_from_client().is_err()) {
                st.ended = true;
            }
            if st.ended {
                self.end(&mut st);
            } else {
                self.rewatch(&mut st);
            }
            st.size != before
        };
        if resized {
            (self.on_size)();
        }
    }

    fn end(&self, st: &mut BridgeState) {
        if let Some(t) = st.line_watch.token.take() {
            self.reactor.remove(&st.line, t);
        }
        if let (Some(c), Some(t)) = (&st.client, st.client_watch.token.take()) {
            self.reactor.remove(c, t);
        }
        st.client = None;
        self.meet();
        // The line reads the end of its input: it is hung up.
        let _ = st.line.shutdown(std::net::Shutdown::Both);
    }

    fn rewatch(&self, st: &mut BridgeState) {
        let Some(me) = self.me.upgrade() else { return };
        let source: Arc<dyn Source> = me;
        let line = Interest {
            read: st.to_client.len() < CHUNK || st.client.is_none(),
            write: !st.to_line.is_empty(),
        };
        let client = Interest { read: st.to_line.is_empty(), write: !st.to_client.is_empty() };
        let ok = watch(&self.reactor, st.line.as_fd(), &mut st.line_watch, line, &source)
            && st.client.as_ref().is_none_or(|c| {
                watch(&self.reactor, c.as_fd(), &mut st.client_watch, client, &source)
            });
        if !ok {
            st.ended = true;
            self.end(st);
        }
    }
}

/// Brings a registration in line with `want`.
fn watch(
    reactor: &Reactor,
    fd: BorrowedFd<'_>,
    watch: &mut Watch,
    want: Interest,
    source: &Arc<dyn Source>,
) -> bool {
    if watch.interest == want {
        return true;
    }
    let done = match watch.token {
        // A hang-up would be reported for ever when nothing is wanted.
        Some(t) if want == Interest::default() => {
            reactor.remove(fd, t);
            watch.token = None;
            Ok(())
        }
        Some(t) => reactor.modify(fd, t, want),
        None if want == Interest::default() => Ok(()),
        None => reactor.add(fd, want, source).map(|t| watch.token = Some(t)),
    };
    watch.interest = want;
    done.is_ok()
}

/// Reads once: `None` when nothing is there, an error at the end.
fn read_some(from: &mut impl Read, buf: &mut [u8]) -> io::Result<Option<usize>> {
    match from.read(buf) {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(n) => Ok(Some(n)),
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// Writes what is taken and removes it from `data`.
fn write_some(to: &mut impl Write, data: &mut Vec<u8>) -> io::Result<()> {
    while !data.is_empty() {
        match to.write(data) {
            Ok(n) => drop(data.drain(..n)),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl BridgeState {
    fn move_from_line(&mut self) -> io::Result<()> {
        let mut buf = [0; CHUNK];
        loop {
            if let Some(client) = &mut self.client {
                write_some(client, &mut self.to_client)?;
                if !self.to_client.is_empty() {
                    return Ok(());
                }
            }
            let Some(n) = read_some(&mut self.line, &mut buf)? else { return Ok(()) };
            self.spoken = true;
            if self.client.is_some() {
                self.telnet.encode(&buf[..n], &mut self.to_client);
            } else {
                self.to_client.extend_from_slice(&buf[..n]);
                let excess = self.to_client.len().saturating_sub(KEPT);
                self.to_client.drain(..excess);
            }
        }
    }

    fn move_from_client(&mut self) -> io::Result<()> {
        let mut buf = [0; CHUNK];
        loop {
            write_some(&mut self.line, &mut self.to_line)?;
            let Some(client) = self.client.as_mut().filter(|_| self.to_line.is_empty()) else {
                return Ok(());
            };
            let Some(n) = read_some(client, &mut buf)? else { return Ok(()) };
            let received = self.telnet.receive(&buf[..n]);
            self.spoken |= !received.data.is_empty();
            self.to_line = received.data;
            self.to_client.extend_from_slice(&received.reply);
            self.size = received.size.or(self.size);
            // A client that asks without end and reads no answers is not served for ever.
            if self.to_client.len() > 16 * CHUNK {
                return Err(io::ErrorKind::InvalidData.into());
            }
            write_some(client, &mut self.to_client)?;
        }
    }
}

impl Source for Bridge {
    fn ready(&self, _ready: Ready) {
        self.pump();
    }
}

impl Transport for PortTransport {
    fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf)
    }

    fn write(&self, data: &[u8]) -> io::Result<usize> {
        self.inner.write(data)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }

    fn wait_for_peer(&self) {
        let (met, changed) = &self.bridge.met;
        let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
        while !*met {
            met = changed.wait(met).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn size(&self) -> Option<WinSize> {
        self.bridge.state.lock().size
    }
}

impl Drop for PortTransport {
    fn drop(&mut self) {
        // What the line sent last is still in the socket pair: it goes out if the client takes it.
        self.bridge.pump();
        let idle = {
            let mut st = self.bridge.state.lock();
            let unused = !st.ended && !st.spoken && st.to_client.is_empty();
            let client = if unused { st.client.take() } else { None };
            if let (Some(c), Some(t)) = (&client, st.client_watch.token.take()) {
                self.bridge.reactor.remove(c, t);
            }
            let met = Some((std::mem::take(&mut st.telnet), st.size));
            st.ended = true;
            self.bridge.end(&mut st);
            client.map(|client| Idle { client, met })
        };
        if let Some(idle) = idle {
            self.listener.give_back(idle);
        }
    }
}
