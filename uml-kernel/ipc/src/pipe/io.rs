//! Reading and writing (pipe(7), "I/O on pipes and FIFOs").

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::file::Io;
use uml_core::io::{Sink, Source};
use uml_core::signal::SigInfo;
use uml_core::task::{Task, WaitKind};

use super::buf::Buf;
use super::{CHUNK, Inner, PAGE, Pipe};

impl Pipe {
    /// read(2): what is there, up to what `dst` takes; 0 at end of file.
    pub fn read(&self, io: &Io<'_>, dst: &mut dyn Sink) -> Result<usize> {
        if dst.remaining() == 0 {
            return Ok(0);
        }
        let mut waited = false;
        loop {
            match self.read_some(dst) {
                Err(EAGAIN) if !io.nonblock => {}
                other => {
                    if waited && self.inner.lock().bytes > 0 {
                        // The wake-up was for one reader; what is left is for the next.
                        self.queue.wake_one(Events::READABLE);
                    }
                    return other;
                }
            }
            waited = true;
            self.wait_readable(io.task)?;
        }
    }

    /// Sleeps until there is something to read or nobody will write.
    pub(super) fn wait_readable(&self, task: &Task) -> Result<()> {
        let ready = || {
            let inner = self.inner.lock();
            (inner.bytes > 0 || inner.writers == 0).then_some(())
        };
        let mask = Events::READABLE | Events::HUP;
        task.wait_exclusive(&self.queue, mask, WaitKind::Interruptible, None, "pipe_read", ready)?;
        Ok(())
    }

    /// Sleeps until there is a free slot or nobody will read.
    pub(super) fn wait_writable(&self, task: &Task) -> Result<()> {
        let ready = || {
            let inner = self.inner.lock();
            (!inner.full() || inner.readers == 0).then_some(())
        };
        let mask = Events::WRITABLE | Events::ERR;
        task.wait_exclusive(&self.queue, mask, WaitKind::Interruptible, None, "pipe_write", ready)?;
        Ok(())
    }

    /// Reads without sleeping: `EAGAIN` when empty with writers, 0 when empty without.
    fn read_some(&self, dst: &mut dyn Sink) -> Result<usize> {
        let _side = self.read_side.lock();
        let mut done = 0;
        let mut inner = self.inner.lock();
        loop {
            let Some(mut buf) = inner.bufs.pop_front() else {
                return if done > 0 || inner.writers == 0 { Ok(done) } else { Err(EAGAIN) };
            };
            let want = buf.len().min(dst.remaining());
            drop(inner);
            let mut got = dst.put(&buf.bytes()[..want]);
            if let Ok(n) = got
                && n < want
            {
                // A bad address: pages that could not be copied in full stay.
                let whole = (buf.off + n) / PAGE * PAGE;
                got = if whole > buf.off { Ok(whole - buf.off) } else { Err(EFAULT) };
            }
            let n = *got.as_ref().unwrap_or(&0);
            // A packet is gone with the first read, taken whole or not, unless nothing could
            // be copied at all.
            let packet = buf.packet;
            let eat = if packet && got.is_ok() { buf.len() } else { n };
            inner = self.inner.lock();
            let freed = self.consume(&mut inner, &mut buf, eat);
            self.put_front(&mut inner, buf);
            done += n;
            if freed {
                drop(inner);
                self.queue.wake_one(Events::WRITABLE);
                inner = self.inner.lock();
            }
            match got {
                Err(e) if done == 0 => return Err(e),
                Err(_) => return Ok(done),
                Ok(n) if n < want || packet || dst.remaining() == 0 => return Ok(done),
                Ok(_) => {}
            }
        }
    }

    /// Advances the front buffer, which the caller took off the queue, by `n` bytes. True when that
    /// made room in a full pipe.
    pub(super) fn consume(&self, inner: &mut Inner, buf: &mut Buf, n: usize) -> bool {
        let was_full = inner.full();
        let before = buf.slots();
        buf.off += n;
        inner.bytes -= n;
        inner.used -= before - buf.slots();
        was_full && !inner.full()
    }

    /// Puts the front buffer back, or keeps its memory when it is used up.
    pub(super) fn put_front(&self, inner: &mut Inner, buf: Buf) {
        if buf.len() > 0 {
            inner.bufs.push_front(buf);
        } else if inner.spare.as_ref().is_none_or(|s| s.len() < buf.data.len()) {
            inner.spare = Some(buf.data);
        }
    }

