//! Sending (unix(7), send(2)).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::io::Source;
use uml_core::signal::SigInfo;
use uml_core::task::{Cap, Task, WaitKind};

use super::connect::no_restart;
use super::rights::{Rights, SCM_MAX_FD};
use super::{Charge, Creds, Kind, MAX_DGRAM_QLEN, Packet, State, UnixSocket};
use crate::socket::SendArgs;
use crate::socket::message::parse_control;

/// Largest piece of a stream that is copied at once.
const CHUNK: usize = 64 * 1024;

/// What goes with the first packet of a send.
struct Ancillary {
    creds: Option<Creds>,
    rights: Option<Rights>,
}

fn word(data: &[u8], at: usize) -> i32 {
    i32::from_le_bytes([data[at], data[at + 1], data[at + 2], data[at + 3]])
}

/// Parses SCM_RIGHTS and SCM_CREDENTIALS.
fn ancillary(task: &Task, control: &[u8]) -> Result<Ancillary> {
    let mut out = Ancillary { creds: None, rights: None };
    let mut files = Vec::new();
    for c in parse_control(control)? {
        if c.level != libc::SOL_SOCKET {
            continue;
        }
        match c.kind {
            libc::SCM_RIGHTS => {
                if c.data.len() / 4 + files.len() > SCM_MAX_FD {
                    return Err(EINVAL);
                }
                for fd in c.data.chunks_exact(4) {
                    files.push(task.file(word(fd, 0))?);
                }
            }
            libc::SCM_CREDENTIALS => {
                if c.data.len() != 12 {
                    return Err(EINVAL);
                }
                let (pid, uid, gid) =
                    (word(c.data, 0), word(c.data, 4) as u32, word(c.data, 8) as u32);
                out.creds = Some(checked_creds(task, pid, uid, gid)?);
            }
            _ => return Err(EINVAL),
        }
    }
    if !files.is_empty() {
        out.rights = Some(Rights::new(task, files)?);
    }
    Ok(out)
}

/// Credentials a process may claim (unix(7), SCM_CREDENTIALS).
fn checked_creds(task: &Task, pid: i32, uid: u32, gid: u32) -> Result<Creds> {
    let c = task.cred();
    let pid = task.kernel_pid(pid)?;
    let (uid, gid) = (c.user_ns.kuid(uid)?, c.user_ns.kgid(gid)?);
    let own_ns = &task.process.pid_ns.owner;
    let pid_ok = pid == task.process.pid || c.capable_in(own_ns, Cap::SysAdmin);
    let uid_ok = [c.uid, c.euid, c.suid].contains(&uid) || c.capable_here(Cap::Setuid);
    let gid_ok = [c.gid, c.egid, c.sgid].contains(&gid) || c.capable_here(Cap::Setgid);
    if !(pid_ok && uid_ok && gid_ok) {
        return Err(EPERM);
    }
    let process = if pid == task.process.pid {
        task.process.clone()
    } else {
        let kernel = task.kernel();
        let tree = kernel.tree.read();
        tree.get(pid).map(|p| p.process.clone()).ok_or(ESRCH)?
    };
    Ok(Creds { pid, uid, gid, process })
}

impl UnixSocket {
    pub(super) fn send_message(&self, args: &mut SendArgs<'_>) -> Result<usize> {
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        let mut extra = ancillary(args.task, args.control)?;
        match self.kind {
            Kind::Stream => self.send_stream(args, &mut extra),
            Kind::Dgram => self.send_datagram(args, extra),
            Kind::SeqPacket => {
                {
                    let mut inner = self.inner.lock();
                    if let Some(e) = inner.error.take() {
                        return Err(e);
                    }
                    if inner.state != State::Connected {
                        return Err(ENOTCONN);
                    }
                }
                // A destination is ignored on a connected socket of this type.
                args.addr = None;
                self.send_datagram(args, extra)
            }
        }
    }

    fn wants_creds(&self) -> bool {
        let o = &self.options;
        o.passcred.load(Ordering::Relaxed) || o.passpidfd.load(Ordering::Relaxed)
    }

