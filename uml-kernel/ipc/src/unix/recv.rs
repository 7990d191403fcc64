//! Receiving (unix(7), recv(2)).

use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::task::WaitKind;

use super::connect::no_restart;
use super::{Creds, Inner, Kind, Packet, State, UnixSocket};
use crate::pidfd::PidFd;
use crate::socket::{Control, Received, RecvArgs};

/// Reported for senders that are not known (the overflow user).
const OVERFLOW_ID: u32 = 65534;

/// A receive in progress.
#[derive(Default)]
struct Progress {
    out: Received,
    /// Credentials of what was taken so far; later bytes must have the same.
    creds: Option<Option<Creds>>,
    rights: bool,
}

impl UnixSocket {
    pub(super) fn recv_message(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if args.flags & libc::MSG_OOB != 0 {
            return Err(EOPNOTSUPP);
        }
        match self.kind {
            Kind::Stream => self.recv_stream(args),
            _ => self.recv_packet(args),
        }
    }

    /// What an empty queue means: an error, the end, or waiting (`EAGAIN`).
    fn empty(&self, inner: &mut Inner) -> Result<()> {
        if let Some(e) = inner.error.take() {
            return Err(e);
        }
        if inner.shut_read { Ok(()) } else { Err(EAGAIN) }
    }

    /// Sleeps until there is something or it makes no sense to wait. False when the time is up.
    fn wait_data(&self, args: &RecvArgs<'_>, deadline: Option<std::time::Instant>) -> Result<bool> {
        no_restart(args.task, deadline);
        let ready = || {
            let i = self.inner.lock();
            (!i.queue.is_empty() || i.error.is_some() || i.shut_read).then_some(())
        };
        let mask = Events::READABLE | Events::ERR | Events::HUP;
        let kind = WaitKind::Interruptible;
        let got = args.task.wait_exclusive(&self.wait, mask, kind, deadline, "unix_recv", ready)?;
        Ok(got.is_some())
    }

    fn recv_stream(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        let mut p = Progress::default();
        {
            let mut inner = self.inner.lock();
            if inner.state != State::Connected {
                // After an error such as a refused connection that error comes first.
                return Err(inner.error.take().unwrap_or(EINVAL));
            }
        }
        let want = args.data.remaining();
        let low = if args.flags & libc::MSG_WAITALL != 0 {
            want
        } else {
            (self.options.rcvlowat.load(Ordering::Relaxed).max(1) as usize).min(want)
        };
        let deadline = self.options.recv_deadline();
        let peek = args.flags & libc::MSG_PEEK != 0;
        let mut waited = false;
        let problem = loop {
            if want == 0 {
                break None;
            }
            let step =
                if peek { self.peek_stream(args, &mut p) } else { self.take_stream(args, &mut p) };
            let problem = match step {
                // Something that ends the call whatever is still asked for.
                Ok(true) => break None,
                Ok(false) if p.out.len >= low => break None,
                Ok(false) => {
                    let mut inner = self.inner.lock();
                    if !inner.queue.is_empty() && !peek {
                        continue;
                    }
                    match self.empty(&mut inner) {
                        Ok(()) => break None,
                        Err(e) => e,
                    }
                }
                Err(e) => break Some(e),
            };
            if problem != EAGAIN || args.nonblock {
                break Some(problem);
            }
            if peek {
                // Peeked bytes are looked at again from the start once there are more.
                if p.out.len > 0 {
                    break None;
                }
            }
            waited = true;
            match self.wait_data(args, deadline) {
                Ok(true) => {}
                Ok(false) => break Some(EAGAIN),
                Err(e) => break Some(e),
            }
        };
        if waited && !self.inner.lock().queue.is_empty() {
            self.wait.wake_one(Events::READABLE);
        }
        if let Some(e) = problem
            && p.out.len == 0
            && !p.rights
        {
            return Err(e);
        }
        self.options.received(p.out.len, peek);
        self.add_creds(args, &mut p);
        Ok(p.out)
    }

    /// Whether `packet` may be joined to what was taken.
    fn joins(&self, p: &Progress, packet: &Packet) -> bool {
        match &p.creds {
            Some(c) if self.options.passcred.load(Ordering::Relaxed) => *c == packet.creds,
            _ => true,
        }
    }