    /// write(2): all of `src`, sleeping for room unless `io.nonblock`; `packet` with O_DIRECT. SIGPIPE and
    /// `EPIPE` when nobody can read.
    pub fn write(&self, io: &Io<'_>, src: &mut dyn Source, packet: bool) -> Result<usize> {
        let mut done = 0;
        let mut waited = false;
        let result = loop {
            if src.remaining() == 0 {
                break Ok(());
            }
            match self.write_some(src, packet) {
                Ok(n) => {
                    done += n;
                    continue;
                }
                Err(EAGAIN) if !io.nonblock => {}
                Err(EPIPE) => {
                    io.task.send_signal(SigInfo::user(libc::SIGPIPE, io.task));
                    break Err(EPIPE);
                }
                Err(e) => break Err(e),
            }
            waited = true;
            if let Err(e) = self.wait_writable(io.task) {
                break Err(e);
            }
        };
        if waited && !self.inner.lock().full() {
            self.queue.wake_one(Events::WRITABLE);
        }
        match result {
            Err(e) if done == 0 => Err(e),
            _ => Ok(done),
        }
    }

    /// Writes what fits, at least one byte: `EAGAIN` when nothing does. A write of up to
    /// PIPE_BUF bytes goes in whole or not at all.
    pub(super) fn write_some(&self, src: &mut dyn Source, packet: bool) -> Result<usize> {
        let _side = self.write_side.lock();
        let total = src.remaining();
        let (room, merge, spare) = {
            let mut inner = self.inner.lock();
            if inner.readers == 0 {
                return Err(EPIPE);
            }
            let odd = total % PAGE;
            let tail = inner.bufs.back().map_or(0, Buf::tail_room);
            let merge = if !packet && odd != 0 && odd <= tail { odd } else { 0 };
            let room = inner.room();
            if merge == 0 && room == 0 {
                return Err(EAGAIN);
            }
            (room, merge, if merge == 0 { inner.spare.take() } else { None })
        };
        if merge > 0 {
            return self.write_merged(src, merge);
        }
        let want = total.min(room).min(if packet { PAGE } else { CHUNK });
        let mut buf = Buf::with_room(want, spare);
        let taken = src.take(&mut buf.data[..want]).and_then(|n| {
            // A page with a bad address in it is not sent, the pages before it are.
            let whole = if n < want { n / PAGE * PAGE } else { n };
            src.untake(n - whole);
            if whole == 0 { Err(EFAULT) } else { Ok(whole) }
        });
        let got = match taken {
            Ok(n) => n,
            Err(e) => {
                self.inner.lock().spare = Some(buf.data);
                return Err(e);
            }
        };
        buf.end = got;
        buf.packet = packet;
        self.push(buf)?;
        // After a fault part-way the next round finds the bad page and ends the write.
        Ok(got)
    }

    /// Appends `n` bytes to the last page.
    fn write_merged(&self, src: &mut dyn Source, n: usize) -> Result<usize> {
        let mut bytes = [0; PAGE];
        let got = src.take(&mut bytes[..n])?;
        if got < n {
            src.untake(got);
            return Err(EFAULT);
        }
        let mut inner = self.inner.lock();
        if inner.readers == 0 {
            src.untake(got);
            return Err(EPIPE);
        }
        let was_empty = inner.bytes == 0;
        match inner.bufs.back_mut() {
            Some(last) if last.tail_room() >= got => {
                last.data[last.end..last.end + got].copy_from_slice(&bytes[..got]);
                last.end += got;
            }
            // A reader took the page meanwhile; its slot is about to be free.
            _ => {
                let spare = inner.spare.take();
                let mut buf = Buf::with_room(got, spare);
                buf.data[..got].copy_from_slice(&bytes[..got]);
                buf.end = got;
                inner.used += buf.slots();
                inner.bufs.push_back(buf);
            }
        }
        inner.bytes += got;
        drop(inner);
        self.announce_data(was_empty);
        Ok(got)
    }

    /// Queues a filled buffer. The caller holds the writing side and saw room.
    pub(super) fn push(&self, buf: Buf) -> Result<()> {
        let mut inner = self.inner.lock();
        if inner.readers == 0 {
            return Err(EPIPE);
        }
        if buf.len() == 0 {
            return Ok(());
        }
        let was_empty = inner.bytes == 0;
        inner.bytes += buf.len();
        inner.used += buf.slots();
        inner.bufs.push_back(buf);
        drop(inner);
        self.announce_data(was_empty);
        Ok(())
    }
}