    /// The credentials for a packet: those the program gave, or its own when either side asked.
    fn creds_for(&self, task: &Task, other: &UnixSocket, given: &Option<Creds>) -> Option<Creds> {
        if given.is_some() {
            return given.clone();
        }
        (self.wants_creds() || other.wants_creds()).then(|| {
            let c = task.cred();
            Creds { pid: task.process.pid, uid: c.uid, gid: c.gid, process: task.process.clone() }
        })
    }

    /// Waits until the account has room; `EAGAIN` when it may not wait.
    fn wait_room(&self, task: &Task, nonblock: bool) -> Result<()> {
        if self.account.has_room() {
            return Ok(());
        }
        if nonblock {
            return Err(EAGAIN);
        }
        let deadline = self.options.send_deadline();
        no_restart(task, deadline);
        let room = || {
            let over = {
                let inner = self.inner.lock();
                inner.shut_write || inner.error.is_some()
            };
            (over || self.account.has_room()).then_some(())
        };
        let mask = Events::WRITABLE | Events::ERR | Events::HUP;
        let kind = WaitKind::Interruptible;
        let got = task.wait(&self.wait, mask, kind, deadline, "sock_alloc_send_pskb", room)?;
        got.ok_or(EAGAIN)
    }

    /// A packet of the next `n` bytes of `src`.
    fn packet(&self, src: &mut dyn Source, n: usize) -> Result<Packet> {
        let spare = self.account.spare.lock().take();
        let mut data = match spare {
            Some(s) if s.len() >= n && s.len() <= (n * 2).max(4096) => s,
            _ => vec![0; n.max(256)].into_boxed_slice(),
        };
        let got = if n == 0 { 0 } else { src.take(&mut data[..n])? };
        let charge = Charge::new(&self.account, got);
        Ok(Packet { data, off: 0, end: got, charge, creds: None, rights: None, from: None })
    }

    fn send_stream(&self, args: &mut SendArgs<'_>, extra: &mut Ancillary) -> Result<usize> {
        if args.addr.is_some() {
            let connected = self.inner.lock().state == State::Connected;
            return Err(if connected { EISCONN } else { EOPNOTSUPP });
        }
        let mut done = 0;
        let result = self.stream_pieces(args, extra, &mut done);
        if result == Err(EPIPE) && done == 0 && args.flags & libc::MSG_NOSIGNAL == 0 {
            args.task.send_signal(SigInfo::user(libc::SIGPIPE, args.task));
        }
        match result {
            Err(e) if done == 0 => Err(e),
            _ => Ok(done),
        }
    }

    fn stream_pieces(
        &self,
        args: &mut SendArgs<'_>,
        extra: &mut Ancillary,
        done: &mut usize,
    ) -> Result<()> {
        let peer = {
            let inner = self.inner.lock();
            if inner.state != State::Connected {
                return Err(ENOTCONN);
            }
            if inner.shut_write {
                return Err(EPIPE);
            }
            inner.peer.clone().ok_or(ENOTCONN)?
        };
        while args.data.remaining() > 0 {
            self.wait_room(args.task, args.nonblock)?;
            {
                let mut inner = self.inner.lock();
                if let Some(e) = inner.error.take() {
                    return Err(e);
                }
                if inner.shut_write {
                    return Err(EPIPE);
                }
            }
            let most = (self.account.limit() / 2).saturating_sub(64).clamp(1, CHUNK);
            let want = args.data.remaining().min(most);
            let mut p = self.packet(args.data, want)?;
            let n = p.end;
            p.creds = self.creds_for(args.task, &peer, &extra.creds);
            p.rights = extra.rights.take();
            if let Some((e, p)) = peer.deliver(p) {
                drop(p);
                return Err(e);
            }
            *done += n;
        }
        Ok(())
    }

