//! What programs do with a connection: data out and in, the end of a direction.

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;

use super::{Role, TcpSocket};
use crate::packet::{Data, Frag};
use crate::tcp::State;

impl TcpSocket {
    /// Room for a write: `EAGAIN` when there is none, `EPIPE`, `ENOTCONN`, the connection's error.
    pub fn room(&self) -> Result<usize> {
        let mut i = self.inner.lock();
        match &mut i.role {
            Role::Conn(t) => {
                if let Some(e) = t.error.take() {
                    return Err(e);
                }
                t.room()
            }
            _ => Err(EPIPE),
        }
    }

    /// True when a writer that waits has something to do: enough room, or an end.
    pub fn room_or_over(&self) -> bool {
        match &self.inner.lock().role {
            Role::Conn(t) => match t.room() {
                Ok(_) => t.writable(),
                Err(EAGAIN) => false,
                Err(_) => true,
            },
            _ => true,
        }
    }

    /// True when a reader that waits for `n` bytes from `skip` on has something to do.
    pub fn readable_or_over(&self, skip: usize, n: usize) -> bool {
        match &self.inner.lock().role {
            Role::Conn(t) => {
                let have = t.readable().saturating_sub(skip);
                have >= n.min(t.rcvbuf() / 2).max(1)
                    || t.error.is_some()
                    || t.shut_read
                    || t.fin_reached()
                    || t.state == State::Closed
                    || (have > 0 && t.to_mark().is_some())
            }
            _ => true,
        }
    }

    /// Appends data; the caller asked for room.
    pub fn write(&self, data: Vec<Frag>, more: bool, urgent: bool) -> Result<()> {
        self.with(|t, now, out| t.write(data, more, urgent, now, out))
    }

    /// Data to read, from `skip` on; see [`Tcb::peek`]. `ENOTCONN` when there never was a connection.
    pub fn peek(&self, skip: usize, max: usize) -> Result<Data> {
        let mut i = self.inner.lock();
        match &mut i.role {
            Role::Conn(t) => t.peek(skip, max),
            _ => Err(ENOTCONN),
        }
    }

    /// The program took `n` bytes.
    pub fn consume(&self, n: usize) {
        let _ = self.with(|t, now, out| t.consume(n, now, out));
    }

    /// shutdown(2): `ENOTCONN`.
    pub fn shutdown(&self, read: bool, write: bool) -> Result<()> {
        if self.inner.lock().is_listening() {
            // Ends listening; waiting accept calls fail (as Linux has it).
            if read {
                self.stop_listening();
            }
            return Ok(());
        }
        self.with(|t, now, out| {
            if t.state == State::Closed {
                return Err(ENOTCONN);
            }
            if write {
                t.finish(now, out);
            }
            if read {
                t.shut_read = true;
                out.events |= Events::ALL;
            }
            Ok(())
        })?
    }
}
