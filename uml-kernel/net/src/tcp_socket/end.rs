//! The end of a socket: listeners that stop, connections that are closed, aborted or destroyed.

use std::collections::VecDeque;

use uml_abi::errno::*;
use uml_base::Events;

use super::{Role, TcpSocket};
use crate::ended::Ended;
use crate::sock;
use crate::tcp::info::Info;
use crate::tcp::{Out, State};
use crate::tcp_table::Quad;
use crate::time::Time;

impl TcpSocket {
    pub(crate) fn stop_listening(&self) {
        let (waiting, port) = {
            let mut i = self.inner.lock();
            let port = i.local.port();
            let waiting = match std::mem::replace(&mut i.role, Role::Idle) {
                Role::Listen(l) => l.into_waiting(),
                other => {
                    i.role = other;
                    VecDeque::new()
                }
            };
            if i.claimed && !i.bound {
                i.claimed = false;
                self.stack.tcp.ports.release(port, self.id);
            }
            (waiting, port)
        };
        self.stack.tcp.unlisten(port, self);
        self.stack.tcp.ports.change(port, self.id, |c| c.listening = false);
        for s in waiting {
            s.close(true);
        }
        self.wait.wake_all(Events::ALL);
    }

    /// Ends a connection or a listener while programs have it (SOCK_DESTROY): they find `ECONNABORTED`.
    pub fn destroy(&self) {
        let listening = {
            let mut i = self.inner.lock();
            let listening = i.is_listening();
            if listening {
                (i.ended, i.error) = (true, Some(ECONNABORTED));
            }
            listening
        };
        if listening {
            self.stop_listening();
            return;
        }
        let _ = self.with(|t, now, out| t.destroy(ECONNABORTED, now, out));
    }

    /// Drops a request that is not confirmed.
    pub fn forget(&self, q: &Quad) {
        if let Role::Listen(l) = &mut self.inner.lock().role {
            l.forget(q);
        }
    }

    /// Connections that the other side has begun and not confirmed: their ends, how often they were answered again, and when
    /// they are next.
    pub fn half_open(&self) -> Vec<(Quad, u32, Time)> {
        match &self.inner.lock().role {
            Role::Listen(l) => l.half_open(),
            _ => Vec::new(),
        }
    }

    /// The last descriptor is closed; `abort` resets the connection (SO_LINGER with zero).
    pub fn close(&self, abort: bool) {
        let listening = self.inner.lock().is_listening();
        if listening {
            self.stop_listening();
        }
        self.stack.enter(|cx| {
            let mut i = self.inner.lock();
            i.closed = true;
            let mut out = Out::default();
            match &mut i.role {
                Role::Conn(t) => {
                    t.close(abort, cx.now, &mut out);
                    self.after(cx, &mut i, out);
                }
                _ => {
                    if std::mem::take(&mut i.claimed) {
                        self.stack.tcp.ports.release(i.local.port(), self.id);
                    }
                }
            }
        });
        sock::leave_all(&self.stack, &self.opts);
    }

    /// connect(2) with AF_UNSPEC.
    pub fn disconnect(&self) {
        if self.inner.lock().is_listening() {
            self.stop_listening();
            return;
        }
        let _ = self.with(|t, now, out| t.abort(now, out));
        let mut i = self.inner.lock();
        i.role = Role::Idle;
        i.remote = None;
        i.ended = false;
    }

    /// The last descriptor is closed.
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed
    }

    /// Bytes of a closed socket that its peer has not acknowledged, its FIN included.
    pub(crate) fn undelivered(&self) -> usize {
        let i = self.inner.lock();
        match &i.role {
            Role::Conn(t)
                if i.closed
                    && matches!(t.state, State::FinWait1 | State::Closing | State::LastAck) =>
            {
                t.unacked() + 1
            }
            _ => 0,
        }
    }

    /// Everything sent is acknowledged, or the connection is over (SO_LINGER).
    pub fn lingered(&self) -> bool {
        match &self.inner.lock().role {
            Role::Conn(t) => {
                !matches!(t.state, State::FinWait1 | State::Closing | State::LastAck)
                    && t.unacked() == 0
                    || t.state == State::Closed
            }
            _ => true,
        }
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        if !self.stack.ends.wanted() {
            return;
        }
        let now = self.stack.now();
        let i = self.inner.get_mut();
        let known = match (&i.role, i.last.take()) {
            (Role::Conn(t), _) => t.info(now),
            (_, Some(last)) => *last,
            _ => Info::default(),
        };
        let had = i.last_local.filter(|_| i.local.port() == 0);
        let (local, remote) = (had.unwrap_or(i.local), i.remote);
        let e = Ended {
            v6: self.v6,
            tcp: Some(Info { state: State::Closed as u8, ..known }),
            local,
            remote,
            id: self.id,
            device: self.opts.get_mut().device,
        };
        self.stack.ends.add(&self.stack, e);
    }
}
