//! TCP sockets of programs (tcp(7)).

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, Rank};
use uml_core::ctx::Ctx;
use uml_core::io::{Sink, Source};
use uml_core::signal::SigInfo;
use uml_core::task::{Cap, Task};
use uml_core::user;
use uml_core::vfs::anon::AnonInode;
use uml_ipc::socket::options::SO_TIMESTAMPING_NEW;
use uml_ipc::socket::{Address, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};
use uml_net::packet::{Frag, SLAB, Slab};
use uml_net::stack::Stack;
use uml_net::stamp::flag;
use uml_net::tcp::State;
use uml_net::tcp_socket::TcpSocket;

use crate::ip_options::{self, Extra};
use crate::{addr, ioctl, tcp_options, wait};

/// Bytes copied from the program at once.
const CHUNK: usize = SLAB - 4096;

/// A TCP socket as programs have it.
pub struct StreamSocket {
    pub tcp: Arc<TcpSocket>,
    options: Options,
    extra: Extra,
    read_side: Mutex<()>,
    write_side: Mutex<()>,
    /// connect(2) was called and its outcome not told.
    connecting: AtomicBool,
    /// Number of its inode, for listings.
    pub ino: AtomicU64,
}

/// Control messages of a connection: ip(7), RFC 2292 section 4.1 (`<linux/in.h>`, `<linux/in6.h>`).
const IP_PKTOPTIONS: i32 = 9;
const IPV6_2292PKTOPTIONS: i32 = 6;

impl StreamSocket {
    /// An unbound socket of `task`.
    pub fn create(task: &Task, stack: &Arc<Stack>, v6: bool) -> Arc<StreamSocket> {
        let tcp = TcpSocket::new(stack, v6);
        tcp.opts.lock().uid = task.cred().fsuid;
        tcp.opts.lock().v6only = v6 && stack.conf.v6_bindv6only.get() != 0;
        let options = Options::default();
        options.sndbuf.store(uml_net::tcp::tcb::SNDBUF, Ordering::Relaxed);
        options.rcvbuf.store(uml_net::tcp::tcb::RCVBUF, Ordering::Relaxed);
        StreamSocket::around(tcp, options)
    }

    fn around(tcp: Arc<TcpSocket>, options: Options) -> Arc<StreamSocket> {
        Arc::new(StreamSocket {
            tcp,
            options,
            extra: Extra::default(),
            read_side: Mutex::new(Rank::STREAM_READ, ()),
            write_side: Mutex::new(Rank::STREAM_WRITE, ()),
            connecting: AtomicBool::new(false),
            ino: AtomicU64::new(0),
        })
    }

    fn v6(&self) -> bool {
        self.tcp.v6
    }

