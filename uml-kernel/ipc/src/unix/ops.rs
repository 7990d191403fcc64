//! An AF_UNIX socket as a [`Socket`].

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar};
use uml_core::ctx::Ctx;
use uml_core::ns::NetNs;
use uml_core::task::Task;
use uml_core::user;
use uml_core::vfs::anon::AnonInode;

use super::{Kind, State, UnixSocket, addr};
use crate::pidfd::PidFd;
use crate::socket::options::SO_PEERPIDFD;
use crate::socket::{Address, Options, Received, RecvArgs, SendArgs, Shutdown, Socket};

impl Socket for UnixSocket {
    fn identity(&self) -> (i32, i32, i32) {
        (libc::AF_UNIX, self.kind as i32, 0)
    }

    fn options(&self) -> &Options {
        &self.options
    }

    fn bind(&self, task: &Task, addr: &[u8]) -> Result<()> {
        self.bind_to(task, addr)
    }

    fn listen(&self, task: &Task, backlog: i32) -> Result<()> {
        self.start_listening(task, backlog)
    }

    fn accept(&self, task: &Task, nonblock: bool) -> Result<(Arc<dyn Socket>, Address)> {
        self.accept_next(task, nonblock)
    }

    fn connect(&self, task: &Task, addr: &[u8], nonblock: bool) -> Result<()> {
        self.connect_to(task, addr, nonblock)
    }

    fn local(&self) -> Result<Address> {
        let inner = self.inner.lock();
        Ok(inner.name.as_ref().map_or_else(addr::unnamed, |n| n.to_sockaddr()))
    }

    fn peer(&self) -> Result<Address> {
        self.peer_name()
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        self.end(how)
    }

    fn send(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        self.send_message(args)
    }

    fn recv(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        self.recv_message(args)
    }

    fn poll(&self, mut reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = &mut reg {
            reg.register(&self.wait);
        }
        let (mut events, state, peer) = {
            let i = self.inner.lock();
            let mut e = Events::ERR.when(i.error.is_some());
            e |= Events::HUP.when(i.shut_read && i.shut_write);
            e |= (Events::RDHUP | Events::READABLE).when(i.shut_read);
            let something = !i.queue.is_empty() || i.reading || !i.pending.is_empty();
            e |= Events::READABLE.when(something);
            e |= Events::HUP.when(self.connection_based() && i.state == State::Unconnected);
            (e, i.state, i.peer.clone())
        };
        let mut writable = state != State::Listening && self.account.writable();
        if self.kind == Kind::Dgram
            && let Some(p) = peer
        {
            // Room in the peer's queue counts too.
            if let Some(reg) = &mut reg {
                reg.register(&p.wait);
            }
            writable &= p.has_dgram_room(self);
        }
        events |= (Events::WRITABLE | Events::WRBAND).when(writable);
        events
    }

    fn get_option(&self, task: &Task, level: i32, name: i32, max: usize) -> Result<Vec<u8>> {
        if level != libc::SOL_SOCKET {
            return Err(EOPNOTSUPP);
        }
        let cred = self.inner.lock().peer_cred.clone();
        let ns = task.cred().user_ns.clone();
        match name {
            libc::SO_PEERCRED => {
                let (pid, uid, gid) = cred.map_or((0, u32::MAX, u32::MAX), |c| {
                    (task.show_pid(c.process.pid), ns.uid(c.uid), ns.gid(c.gid))
                });
                Ok([pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat())
            }
            libc::SO_PEERGROUPS => {
                let groups = cred.ok_or(ENODATA)?.groups;
                if max < groups.len() * 4 {
                    return Err(ERANGE);
                }
                Ok(groups.iter().flat_map(|g| ns.gid(*g).to_le_bytes()).collect())
            }
            // As sock_diag(7) tells it.
            libc::SO_COOKIE => Ok(self.ino().to_le_bytes().to_vec()),
            SO_PEERPIDFD => {
                let process = cred.ok_or(ENODATA)?.process;
                let fd = task.install_fd(PidFd::open(task, &process, 0), true)?;
                Ok(fd.to_le_bytes().to_vec())
            }
            _ => Err(ENOPROTOOPT),
        }
    }

    fn set_option(&self, _task: &Task, level: i32, _name: i32, _value: &[u8]) -> Result<()> {
        Err(if level == libc::SOL_SOCKET { ENOPROTOOPT } else { EOPNOTSUPP })
    }

    fn take_error(&self) -> Option<Errno> {
        self.inner.lock().error.take()
    }

    fn listening(&self) -> bool {
        self.inner.lock().state == State::Listening
    }

    fn ioctl(&self, cx: &mut Ctx<'_>, cmd: u32, arg: u64) -> Result<u64> {
        const SIOCINQ: u32 = libc::FIONREAD as u32;
        const SIOCOUTQ: u32 = libc::TIOCOUTQ as u32;
        let n = match cmd {
            SIOCINQ => {
                let inner = self.inner.lock();
                if inner.state == State::Listening {
                    return Err(EINVAL);
                }
                match self.kind {
                    Kind::Dgram => inner.queue.front().map_or(0, |p| p.bytes().len()),
                    _ => inner.queue.iter().map(|p| p.bytes().len()).sum(),
                }
            }
            SIOCOUTQ => self.account.used.load(std::sync::atomic::Ordering::SeqCst),
            _ => return Err(ENOTTY),
        };
        let n = i32::try_from(n).unwrap_or(i32::MAX);
        user::write_obj(&cx.task, arg, &n)?;
        Ok(0)
    }

    fn net_ns(&self, task: &Task) -> Option<Arc<NetNs>> {
        let net = task.ns().net.clone();
        // Of another one only the number is known.
        (net.id == self.net).then_some(net)
    }

    fn opened(&self, inode: &Arc<AnonInode>) {
        let _ = self.file.set(Arc::downgrade(inode));
    }

    fn close(&self) {
        self.finish();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
