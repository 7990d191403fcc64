//! UDP, ping and raw sockets of programs (udp(7), icmp(7), raw(7)).

use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, Mutex, PollRegistrar, WaitQueue};
use uml_core::ctx::Ctx;
use uml_core::io::take_vec;
use uml_core::task::Task;
use uml_core::user;
use uml_core::vfs::anon::AnonInode;
use uml_ipc::socket::options::{SO_RCVBUFFORCE, SO_SNDBUFFORCE, SO_TIMESTAMPING_NEW};
use uml_ipc::socket::{Address, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};
use uml_net::packet::{Data, Frag, Slab};
use uml_net::ping::PingSocket;
use uml_net::raw::RawSocket;
use uml_net::sock::{Datagram, IpOptions, QueuedError};
use uml_net::stack::Stack;
use uml_net::stamp;
use uml_net::udp::UdpSocket;

use crate::ip_options::{self, Extra, recv};
use crate::{addr, control, ioctl, wait};

/// What stands behind.
pub enum Engine {
    Udp(Arc<UdpSocket>),
    Ping(Arc<PingSocket>),
    Raw(Arc<RawSocket>),
}

/// A datagram socket as programs have it.
pub struct DgramSocket {
    pub engine: Engine,
    v6: bool,
    options: Options,
    extra: Extra,
    /// Messages whose times are told by number (SOF_TIMESTAMPING_OPT_ID).
    sent: AtomicU32,
    pub ino: AtomicU64,
}

macro_rules! each {
    ($self:expr, $s:ident => $e:expr) => {
        match &$self.engine {
            Engine::Udp($s) => $e,
            Engine::Ping($s) => $e,
            Engine::Raw($s) => $e,
        }
    };
}

const UDP_CORK: i32 = 1;
const UDPLITE_SEND_CSCOV: i32 = 10;
const UDPLITE_RECV_CSCOV: i32 = 11;
const UDP_ENCAP: i32 = 100;
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;
const UDP_SEGMENT: i32 = 103;
const UDP_GRO: i32 = 104;
const ICMP_FILTER: i32 = 1;
const SOL_ICMPV6: i32 = 58;
const IPV6_CHECKSUM: i32 = 7;
const IP_HDRINCL: i32 = libc::IP_HDRINCL;

impl DgramSocket {
    fn make(task: &Task, engine: Engine, v6: bool) -> Arc<DgramSocket> {
        let s = DgramSocket {
            engine,
            v6,
            options: Options::default(),
            extra: Extra::default(),
            sent: AtomicU32::new(0),
            ino: AtomicU64::new(0),
        };
        let uid = task.cred().fsuid;
        {
            let mut o = s.opts().lock();
            o.uid = uid;
            o.v6only = v6 && s.stack().conf.v6_bindv6only.get() != 0;
        }
        Arc::new(s)
    }

    /// A UDP socket.
    pub fn udp(task: &Task, stack: &Arc<Stack>, v6: bool) -> Arc<DgramSocket> {
        DgramSocket::make(task, Engine::Udp(UdpSocket::new(stack, v6)), v6)
    }

    /// A socket of UDP-Lite.
    pub fn udplite(task: &Task, stack: &Arc<Stack>, v6: bool) -> Arc<DgramSocket> {
        DgramSocket::make(task, Engine::Udp(UdpSocket::lite(stack, v6)), v6)
    }

    /// A ping socket.
    pub fn ping(task: &Task, stack: &Arc<Stack>, v6: bool) -> Arc<DgramSocket> {
        DgramSocket::make(task, Engine::Ping(PingSocket::new(stack, v6)), v6)
    }

    /// A raw socket.
    pub fn raw(task: &Task, stack: &Arc<Stack>, v6: bool, proto: u8) -> Arc<DgramSocket> {
        DgramSocket::make(task, Engine::Raw(RawSocket::new(stack, v6, proto)), v6)
    }

    fn stack(&self) -> &Arc<Stack> {
        each!(self, s => &s.stack)
    }

    fn opts(&self) -> &Mutex<IpOptions> {
        each!(self, s => &s.opts)
    }

    fn queue(&self) -> &Arc<WaitQueue> {
        each!(self, s => &s.wait)
    }

    fn next(&self, peek: bool) -> Result<Option<Datagram>> {
        each!(self, s => s.recv(peek))
    }