    /// Takes bytes off the queue until it is empty, the caller has enough or a boundary is met. True
    /// when the call is over.
    fn take_stream(&self, args: &mut RecvArgs<'_>, p: &mut Progress) -> Result<bool> {
        let _side = self.read_side.lock();
        loop {
            if args.data.remaining() == 0 {
                return Ok(true);
            }
            let mut packet = {
                let mut inner = self.inner.lock();
                let Some(front) = inner.queue.front() else { return Ok(false) };
                if !self.joins(p, front) {
                    return Ok(true);
                }
                let Some(packet) = inner.queue.pop_front() else { return Ok(false) };
                inner.reading = true;
                packet
            };
            let want = packet.bytes().len().min(args.data.remaining());
            let got = args.data.put(&packet.bytes()[..want]);
            let n = *got.as_ref().unwrap_or(&0);
            packet.off += n;
            p.out.len += n;
            if p.creds.is_none() {
                p.creds = Some(packet.creds.clone());
                p.out.addr = packet.from.clone();
            }
            if got.is_ok()
                && let Some(r) = packet.rights.take()
            {
                // Descriptors come with the first byte of their packet and end the call.
                p.rights = true;
                if args.want_control {
                    p.out.control.push(Control::Rights(r.land()));
                } else {
                    p.out.flags |= libc::MSG_CTRUNC;
                    drop(r);
                }
            }
            let rest = packet.off < packet.end;
            {
                let mut inner = self.inner.lock();
                inner.reading = false;
                if rest && inner.state != State::Dead {
                    inner.queue.push_front(packet);
                } else {
                    drop(inner);
                    packet.recycle();
                }
            }
            match got {
                Err(e) if p.out.len == 0 => return Err(e),
                Err(_) => return Ok(true),
                Ok(n) if n < want => return Ok(true),
                Ok(_) if p.rights => return Ok(true),
                Ok(_) => {}
            }
        }
    }

    /// As [`UnixSocket::take_stream`], leaving everything in place.
    fn peek_stream(&self, args: &mut RecvArgs<'_>, p: &mut Progress) -> Result<bool> {
        let _side = self.read_side.lock();
        let mut bytes = Vec::new();
        let mut skip = self.options.peek_start(true);
        {
            let inner = self.inner.lock();
            for packet in &inner.queue {
                if skip >= packet.bytes().len() {
                    skip -= packet.bytes().len();
                    continue;
                }
                if !self.joins(p, packet) || bytes.len() >= args.data.remaining() {
                    break;
                }
                let rest = &packet.bytes()[std::mem::take(&mut skip)..];
                let n = rest.len().min(args.data.remaining() - bytes.len());
                bytes.extend_from_slice(&rest[..n]);
                p.creds.get_or_insert_with(|| packet.creds.clone());
                if let Some(r) = &packet.rights {
                    p.rights = true;
                    if args.want_control {
                        p.out.control.push(Control::Rights(r.duplicate()));
                    }
                    break;
                }
            }
        }
        if bytes.is_empty() {
            return Ok(false);
        }
        p.out.len = args.data.put(&bytes)?;
        Ok(true)
    }

    fn recv_packet(&self, args: &mut RecvArgs<'_>) -> Result<Received> {
        if self.kind == Kind::SeqPacket {
            let mut inner = self.inner.lock();
            if inner.state != State::Connected {
                return Err(inner.error.take().unwrap_or(ENOTCONN));
            }
        }
        let deadline = self.options.recv_deadline();
        let peek = args.flags & libc::MSG_PEEK != 0;
        loop {
            let problem = {
                let mut inner = self.inner.lock();
                if inner.queue.is_empty() {
                    match self.empty(&mut inner) {
                        // The end: an empty message.
                        Ok(()) => return Ok(Received::default()),
                        Err(e) => e,
                    }
                } else if peek {
                    drop(inner);
                    if let Some(r) = self.peek_packet(args)? {
                        return Ok(r);
                    }
                    if self.options.peek_start(true) == 0 {
                        continue;
                    }
                    // Nothing lies beyond SO_PEEK_OFF yet.
                    EAGAIN
                } else if let Some(packet) = inner.queue.pop_front() {
                    drop(inner);
                    // Senders wait for room in this queue.
                    self.wait.wake_all(Events::MSG | Events::WRITABLE);
                    return self.finish_packet(args, packet);
                } else {
                    EAGAIN
                }
            };
            if problem != EAGAIN || args.nonblock {
                return Err(problem);
            }
            if !self.wait_data(args, deadline)? {
                return Err(EAGAIN);
            }
        }
    }