    fn show(&self, a: SocketAddr) -> Address {
        let a = match (a.ip(), self.v6()) {
            // An unbound IPv6 socket has the IPv6 wildcard.
            (std::net::IpAddr::V4(v), true) if v.is_unspecified() => {
                SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), a.port())
            }
            _ => a,
        };
        addr::format(a, self.v6(), self.tcp.scope())
    }

    /// Waits for the end of a handshake that is under way.
    fn finish_connect(&self, task: &Task) -> Result<()> {
        let done = || !matches!(self.tcp.state(), State::SynSent | State::SynRecv);
        let deadline = self.options.send_deadline();
        let mask = Events::WRITABLE | Events::ERR | Events::HUP;
        match wait::until(task, &self.tcp.wait, mask, deadline, "inet_stream_connect", done) {
            Ok(()) => {}
            Err(EAGAIN) => return Err(EINPROGRESS),
            Err(e) => return Err(e),
        }
        self.connecting.store(false, Ordering::SeqCst);
        if self.tcp.state() == State::Closed {
            return Err(self.tcp.take_error().unwrap_or(ECONNABORTED));
        }
        Ok(())
    }

    /// The next bytes of the program in slabs, at most `room` of them.
    fn gather(src: &mut dyn Source, room: usize) -> Result<Vec<Frag>> {
        let mut out = Vec::new();
        let mut left = room.min(src.remaining());
        while left > 0 {
            let n = left.min(CHUNK);
            let mut slab = Slab::new(n);
            match src.take(&mut slab.bytes_mut()[..n]) {
                Ok(got) => {
                    if got > 0 {
                        out.push(Frag::new(slab, got));
                    }
                    left -= got;
                    if got < n {
                        break;
                    }
                }
                Err(e) if out.is_empty() => return Err(e),
                Err(_) => break,
            }
        }
        Ok(out)
    }

    fn send_pieces(&self, args: &mut SendArgs<'_>, done: &mut usize) -> Result<()> {
        let deadline = self.options.send_deadline();
        let more = args.flags & libc::MSG_MORE != 0;
        let urgent = args.flags & libc::MSG_OOB != 0;
        loop {
            let wait_for_room = {
                let _side = self.write_side.lock();
                match self.tcp.room() {
                    Ok(room) => {
                        let total = args.data.remaining();
                        // Enough for several segments, and the receiver starts on the first meanwhile.
                        let frags = Self::gather(args.data, room.min(CHUNK))?;
                        let n: usize = frags.iter().map(Frag::len).sum();
                        let rest = n < total;
                        self.tcp.write(
                            frags,
                            more || rest && n > 0 && room > n,
                            urgent && !rest,
                        )?;
                        *done += n;
                        if args.data.remaining() == 0 || n == 0 {
                            return if n == 0 && total > 0 { Err(EFAULT) } else { Ok(()) };
                        }
                        false
                    }
                    Err(EAGAIN) => true,
                    Err(e) => return Err(e),
                }
            };
            if wait_for_room {
                if args.nonblock {
                    return Err(EAGAIN);
                }
                let mask = Events::WRITABLE | Events::ERR | Events::HUP;
                let ready = || self.tcp.room_or_over();
                wait::until(
                    args.task,
                    &self.tcp.wait,
                    mask,
                    deadline,
                    "sk_stream_wait_memory",
                    ready,
                )?;
            }
        }
    }

    fn recv_urgent(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        let peek = args.flags & libc::MSG_PEEK != 0;
        let b = self.tcp.with(|t, _, _| t.take_urgent(peek)).map_err(|_| EINVAL)??;
        let len = if args.data.remaining() > 0 { args.data.put(&[b])? } else { 0 };
        Ok(Received { len, flags: libc::MSG_OOB, ..Received::default() })
    }

    /// Copies what is there; returns how many bytes, or why there are none.
    fn copy_out(
        &self,
        sink: &mut dyn Sink,
        skip: usize,
        peek: bool,
        discard: bool,
    ) -> Result<usize> {
        let _side = self.read_side.lock();
        let data = self.tcp.peek(skip, sink.remaining())?;
        let mut done = 0;
        if discard {
            done = data.len();
        } else {
            for f in data.frags() {
                match sink.put(f.bytes()) {
                    Ok(n) => {
                        done += n;
                        if n < f.len() {
                            break;
                        }
                    }
                    Err(e) if done == 0 => return Err(e),
                    Err(_) => break,
                }
            }
        }
        drop(data);
        if !peek && done > 0 {
            self.tcp.consume(done);
        }
        Ok(done)
    }
}

impl Socket for StreamSocket {
    fn identity(&self) -> (i32, i32, i32) {
        let f = if self.v6() { libc::AF_INET6 } else { libc::AF_INET };
        (f, libc::SOCK_STREAM, libc::IPPROTO_TCP)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, task: &Task, a: &[u8]) -> Result<()> {
        let (to, scope) = ip_options::bind_address(&self.tcp.stack, task, a, self.v6())?;
        self.tcp.bind(to, scope)
    }

    fn listen(&self, _task: &Task, backlog: i32) -> Result<()> {
        self.tcp.listen(backlog)?;
        let defer = self.extra.defer.load(Ordering::Relaxed);
        self.tcp.set_defer(defer.saturating_mul(1_000_000_000));
        Ok(())
    }

    fn accept(&self, task: &Task, nonblock: bool) -> Result<(Arc<dyn Socket>, Address)> {
        let deadline = self.options.recv_deadline();
        let s = loop {
            match self.tcp.accept() {
                Err(EAGAIN) if !nonblock => {}
                other => break other?,
            }
            let ready =
                || self.tcp.state() != State::Listen || self.tcp.events().intersects(Events::IN);
            let mask = Events::READABLE | Events::HUP;
            wait::until(task, &self.tcp.wait, mask, deadline, "inet_csk_accept", ready)?;
        };
        let from = s.remote().unwrap_or_else(|_| s.row().remote);
        let options = self.options.inherit();
        options.copy_switches(&self.options);
        let conn = StreamSocket::around(s, options);
        conn.extra.inherit(&self.extra);
        let from = addr::format(from, conn.v6(), conn.tcp.scope());
        Ok((conn, from))
    }

