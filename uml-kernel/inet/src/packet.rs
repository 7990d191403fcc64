//! AF_PACKET sockets of programs (packet(7)). PACKET_MMAP rings and fanout are refused.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::io::take_vec;
use uml_core::task::Task;
use uml_core::user;
use uml_core::vfs::anon::AnonInode;
use uml_ipc::socket::options::{SO_RCVBUFFORCE, SO_TIMESTAMPING_NEW};
use uml_ipc::socket::{Address, Control, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};
use uml_net::bpf::{Insn, Program};
use uml_net::packet::Csum;
use uml_net::stack::Stack;
use uml_net::stamp::flag;
use uml_net::tap::{Frame, PacketSocket, hardware_type};
use uml_net::wire::ethernet::Mac;

use crate::{ioctl, ip_options, wait};

/// Length of `struct sockaddr_ll`.
const ADDR_LEN: usize = 20;
const PACKET_ADD_MEMBERSHIP: i32 = 1;
const PACKET_DROP_MEMBERSHIP: i32 = 2;
const PACKET_STATISTICS: i32 = 6;
const PACKET_AUXDATA: i32 = 8;
const PACKET_VERSION: i32 = 10;
const PACKET_HDRLEN: i32 = 11;
const PACKET_RESERVE: i32 = 12;
const PACKET_TX_RING: i32 = 13;
const PACKET_RX_RING: i32 = 5;
const PACKET_LOSS: i32 = 14;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_FANOUT: i32 = 18;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;
const SO_LOCK_FILTER: i32 = 44;

/// A packet socket.
pub struct PacketSock {
    tap: Arc<PacketSocket>,
    options: Options,
}

impl PacketSock {
    /// A socket for `protocol`.
    pub fn create(task: &Task, stack: &Arc<Stack>, cooked: bool, protocol: u16) -> Arc<PacketSock> {
        let tap = PacketSocket::new(stack, cooked, protocol);
        tap.set_owner(task.cred().fsuid, 0);
        Arc::new(PacketSock { tap, options: Options::default() })
    }
}

fn parse(a: &[u8]) -> Result<(u32, u16, Mac)> {
    if a.len() < 12 {
        return Err(EINVAL);
    }
    let protocol = u16::from_be_bytes([a[2], a[3]]);
    let index = i32::from_le_bytes([a[4], a[5], a[6], a[7]]);
    let mut mac = [0; 6];
    if let Some(b) = a.get(12..18) {
        mac.copy_from_slice(b);
    }
    Ok((index.max(0) as u32, protocol, Mac(mac)))
}

fn format(index: u32, protocol: u16, hatype: u16, pkttype: u8, mac: Option<Mac>) -> Address {
    let mut b = vec![0; ADDR_LEN];
    b[..2].copy_from_slice(&(libc::AF_PACKET as u16).to_le_bytes());
    b[2..4].copy_from_slice(&protocol.to_be_bytes());
    b[4..8].copy_from_slice(&index.to_le_bytes());
    b[8..10].copy_from_slice(&hatype.to_le_bytes());
    b[10] = pkttype;
    if let Some(m) = mac {
        b[11] = 6;
        b[12..18].copy_from_slice(&m.0);
    }
    b
}

/// `struct tpacket_auxdata`.
fn auxdata(f: &Frame) -> Control {
    let mut status = 1u32;
    match f.csum {
        Csum::Partial { .. } => status |= 8,
        Csum::Valid => status |= 128,
        Csum::None => {}
    }
    if f.vlan.is_some() {
        status |= 0x10 | 0x40;
    }
    let mut b = status.to_le_bytes().to_vec();
    b.extend_from_slice(&(f.len as u32).to_le_bytes());
    b.extend_from_slice(&(f.data.len() as u32).to_le_bytes());
    b.extend_from_slice(&0u16.to_le_bytes());
    b.extend_from_slice(&(f.net as u16).to_le_bytes());
    b.extend_from_slice(&f.vlan.unwrap_or(0).to_le_bytes());
    b.extend_from_slice(&(if f.vlan.is_some() { 0x8100u16 } else { 0 }).to_le_bytes());
    Control::Bytes { level: libc::SOL_PACKET, kind: PACKET_AUXDATA, data: b }
}