    fn next_error(&self) -> Result<QueuedError> {
        each!(self, s => s.recv_error())
    }

    fn local_addr(&self) -> SocketAddr {
        match &self.engine {
            Engine::Udp(s) => s.local(),
            Engine::Ping(s) => s.local(),
            Engine::Raw(s) => SocketAddr::new(s.local(), u16::from(s.proto)),
        }
    }

    fn show(&self, a: SocketAddr, iface: u32) -> Address {
        addr::format(a, self.v6, iface)
    }

    fn scope(&self) -> u32 {
        match &self.engine {
            Engine::Udp(s) => s.scope(),
            _ => 0,
        }
    }

    fn kind(&self) -> i32 {
        match &self.engine {
            Engine::Raw(_) => libc::SOCK_RAW,
            _ => libc::SOCK_DGRAM,
        }
    }

    fn target(&self) -> ip_options::Target<'_> {
        ip_options::Target {
            stack: self.stack(),
            opts: self.opts(),
            extra: &self.extra,
            v6: self.v6,
            kind: self.kind(),
        }
    }

    /// Copies the whole message from the program.
    fn gather(args: &mut SendArgs<'_>) -> Result<Data> {
        let n = args.data.remaining();
        if n > 65_535 {
            return Err(EMSGSIZE);
        }
        let mut d = Data::new();
        if n > 0 {
            let mut slab = Slab::new(n);
            if args.data.take(&mut slab.bytes_mut()[..n])? < n {
                return Err(EFAULT);
            }
            d.push(Frag::new(slab, n));
        }
        Ok(d)
    }

    fn deliver(&self, args: &mut RecvArgs<'_>, d: Datagram) -> Result<Received> {
        let mut out = Received::default();
        let room = args.data.remaining();
        for f in d.data.frags() {
            let n = f.len().min(args.data.remaining());
            if n == 0 {
                break;
            }
            let put = args.data.put(&f.bytes()[..n])?;
            out.len += put;
            if put < n {
                return Err(EFAULT);
            }
        }
        if d.data.len() > room {
            out.flags |= libc::MSG_TRUNC;
            if args.flags & libc::MSG_TRUNC != 0 {
                out.len = d.data.len();
            }
        }
        if args.want_control {
            let now = self.stack().realtime();
            out.control = control::of_datagram(&d, &self.options, &self.extra, self.v6, now);
        }
        out.addr = Some(self.show(d.src, d.iface));
        Ok(out)
    }

    fn recv_error(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        let e = self.next_error()?;
        let mut out = Received { flags: libc::MSG_ERRQUEUE, ..Received::default() };
        let n = e.payload.len().min(args.data.remaining());
        if n > 0 {
            out.len = args.data.put(&e.payload[..n])?;
        }
        if e.payload.len() > n {
            out.flags |= libc::MSG_TRUNC;
        }
        let time = e.origin == stamp::ORIGIN;
        if args.want_control {
            let mut e = e.clone();
            let place = self.options.stamping().0 & stamp::flag::OPT_CMSG != 0;
            // Who sent the packet is told where programs ask for its interface, too; IPv6 always does.
            e.offender = e.offender.filter(|a| !time || place || a.is_ipv6());
            if time {
                control::stamps(&self.options, e.stamp, true, &mut out.control);
            }
            out.control.push(control::of_error(&e, self.v6));
        }
        out.addr = (!time).then(|| self.show(e.dst, 0));
        Ok(out)
    }

    /// What is to be told of a message that is sent now; `own` are the flags that it brings.
    fn stamp(&self, own: Option<stamp::Asked>) -> Option<stamp::Asked> {
        let flags = self.options.stamping().0;
        let tx = stamp::flag::TX_SOFTWARE | stamp::flag::TX_SCHED;
        let wanted = own.map_or(flags, |a| a.flags) & tx;
        if wanted == 0 {
            return None;
        }
        let kept = flags & (stamp::flag::OPT_ID | stamp::flag::OPT_TSONLY);
        let id = if flags & stamp::flag::OPT_ID != 0 {
            self.sent.fetch_add(1, Ordering::Relaxed)
        } else {
            0
        };
        Some(stamp::Asked { flags: wanted | kept, id })
    }

    fn connect_raw(&self, to: Option<IpAddr>, scope: u32) -> Result<()> {
        match &self.engine {
            Engine::Ping(s) => s.connect(to, scope),
            Engine::Raw(s) => s.connect(to, scope),
            Engine::Udp(_) => Ok(()),
        }
    }
}