    fn connect(&self, task: &Task, a: &[u8], nonblock: bool) -> Result<()> {
        if addr::family(a)? == libc::AF_UNSPEC {
            self.tcp.disconnect();
            self.connecting.store(false, Ordering::SeqCst);
            return Ok(());
        }
        let (to, scope) = addr::parse(a, self.v6())?;
        match self.tcp.connect(to, scope) {
            Err(EINPROGRESS) => {
                self.connecting.store(true, Ordering::SeqCst);
                // Even when the answer is here already, as on a loopback.
                if nonblock {
                    return Err(EINPROGRESS);
                }
                self.finish_connect(task)
            }
            Err(EALREADY) if !nonblock => self.finish_connect(task),
            // The first call after the handshake ended well says so.
            Err(EISCONN) if self.connecting.swap(false, Ordering::SeqCst) => Ok(()),
            other => {
                self.connecting.store(false, Ordering::SeqCst);
                other
            }
        }
    }

    fn local(&self) -> Result<Address> {
        Ok(self.show(self.tcp.local()))
    }

    fn peer(&self) -> Result<Address> {
        Ok(self.show(self.tcp.remote()?))
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let (r, w) = (how != Shutdown::Write, how != Shutdown::Read);
        self.tcp.shutdown(r, w)
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        if args.flags & libc::MSG_FASTOPEN != 0 {
            return Err(EOPNOTSUPP);
        }
        let mut done = 0;
        if !args.nonblock && matches!(self.tcp.state(), State::SynSent | State::SynRecv) {
            self.finish_connect(args.task)?;
        }
        let result = match args.data.remaining() {
            0 => match self.tcp.room() {
                Ok(_) | Err(EAGAIN) => return Ok(0),
                Err(e) => Err(e),
            },
            _ => self.send_pieces(args, &mut done),
        };
        match result {
            Err(e) if done == 0 => {
                if e == EPIPE && args.flags & libc::MSG_NOSIGNAL == 0 {
                    args.task.send_signal(SigInfo::user(libc::SIGPIPE, args.task));
                }
                Err(e)
            }
            _ => Ok(done),
        }
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_ERRQUEUE != 0 {
            return Err(EAGAIN);
        }
        if args.flags & libc::MSG_OOB != 0 {
            return self.recv_urgent(args);
        }
        let peek = args.flags & libc::MSG_PEEK != 0;
        let discard = args.flags & libc::MSG_TRUNC != 0;
        let want = args.data.remaining();
        let low = if args.flags & libc::MSG_WAITALL != 0 {
            want
        } else {
            (self.options.rcvlowat.load(Ordering::Relaxed).max(1) as usize).min(want)
        };
        let deadline = self.options.recv_deadline();
        let mut done = 0;
        let problem = loop {
            if want == 0 {
                if self.tcp.state() == State::Listen {
                    return Err(ENOTCONN);
                }
                break None;
            }
            let skip = if peek { done + self.options.peek_start(true) } else { 0 };
            let e = match self.copy_out(args.data, skip, peek, discard) {
                Ok(0) => break None,
                Ok(n) => {
                    done += n;
                    if done >= low || discard {
                        break None;
                    }
                    continue;
                }
                Err(e) => e,
            };
            if e != EAGAIN || args.nonblock {
                break Some(e);
            }
            if peek && done > 0 {
                break None;
            }
            let ready = || self.tcp.readable_or_over(skip, low - done);
            let mask = Events::READABLE | Events::ERR | Events::HUP | Events::PRI;
            if let Err(e) =
                wait::until(args.task, &self.tcp.wait, mask, deadline, "sk_wait_data", ready)
            {
                break Some(e);
            }
        };
        match problem {
            Some(e) if done == 0 => Err(e),
            _ => {
                self.options.received(done, peek);
                Ok(Received { len: done, ..Received::default() })
            }
        }
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.tcp.wait);
        }
        self.tcp.events()
    }

    fn option_changed(&self, _task: &Task, name: i32) -> Result<()> {
        tcp_options::common_changed(&self.tcp, &self.options, name);
        Ok(())
    }

    fn own_option(&self, name: i32) -> Option<Vec<u8>> {
        let size = |n: usize| Some(i32::try_from(n).unwrap_or(i32::MAX).to_le_bytes().to_vec());
        match name {
            libc::SO_SNDBUF => size(self.tcp.settings(|s| s.sndbuf)),
            libc::SO_RCVBUF => size(
                self.tcp.look(|t| t.rcvbuf()).unwrap_or_else(|_| self.tcp.settings(|s| s.rcvbuf)),
            ),
            _ => None,
        }
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, value: &[u8]) -> Result<()> {
        match level {
            libc::SOL_SOCKET if matches!(name, libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW) => {
                let f = crate::control::stamping(value)?;
                let connected = self.tcp.look(|t| t.state != State::Closed).unwrap_or(false);
                if f & flag::OPT_ID != 0 && !connected {
                    return Err(EINVAL);
                }
                // Where in the stream a segment ends is not noted.
                if f & (flag::TX_SOFTWARE | flag::TX_SCHED | flag::TX_ACK) != 0 {
                    return Err(EOPNOTSUPP);
                }
                self.options.set_stamping(name, f);
                Ok(())
            }
            libc::IPPROTO_TCP => tcp_options::set(&self.tcp, &self.extra, task, name, value),
            _ => {
                let target = ip_options::Target {
                    stack: &self.tcp.stack,
                    opts: &self.tcp.opts,
                    extra: &self.extra,
                    v6: self.v6(),
                    kind: libc::SOCK_STREAM,
                };
                ip_options::set(&target, task, level, name, value)?;
                self.tcp.options_changed();
                if ip_options::is_of_headers(level, name) {
                    self.tcp.headers_changed();
                }
                Ok(())
            }
        }
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32, max: usize) -> Result<Vec<u8>> {
        match level {
            libc::IPPROTO_TCP => tcp_options::get(&self.tcp, &self.extra, name, max),
            _ => {
                let target = ip_options::Target {
                    stack: &self.tcp.stack,
                    opts: &self.tcp.opts,
                    extra: &self.extra,
                    v6: self.v6(),
                    kind: libc::SOCK_STREAM,
                };
                if name == ip_options::ORIGINAL_DST
                    && matches!(level, libc::SOL_IP | libc::SOL_IPV6)
                {
                    return ip_options::original_destination(
                        &target,
                        level,
                        self.tcp.local(),
                        self.tcp.remote()?,
                        max,
                    );
                }
                if (level, name) == (libc::SOL_IP, IP_PKTOPTIONS)
                    || (level, name) == (libc::SOL_IPV6, IPV6_2292PKTOPTIONS) && self.v6()
                {
                    return crate::control::of_connection(&self.tcp, &self.extra, level, max);
                }
                let mtu = self.tcp.look(|t| t.info(self.tcp.stack.now()).pmtu).ok();
                ip_options::get(&target, level, name, mtu)
            }
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.tcp.take_error()
    }

    fn listening(&self) -> bool {
        self.tcp.state() == State::Listen
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        let n = match u64::from(cmd) {
            libc::FIONREAD => {
                if self.listening() {
                    return Err(EINVAL);
                }
                self.tcp.look(|t| t.readable()).unwrap_or(0)
            }
            libc::TIOCOUTQ => self.tcp.look(|t| t.unacked()).unwrap_or(0),
            ioctl::SIOCOUTQNSD => self.tcp.look(|t| t.unsent()).unwrap_or(0),
            ioctl::SIOCATMARK => {
                usize::from(self.tcp.look(|t| t.to_mark()).ok().flatten() == Some(0))
            }
            _ => return ioctl::inet(cx, &self.tcp.stack, self.v6(), cmd, arg),
        };
        user::write_obj(&cx.task, arg, &i32::try_from(n).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        self.ino.store(inode.ino(), Ordering::Relaxed);
        self.tcp.opts.lock().inode = inode.ino();
    }

    fn close(&self) {
        let (on, secs) = self.options.linger();
        self.tcp.close(on && secs == 0);
    }

    fn linger(&self, task: &Task) {
        let (on, secs) = self.options.linger();
        if !on || secs <= 0 || !self.tcp.is_closed() {
            return;
        }
        let deadline = uml_base::clock::now().checked_add(Duration::from_secs(secs as u64));
        let done = || self.tcp.lingered();
        // Neither a signal nor the end of the time is an error of close(2).
        let _ =
            wait::until(task, &self.tcp.wait, Events::ALL, deadline, "sk_stream_wait_close", done);
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}

/// Whether a task may use a low port.
pub(crate) fn may_use_port(stack: &Stack, task: &Task, port: u16) -> Result<()> {
    let start = stack.conf.ip_unprivileged_port_start.get();
    if port != 0
        && i64::from(port) < start
        && crate::require_net(task, Cap::NetBindService).is_err()
    {
        return Err(EACCES);
    }
    Ok(())
}
