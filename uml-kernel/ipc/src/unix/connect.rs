//! listen(2), connect(2), accept(2), shutdown(2), and the end of a socket.

use std::sync::Arc;
use std::time::Instant;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::signal::Restart;
use uml_core::task::{Task, WaitKind};

use super::addr::Name;
use super::{PeerCred, SOMAXCONN, State, UnixSocket, addr, rights};
use crate::socket::{Address, Shutdown, Socket};

/// A wait with a limit (SO_RCVTIMEO, SO_SNDTIMEO) is never restarted (signal(7)).
pub(super) fn no_restart(task: &Task, deadline: Option<Instant>) {
    if deadline.is_some() {
        task.restart.set(Restart::Never);
    }
}

impl UnixSocket {
    pub(super) fn start_listening(&self, task: &Task, backlog: i32) -> Result<()> {
        if !self.connection_based() {
            return Err(EOPNOTSUPP);
        }
        let mut inner = self.inner.lock();
        if inner.name.is_none() || !matches!(inner.state, State::Unconnected | State::Listening) {
            return Err(EINVAL);
        }
        // A negative backlog is a huge one on Linux.
        let limit = if (0..SOMAXCONN).contains(&backlog) { backlog } else { SOMAXCONN };
        let grew = limit as usize > inner.backlog;
        inner.backlog = limit as usize;
        inner.state = State::Listening;
        inner.listen_cred = Some(PeerCred::of(task));
        drop(inner);
        if grew {
            self.wait.wake_all(Events::MSG);
        }
        Ok(())
    }

    pub(super) fn connect_to(&self, task: &Task, addr: &[u8], nonblock: bool) -> Result<()> {
        if !self.connection_based() {
            return self.connect_datagram(task, addr);
        }
        if self.options.passcred.load(std::sync::atomic::Ordering::Relaxed) {
            self.autobind(task)?;
        }
        let deadline = self.options.send_deadline();
        loop {
            let listener = self.find(task, addr)?;
            match self.try_connect(task, &listener) {
                Err(EAGAIN) if !nonblock => {}
                other => return other,
            }
            no_restart(task, deadline);
            let room = || {
                let l = listener.inner.lock();
                (l.state != State::Listening || l.pending.len() <= l.backlog).then_some(())
            };
            let kind = WaitKind::Interruptible;
            let reason = "unix_stream_connect";
            let got = task.wait(&listener.wait, Events::MSG, kind, deadline, reason, room)?;
            if got.is_none() {
                return Err(EAGAIN);
            }
        }
    }

    fn try_connect(&self, task: &Task, listener: &Arc<UnixSocket>) -> Result<()> {
        let me = self.this()?;
        match self.inner.lock().state {
            State::Unconnected => {}
            State::Connected => return Err(EISCONN),
            State::Listening | State::Dead => return Err(EINVAL),
        }
        let server = UnixSocket::new(task, self.kind, listener.net, listener.options.inherit());
        let apart = listener.is_apart(task);
        let mut l = listener.inner.lock();
        if l.state != State::Listening || l.shut_read {
            return Err(ECONNREFUSED);
        }
        if l.pending.len() > l.backlog {
            return Err(EAGAIN);
        }
        if apart && matches!(l.name, Some(Name::Abstract(_))) {
            return Err(EPERM);
        }
        {
            let mut s = server.inner.lock_nested();
            s.state = State::Connected;
            s.peer = Some(me.clone());
            s.peer_cred = Some(PeerCred::of(task));
            s.name = l.name.clone();
        }
        {
            // Listener before connection; only one thread can win this.
            let mut c = self.inner.lock_nested();
            if c.state != State::Unconnected {
                return Err(if c.state == State::Connected { EISCONN } else { EINVAL });
            }
            c.state = State::Connected;
            c.peer = Some(server.clone());
            c.peer_cred = l.listen_cred.clone();
        }
        l.pending.push_back(server);
        drop(l);
        listener.wait.wake_one(Events::READABLE);
        self.wait.wake_all(Events::WRITABLE);
        Ok(())
    }