impl Socket for DgramSocket {
    fn identity(&self) -> (i32, i32, i32) {
        let f = if self.v6 { libc::AF_INET6 } else { libc::AF_INET };
        let proto = match &self.engine {
            Engine::Udp(s) if s.lite.is_some() => libc::IPPROTO_UDPLITE,
            Engine::Udp(_) => libc::IPPROTO_UDP,
            Engine::Ping(_) if self.v6 => libc::IPPROTO_ICMPV6,
            Engine::Ping(_) => libc::IPPROTO_ICMP,
            Engine::Raw(s) => i32::from(s.proto),
        };
        (f, self.kind(), proto)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, task: &Task, a: &[u8]) -> Result<()> {
        match &self.engine {
            Engine::Udp(s) => {
                let (to, scope) = ip_options::bind_address(self.stack(), task, a, self.v6)?;
                s.bind(to, scope)
            }
            Engine::Ping(s) => {
                let (to, scope) = addr::parse(a, self.v6)?;
                s.bind(to, scope)
            }
            Engine::Raw(s) => {
                let (to, scope) = addr::parse(a, self.v6)?;
                s.bind(to.ip(), scope)
            }
        }
    }

    fn connect(&self, _task: &Task, a: &[u8], _nonblock: bool) -> Result<()> {
        if addr::family(a)? == libc::AF_UNSPEC {
            match &self.engine {
                Engine::Udp(s) => s.disconnect(),
                _ => self.connect_raw(None, 0)?,
            }
            return Ok(());
        }
        let (mut to, scope) = addr::parse(a, self.v6)?;
        if to.ip().is_unspecified() {
            let lo: IpAddr = if to.is_ipv4() {
                std::net::Ipv4Addr::LOCALHOST.into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            };
            to.set_ip(lo);
        }
        match &self.engine {
            Engine::Udp(s) => s.connect(to, scope),
            _ => self.connect_raw(Some(to.ip()), scope),
        }
    }

    fn local(&self) -> Result<Address> {
        let a = self.local_addr();
        Ok(self.show(a, self.scope()))
    }