    /// Puts a packet on the queue; gives it back when nobody will read it.
    fn deliver(&self, p: Packet) -> Option<(Errno, Packet)> {
        let mut inner = self.inner.lock();
        if inner.state == State::Dead || inner.shut_read {
            drop(inner);
            return Some((EPIPE, p));
        }
        inner.queue.push_back(p);
        drop(inner);
        self.wait.wake_one(Events::READABLE);
        None
    }

    /// The receiver of a datagram: the given address or the connected peer.
    fn receiver(&self, args: &SendArgs<'_>) -> Result<Arc<UnixSocket>> {
        if let Some(a) = args.addr {
            let other = self.find(args.task, a)?;
            self.check_scope(args.task, &other)?;
            return Ok(other);
        }
        let inner = self.inner.lock();
        inner.peer.clone().ok_or(ENOTCONN)
    }

    fn send_datagram(&self, args: &mut SendArgs<'_>, mut extra: Ancillary) -> Result<usize> {
        if self.wants_creds() {
            self.autobind(args.task)?;
        }
        let len = args.data.remaining();
        if len > self.account.limit().saturating_sub(32) {
            return Err(EMSGSIZE);
        }
        if self.inner.lock().shut_write {
            return Err(EPIPE);
        }
        // A bad destination shows before anything waits.
        let mut other = self.receiver(args)?;
        self.wait_room(args.task, args.nonblock)?;
        let mut p = self.packet(args.data, len)?;
        if p.end < len {
            return Err(EFAULT);
        }
        p.rights = extra.rights.take();
        let deadline = self.options.send_deadline();
        loop {
            p.creds = self.creds_for(args.task, &other, &extra.creds);
            p.from = self.inner.lock().name.as_ref().map(|n| n.to_sockaddr());
            match self.try_deliver(&other, p) {
                None => return Ok(len),
                Some((EAGAIN, back)) if !args.nonblock => p = back,
                Some((ECONNREFUSED, _)) => {
                    self.forget_peer(&other);
                    return Err(ECONNREFUSED);
                }
                Some((e, _)) => return Err(e),
            }
            no_restart(args.task, deadline);
            let room = || other.has_dgram_room(self).then_some(());
            let kind = WaitKind::Interruptible;
            let reason = "unix_wait_for_peer";
            let got = args.task.wait(&other.wait, Events::MSG, kind, deadline, reason, room)?;
            if got.is_none() {
                return Err(EAGAIN);
            }
            other = self.receiver(args)?;
        }
    }

    /// Whether a datagram of `from` may be queued, or the wait for that is pointless.
    pub(super) fn has_dgram_room(&self, from: &UnixSocket) -> bool {
        let inner = self.inner.lock();
        let connected_back = inner.peer.as_ref().is_some_and(|p| std::ptr::eq(&**p, from));
        connected_back
            || std::ptr::eq(self, from)
            || inner.state == State::Dead
            || inner.shut_read
            || inner.queue.len() <= MAX_DGRAM_QLEN.load(Ordering::Relaxed)
    }

    fn try_deliver(&self, other: &Arc<UnixSocket>, p: Packet) -> Option<(Errno, Packet)> {
        if !other.has_dgram_room(self) {
            return Some((EAGAIN, p));
        }
        {
            let o = other.inner.lock();
            let taken = o.peer.as_ref().is_some_and(|q| !std::ptr::eq(&**q, self));
            let problem = match o.state {
                State::Dead if self.kind == Kind::SeqPacket => Some(EPIPE),
                State::Dead => Some(ECONNREFUSED),
                _ if taken => Some(EPERM),
                _ => None,
            };
            if let Some(e) = problem {
                drop(o);
                return Some((e, p));
            }
        }
        other.deliver(p)
    }

    /// The connected peer of a datagram socket is gone.
    fn forget_peer(&self, other: &Arc<UnixSocket>) {
        let old = {
            let mut inner = self.inner.lock();
            if !inner.peer.as_ref().is_some_and(|p| Arc::ptr_eq(p, other)) {
                return;
            }
            inner.state = State::Unconnected;
            inner.peer.take()
        };
        drop(old);
    }
}