    fn connect_datagram(&self, task: &Task, addr: &[u8]) -> Result<()> {
        let family = addr.get(..2).ok_or(EINVAL)?;
        if family == (libc::AF_UNSPEC as u16).to_le_bytes() {
            let old = {
                let mut inner = self.inner.lock();
                inner.state = State::Unconnected;
                inner.peer.take()
            };
            drop(old);
            return Ok(());
        }
        if self.options.passcred.load(std::sync::atomic::Ordering::Relaxed) {
            self.autobind(task)?;
        }
        let other = self.find(task, addr)?;
        {
            let o = other.inner.lock();
            if o.state == State::Dead {
                return Err(ECONNREFUSED);
            }
            if o.peer.as_ref().is_some_and(|p| !std::ptr::eq(&**p, self)) {
                return Err(EPERM);
            }
        }
        self.check_scope(task, &other)?;
        let old = {
            let mut inner = self.inner.lock();
            inner.state = State::Connected;
            inner.peer.replace(other)
        };
        drop(old);
        self.wait.wake_all(Events::WRITABLE);
        Ok(())
    }

    pub(super) fn accept_next(
        &self,
        task: &Task,
        nonblock: bool,
    ) -> Result<(Arc<dyn Socket>, Address)> {
        if !self.connection_based() {
            return Err(EOPNOTSUPP);
        }
        let deadline = self.options.recv_deadline();
        let take = || {
            let mut inner = self.inner.lock();
            if inner.state != State::Listening {
                return Err(EINVAL);
            }
            if let Some(s) = inner.pending.pop_front() {
                return Ok(s);
            }
            if inner.shut_read { Err(EINVAL) } else { Err(EAGAIN) }
        };
        let first = take();
        let socket = match first {
            Err(EAGAIN) if !nonblock => {
                no_restart(task, deadline);
                let cond = || match take() {
                    Err(EAGAIN) => None,
                    other => Some(other),
                };
                let mask = Events::READABLE | Events::HUP;
                let kind = WaitKind::Interruptible;
                let got =
                    task.wait_exclusive(&self.wait, mask, kind, deadline, "inet_csk_accept", cond)?;
                got.unwrap_or(Err(EAGAIN))?
            }
            other => other?,
        };
        self.wait.wake_all(Events::MSG);
        let from = socket.peer_name().unwrap_or_else(|_| addr::unnamed());
        Ok((socket, from))
    }

    pub(super) fn peer_name(&self) -> Result<Address> {
        let peer = self.inner.lock().peer.clone().ok_or(ENOTCONN)?;
        let name = peer.inner.lock().name.as_ref().map(|n| n.to_sockaddr());
        Ok(name.unwrap_or_else(addr::unnamed))
    }

    pub(super) fn end(&self, how: Shutdown) -> Result<()> {
        let (read, write) = match how {
            Shutdown::Read => (true, false),
            Shutdown::Write => (false, true),
            Shutdown::Both => (true, true),
        };
        let peer = {
            let mut inner = self.inner.lock();
            inner.shut_read |= read;
            inner.shut_write |= write;
            inner.peer.clone().filter(|_| self.connection_based())
        };
        self.wait.wake_all(Events::ALL);
        if let Some(p) = peer {
            p.peer_shut(write, read);
        }
        Ok(())
    }

    /// The other side ended its writing or reading half.
    fn peer_shut(&self, read: bool, write: bool) {
        {
            let mut inner = self.inner.lock();
            inner.shut_read |= read;
            inner.shut_write |= write;
        }
        self.wait.wake_all(Events::ALL);
    }

    /// The last descriptor is closed.
    pub(super) fn finish(&self) {
        let (name, bound, peer, packets, pending, was) = {
            let mut inner = self.inner.lock();
            let was = std::mem::replace(&mut inner.state, State::Dead);
            inner.shut_read = true;
            inner.shut_write = true;
            (
                inner.name.clone(),
                inner.bound.take(),
                inner.peer.take(),
                std::mem::take(&mut inner.queue),
                std::mem::take(&mut inner.pending),
                was,
            )
        };
        if was == State::Dead {
            return;
        }
        if let (Some(n), Some(kernel)) = (&name, bound) {
            self.release(n, kernel.upgrade().as_ref());
        }
        if let Some(p) = peer
            && self.connection_based()
        {
            let mut inner = p.inner.lock();
            inner.shut_read = true;
            inner.shut_write = true;
            // Data that nobody will read is reported to its sender.
            if !packets.is_empty() {
                inner.error = Some(ECONNRESET);
            }
            drop(inner);
            p.wait.wake_all(Events::ALL);
        }
        for s in pending {
            // Connections that nobody accepted.
            let client = s.inner.lock().peer.clone();
            s.finish();
            if let Some(c) = client {
                c.inner.lock().error = Some(ECONNRESET);
                c.wait.wake_all(Events::ALL);
            }
        }
        drop(packets);
        self.wait.wake_all(Events::ALL);
        rights::collect();
    }
}