/// The program of SO_ATTACH_FILTER.
fn filter(task: &Task, v: &[u8]) -> Result<Program> {
    if v.len() < 16 {
        return Err(EINVAL);
    }
    let n = usize::from(u16::from_le_bytes([v[0], v[1]]));
    let mut at = [0; 8];
    at.copy_from_slice(&v[8..16]);
    if n == 0 || n > uml_net::bpf::MAX {
        return Err(EINVAL);
    }
    let b = user::read_bytes(task, u64::from_le_bytes(at), n * 8)?;
    let insns = b.chunks_exact(8).map(|c| Insn {
        code: u16::from_le_bytes([c[0], c[1]]),
        jt: c[2],
        jf: c[3],
        k: u32::from_le_bytes([c[4], c[5], c[6], c[7]]),
    });
    Program::new(insns.collect())
}

impl Socket for PacketSock {
    fn identity(&self) -> (i32, i32, i32) {
        let kind = if self.tap.cooked { libc::SOCK_DGRAM } else { libc::SOCK_RAW };
        (libc::AF_PACKET, kind, i32::from(self.tap.bound().1.swap_bytes()))
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, _task: &Task, a: &[u8]) -> Result<()> {
        if crate::addr::family(a)? != libc::AF_PACKET || a.len() < 12 {
            return Err(EINVAL);
        }
        let (index, protocol, _) = parse(a)?;
        self.tap.bind(index, protocol)
    }

    fn connect(&self, _task: &Task, _a: &[u8], _nonblock: bool) -> Result<()> {
        Err(EOPNOTSUPP)
    }

    fn local(&self) -> Result<Address> {
        let (index, protocol) = self.tap.bound();
        let i = self.tap.stack.interface(index);
        let hatype = i.as_ref().map_or(0, |i| hardware_type(i.link));
        Ok(format(index, protocol, hatype, 0, i.map(|i| i.mac())))
    }

    fn peer(&self) -> Result<Address> {
        Err(EOPNOTSUPP)
    }