    fn peer(&self) -> Result<Address> {
        let a = match &self.engine {
            Engine::Udp(s) => s.remote(),
            Engine::Ping(s) => s.remote().map(|a| SocketAddr::new(a, 0)),
            Engine::Raw(s) => s.remote().map(|a| SocketAddr::new(a, 0)),
        };
        Ok(self.show(a.ok_or(ENOTCONN)?, self.scope()))
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let (r, w) = (how != Shutdown::Write, how != Shutdown::Read);
        each!(self, s => s.shutdown(r, w))
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let to = match args.addr {
            Some(a) if addr::family(a)? == libc::AF_UNSPEC && !self.v6 => {
                let mut b = a.to_vec();
                b[..2].copy_from_slice(&(libc::AF_INET as u16).to_le_bytes());
                Some(addr::parse(&b, false)?)
            }
            // An IPv6 socket that is given AF_INET speaks IPv4 (udpv6_sendmsg does).
            Some(a) if self.v6 && addr::family(a)? == libc::AF_INET => Some(addr::parse(a, false)?),
            Some(a) => Some(addr::parse(a, self.v6)?),
            None => None,
        };
        if self.v6 && self.opts().lock().v6only && to.is_some_and(|t| t.0.is_ipv4()) {
            return Err(ENETUNREACH);
        }
        let mut info = control::parse(args.task, args.control, self.v6)?;
        info.stamp = self.stamp(info.stamp);
        info.dontroute = args.flags & libc::MSG_DONTROUTE != 0;
        if info.segment == 0 {
            info.segment = self.extra.segment.load(Ordering::Relaxed) as u16;
        }
        let more = args.flags & libc::MSG_MORE != 0 || self.extra.wants(recv::UDP_CORK);
        match &self.engine {
            Engine::Udp(s) => {
                let data = Self::gather(args)?;
                let n = data.len();
                s.send(to, data, &info, more)?;
                Ok(n)
            }
            Engine::Ping(s) => {
                let b = take_vec(args.data, 65_536)?;
                s.send(to.map(|t| (t.0.ip(), t.1)), &b, &info)?;
                Ok(b.len())
            }
            Engine::Raw(s) => {
                let b = take_vec(args.data, 65_536)?;
                s.send(to.map(|t| (t.0.ip(), t.1)), &b, &info)?;
                Ok(b.len())
            }
        }
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_ERRQUEUE != 0 {
            return self.recv_error(args);
        }
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let peek = args.flags & libc::MSG_PEEK != 0;
        let deadline = self.options.recv_deadline();
        loop {
            match self.next(peek) {
                Ok(Some(d)) => return self.deliver(args, d),
                Ok(None) => return Ok(Received::default()),
                Err(EAGAIN) if !args.nonblock => {}
                Err(e) => return Err(e),
            }
            let ready = || each!(self, s => s.ready());
            let mask = Events::READABLE | Events::ERR | Events::HUP;
            wait::until(
                args.task,
                self.queue(),
                mask,
                deadline,
                "__skb_wait_for_more_packets",
                ready,
            )?;
        }
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(self.queue());
        }
        each!(self, s => s.events())
    }

    fn option_changed(&self, _task: &Task, name: i32) -> Result<()> {
        let on = self.options.is_on(name);
        let (mark, priority) = self.options.mark();
        {
            let mut o = self.opts().lock();
            match name {
                libc::SO_REUSEADDR => o.reuse_addr = on,
                libc::SO_REUSEPORT => o.reuse_port = on,
                libc::SO_BROADCAST => o.broadcast = on,
                libc::SO_MARK | libc::SO_PRIORITY => (o.mark, o.priority) = (mark, priority),
                libc::SO_RCVBUF | SO_RCVBUFFORCE => {
                    o.rcvbuf = self.options.rcvbuf.load(Ordering::Relaxed);
                }
                SO_SNDBUFFORCE => {}
                _ => return Ok(()),
            }
        }
        if let Engine::Udp(s) = &self.engine {
            s.options_changed();
        }
        Ok(())
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, v: &[u8]) -> Result<()> {
        match (&self.engine, level, name) {
            (_, libc::SOL_SOCKET, libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW) => {
                let f = control::stamping(v)?;
                if f & stamp::flag::OPT_ID & !self.options.stamping().0 != 0 {
                    self.sent.store(0, Ordering::Relaxed);
                }
                self.options.set_stamping(name, f);
                Ok(())
            }
            (Engine::Udp(s), libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE, _) => {
                if v.len() < 4 {
                    return Err(EINVAL);
                }
                let n = ip_options::int(v)?;
                match name {
                    UDPLITE_SEND_CSCOV | UDPLITE_RECV_CSCOV => {
                        let cover = s.lite.as_ref().ok_or(ENOPROTOOPT)?;
                        if name == UDPLITE_SEND_CSCOV {
                            cover.set_send(n);
                        } else {
                            cover.set_recv(n);
                        }
                        Ok(())
                    }
                    UDP_CORK => {
                        self.extra.set(recv::UDP_CORK, n != 0);
                        if n == 0 { s.uncork() } else { Ok(()) }
                    }
                    UDP_SEGMENT => {
                        let n = u16::try_from(n).map_err(|_| EINVAL)?;
                        self.extra.segment.store(u64::from(n), Ordering::Relaxed);
                        Ok(())
                    }
                    UDP_NO_CHECK6_TX => {
                        self.extra.set(recv::NOCHECK6_TX, n != 0);
                        Ok(())
                    }
                    UDP_NO_CHECK6_RX => {
                        self.extra.set(recv::NOCHECK6_RX, n != 0);
                        Ok(())
                    }
                    // Datagrams are always given one by one.
                    UDP_GRO | UDP_ENCAP => Err(ENOPROTOOPT),
                    _ => Err(ENOPROTOOPT),
                }
            }
            (Engine::Raw(s), libc::IPPROTO_IP, IP_HDRINCL) if !self.v6 => {
                s.header_included.store(ip_options::int(v)? != 0, Ordering::Relaxed);
                Ok(())
            }
            (Engine::Raw(s), libc::SOL_RAW, ICMP_FILTER) => {
                if s.proto != 1 || self.v6 {
                    return Err(EOPNOTSUPP);
                }
                let n = ip_options::int(v)? as u32;
                s.filter.lock()[0] = n;
                Ok(())
            }
            (Engine::Raw(s), SOL_ICMPV6, 1) if self.v6 && s.proto == 58 => {
                let mut f = s.filter.lock();
                for (i, w) in v.chunks_exact(4).take(8).enumerate() {
                    f[i] = u32::from_le_bytes([w[0], w[1], w[2], w[3]]);
                }
                Ok(())
            }
            (Engine::Raw(s), libc::SOL_RAW | libc::IPPROTO_IPV6, IPV6_CHECKSUM) if self.v6 => {
                let n = ip_options::int(v)?;
                if s.proto == 58 && level == libc::IPPROTO_IPV6 || n > 0 && n % 2 != 0 {
                    return Err(EINVAL);
                }
                s.checksum_at.store(n, Ordering::Relaxed);
                Ok(())
            }
            _ => {
                ip_options::set(&self.target(), task, level, name, v)?;
                if let Engine::Udp(s) = &self.engine {
                    s.options_changed();
                }
                Ok(())
            }
        }
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32, _max: usize) -> Result<Vec<u8>> {
        match (&self.engine, level, name) {
            (Engine::Udp(s), libc::IPPROTO_UDP | libc::IPPROTO_UDPLITE, _) => match name {
                // UDP has them, too, to be looked at.
                UDPLITE_SEND_CSCOV => {
                    ip_options::one(s.lite.as_ref().map_or(0, |c| c.get().0) as i32)
                }
                UDPLITE_RECV_CSCOV => {
                    ip_options::one(s.lite.as_ref().map_or(0, |c| c.get().1) as i32)
                }
                UDP_CORK => ip_options::one(i32::from(self.extra.wants(recv::UDP_CORK))),
                UDP_SEGMENT => ip_options::one(self.extra.segment.load(Ordering::Relaxed) as i32),
                UDP_GRO | UDP_ENCAP => ip_options::one(0),
                UDP_NO_CHECK6_TX => ip_options::one(i32::from(self.extra.wants(recv::NOCHECK6_TX))),
                UDP_NO_CHECK6_RX => ip_options::one(i32::from(self.extra.wants(recv::NOCHECK6_RX))),
                _ => Err(ENOPROTOOPT),
            },
            (Engine::Raw(s), libc::IPPROTO_IP, IP_HDRINCL) if !self.v6 => {
                ip_options::one(i32::from(s.header_included.load(Ordering::Relaxed)))
            }
            (Engine::Raw(s), libc::SOL_RAW, ICMP_FILTER) if s.proto == 1 && !self.v6 => {
                Ok(s.filter.lock()[0].to_le_bytes().to_vec())
            }
            (Engine::Raw(s), SOL_ICMPV6, 1) if self.v6 && s.proto == 58 => {
                Ok(s.filter.lock().iter().flat_map(|w| w.to_le_bytes()).collect())
            }
            (Engine::Raw(s), libc::SOL_RAW | libc::IPPROTO_IPV6, IPV6_CHECKSUM) if self.v6 => {
                ip_options::one(s.checksum_at.load(Ordering::Relaxed))
            }
            _ => {
                let to =
                    self.peer().ok().and_then(|a| addr::parse(&a, self.v6).ok()).map(|a| a.0.ip());
                let mtu = to.and_then(|t| {
                    self.stack().route_to(&uml_net::route::Flow::to(t)).ok().map(|d| d.mtu as u32)
                });
                ip_options::get(&self.target(), level, name, mtu)
            }
        }
    }

    fn take_error(&self) -> Option<Errno> {
        each!(self, s => s.take_error())
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        let n = match u64::from(cmd) {
            libc::FIONREAD => each!(self, s => s.next_len()),
            // Nothing waits on this side: datagrams are handed over at once.
            libc::TIOCOUTQ => 0,
            _ => return ioctl::inet(cx, self.stack(), self.v6, cmd, arg),
        };
        user::write_obj(&cx.task, arg, &(n as i32))?;
        Ok(0)
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        self.ino.store(inode.ino(), Ordering::Relaxed);
        self.opts().lock().inode = inode.ino();
    }

    fn close(&self) {
        each!(self, s => s.close());
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