    /// Copies the message out; what does not fit is lost.
    fn finish_packet(&self, args: &mut RecvArgs<'_>, mut packet: Packet) -> Result<Received> {
        let full = packet.bytes().len();
        let n = full.min(args.data.remaining());
        let put = if n == 0 { 0 } else { args.data.put(&packet.bytes()[..n])? };
        if put < n {
            return Err(EFAULT);
        }
        let mut p = Progress { creds: Some(packet.creds.clone()), ..Progress::default() };
        p.out.addr = packet.from.take();
        if let Some(r) = packet.rights.take() {
            if args.want_control {
                p.out.control.push(Control::Rights(r.land()));
            } else {
                p.out.flags |= libc::MSG_CTRUNC;
            }
        }
        packet.recycle();
        self.options.received(full, false);
        self.length(args, &mut p, full, n);
        self.add_creds(args, &mut p);
        Ok(p.out)
    }

    fn peek_packet(&self, args: &mut RecvArgs<'_>) -> Result<Option<Received>> {
        let mut p = Progress::default();
        let (bytes, full) = {
            let inner = self.inner.lock();
            let mut skip = self.options.peek_start(true);
            let packet = inner.queue.iter().find(|q| {
                let here = skip < q.bytes().len() || skip == 0;
                skip -= if here { 0 } else { q.bytes().len() };
                here
            });
            let Some(packet) = packet else { return Ok(None) };
            let all = &packet.bytes()[skip..];
            p.creds = Some(packet.creds.clone());
            p.out.addr = packet.from.clone();
            if args.want_control
                && let Some(r) = &packet.rights
            {
                p.out.control.push(Control::Rights(r.duplicate()));
            }
            (all[..all.len().min(args.data.remaining())].to_vec(), all.len())
        };
        if !bytes.is_empty() && args.data.put(&bytes)? < bytes.len() {
            return Err(EFAULT);
        }
        self.options.received(bytes.len(), true);
        self.length(args, &mut p, full, bytes.len());
        self.add_creds(args, &mut p);
        Ok(Some(p.out))
    }

    fn length(&self, args: &RecvArgs<'_>, p: &mut Progress, full: usize, copied: usize) {
        if copied < full {
            p.out.flags |= libc::MSG_TRUNC;
        }
        p.out.len = if args.flags & libc::MSG_TRUNC != 0 { full } else { copied };
    }

    /// SCM_CREDENTIALS and SCM_PIDFD, in front of descriptors, as Linux orders them.
    fn add_creds(&self, args: &RecvArgs<'_>, p: &mut Progress) {
        let passcred = self.options.passcred.load(Ordering::Relaxed);
        let passpidfd = self.options.passpidfd.load(Ordering::Relaxed);
        if !passcred && !passpidfd {
            return;
        }
        if !args.want_control {
            p.out.flags |= libc::MSG_CTRUNC;
            return;
        }
        let creds = p.creds.take().flatten();
        let mut head = Vec::new();
        if passcred {
            let ns = args.task.cred().user_ns.clone();
            let (pid, uid, gid) = creds.as_ref().map_or((0, OVERFLOW_ID, OVERFLOW_ID), |c| {
                (args.task.show_pid(c.pid), ns.uid(c.uid), ns.gid(c.gid))
            });
            let data = [pid.to_le_bytes(), uid.to_le_bytes(), gid.to_le_bytes()].concat();
            head.push(Control::Bytes {
                level: libc::SOL_SOCKET,
                kind: libc::SCM_CREDENTIALS,
                data,
            });
        }
        if passpidfd && let Some(c) = creds {
            head.push(Control::Pidfd(PidFd::open(args.task, &c.process, 0)));
        }
        head.append(&mut p.out.control);
        p.out.control = head;
    }
}