    fn shutdown(&self, _how: Shutdown) -> Result<()> {
        Err(EOPNOTSUPP)
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        let to = args.addr.map(parse).transpose()?;
        if to.is_none() && self.tap.cooked {
            return Err(EDESTADDRREQ);
        }
        let b = take_vec(args.data, 70_000)?;
        self.tap.send(to, &b)?;
        Ok(b.len())
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_ERRQUEUE != 0 {
            return Err(EAGAIN);
        }
        let peek = args.flags & libc::MSG_PEEK != 0;
        let deadline = self.options.recv_deadline();
        let f = loop {
            match self.tap.recv(peek) {
                Err(EAGAIN) if !args.nonblock => {}
                other => break other?,
            }
            let mask = Events::READABLE | Events::ERR;
            let ready = || self.tap.ready();
            wait::until(
                args.task,
                &self.tap.wait,
                mask,
                deadline,
                "__skb_wait_for_more_packets",
                ready,
            )?;
        };
        let n = f.data.len().min(args.data.remaining());
        let mut out = Received::default();
        if n > 0 {
            out.len = args.data.put(&f.data[..n])?;
        }
        if f.data.len() > n {
            out.flags |= libc::MSG_TRUNC;
            if args.flags & libc::MSG_TRUNC != 0 {
                out.len = f.data.len();
            }
        }
        if args.want_control {
            crate::control::stamps_of_arrival(&self.options, f.stamp, &mut out.control);
            if self.tap.auxdata() {
                out.control.push(auxdata(&f));
            }
        }
        out.addr = Some(format(f.iface, f.protocol, f.hatype, f.pkttype, Some(f.addr)));
        Ok(out)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(&self.tap.wait);
        }
        self.tap.events()
    }

    fn option_changed(&self, _task: &Task, name: i32) -> Result<()> {
        if matches!(name, libc::SO_RCVBUF | SO_RCVBUFFORCE) {
            self.tap.set_rcvbuf(self.options.rcvbuf.load(Ordering::Relaxed));
        }
        Ok(())
    }

    fn set_option(&self, task: &Task, level: i32, name: i32, v: &[u8]) -> Result<()> {
        match (level, name) {
            (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER) => {
                self.tap.set_filter(Some(filter(task, v)?))
            }
            (libc::SOL_SOCKET, libc::SO_TIMESTAMPING | SO_TIMESTAMPING_NEW) => {
                let f = crate::control::stamping(v)?;
                // Frames that are sent have no queue to be told of in.
                if f & (flag::TX_SOFTWARE | flag::TX_SCHED) != 0 {
                    return Err(EOPNOTSUPP);
                }
                self.options.set_stamping(name, f);
                Ok(())
            }
            (libc::SOL_SOCKET, libc::SO_DETACH_FILTER) => self.tap.set_filter(None),
            (libc::SOL_SOCKET, SO_LOCK_FILTER) => {
                self.tap.lock_filter();
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_ADD_MEMBERSHIP | PACKET_DROP_MEMBERSHIP) => {
                if v.len() < 16 {
                    return Err(EINVAL);
                }
                let index = ip_options::int(v)? as u32;
                let kind = u16::from_le_bytes([v[4], v[5]]);
                match (name, kind) {
                    (PACKET_ADD_MEMBERSHIP, 1) => self.tap.add_promisc(index),
                    (_, 1) => self.tap.drop_promisc(index),
                    // Frames are not filtered by address below, so the other kinds have nothing to do.
                    (_, 0 | 2) => self.tap.stack.interface(index).map(drop).ok_or(ENODEV),
                    _ => Err(EINVAL),
                }
            }
            (libc::SOL_PACKET, PACKET_AUXDATA) => {
                self.tap.set_auxdata(ip_options::int(v)? != 0);
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_IGNORE_OUTGOING) => {
                self.tap.set_ignore_outgoing(ip_options::int(v)? != 0);
                Ok(())
            }
            (libc::SOL_PACKET, PACKET_QDISC_BYPASS | PACKET_LOSS) => {
                ip_options::int(v)?;
                Ok(())
            }
            // Without rings programs fall back to recv (pcap(3) does).
            (
                libc::SOL_PACKET,
                PACKET_RX_RING | PACKET_TX_RING | PACKET_VERSION | PACKET_RESERVE | PACKET_FANOUT
                | PACKET_VNET_HDR,
            ) => Err(ENOPROTOOPT),
            _ => Err(ENOPROTOOPT),
        }
    }

    fn get_option(&self, _task: &Task, level: i32, name: i32, _max: usize) -> Result<Vec<u8>> {
        match (level, name) {
            (libc::SOL_PACKET, PACKET_STATISTICS) => {
                let (p, d) = self.tap.statistics();
                Ok([(p + d).to_le_bytes(), d.to_le_bytes()].concat())
            }
            (libc::SOL_PACKET, PACKET_AUXDATA) => ip_options::one(i32::from(self.tap.auxdata())),
            (libc::SOL_PACKET, PACKET_HDRLEN) => Err(ENOPROTOOPT),
            _ => Err(ENOPROTOOPT),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.tap.take_error()
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        match u64::from(cmd) {
            libc::FIONREAD => {
                user::write_obj(&cx.task, arg, &(self.tap.next_len() as i32))?;
                Ok(0)
            }
            libc::TIOCOUTQ => {
                user::write_obj(&cx.task, arg, &0i32)?;
                Ok(0)
            }
            _ => ioctl::device(cx, &self.tap.stack, cmd, arg),
        }
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        self.tap.set_owner(self.tap.owner().0, inode.ino());
    }

    fn close(&self) {
        self.tap.close();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
