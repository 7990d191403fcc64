//! Moving data between pipes and other files without the program's memory (splice(2), tee(2),
//! vmsplice(2)).

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::Events;
use uml_core::file::File;
use uml_core::io::{BufSource, Source, VecSink};
use uml_core::signal::SigInfo;
use uml_core::task::Task;

use super::buf::Buf;
use super::{CHUNK, PAGE, Pipe};

/// Where the other file of a splice is read or written.
pub enum Position<'a> {
    /// At its own position (or it has none).
    Own,
    /// At the caller's offset, which is advanced.
    At(&'a mut u64),
}

fn sigpipe<T>(task: &Task) -> Result<T> {
    task.send_signal(SigInfo::user(libc::SIGPIPE, task));
    Err(EPIPE)
}

impl Pipe {
    /// Waits until there is data: `Ok(false)` at end of file, `EAGAIN` with `nonblock`.
    fn wait_data(&self, task: &Task, nonblock: bool) -> Result<bool> {
        loop {
            {
                let inner = self.inner.lock();
                if inner.bytes > 0 {
                    return Ok(true);
                }
                if inner.writers == 0 {
                    return Ok(false);
                }
            }
            if nonblock {
                return Err(EAGAIN);
            }
            self.wait_readable(task)?;
        }
    }

    /// Waits until a slot is free: SIGPIPE and `EPIPE` without readers, `EAGAIN` with `nonblock`.
    fn wait_slot(&self, task: &Task, nonblock: bool) -> Result<()> {
        loop {
            {
                let inner = self.inner.lock();
                if inner.readers == 0 {
                    drop(inner);
                    return sigpipe(task);
                }
                if !inner.full() {
                    return Ok(());
                }
            }
            if nonblock {
                return Err(EAGAIN);
            }
            self.wait_writable(task)?;
        }
    }

    /// Takes up to `max` bytes off the front, as one buffer; the caller holds the reading side.
    fn take_front(&self, max: usize) -> Option<Buf> {
        let mut inner = self.inner.lock();
        let mut buf = inner.bufs.pop_front()?;
        let (out, freed) = if buf.len() <= max {
            let was_full = inner.full();
            inner.bytes -= buf.len();
            inner.used -= buf.slots();
            (buf, was_full && !inner.full())
        } else {
            let mut part = Buf::with_room(max, None);
            part.data[..max].copy_from_slice(&buf.bytes()[..max]);
            part.end = max;
            part.packet = buf.packet;
            let freed = self.consume(&mut inner, &mut buf, max);
            self.put_front(&mut inner, buf);
            (part, freed)
        };
        drop(inner);
        if freed {
            self.queue.wake_one(Events::WRITABLE);
        }
        Some(out)
    }

    /// Bytes that fit into free slots.
    fn room(&self) -> usize {
        self.inner.lock().room()
    }

    /// splice(2) from a pipe to a pipe: moves up to `len` bytes, at least one unless at end of file.
    pub fn splice_to_pipe(
        &self,
        to: &Pipe,
        task: &Task,
        len: usize,
        nonblock: bool,
    ) -> Result<usize> {
        loop {
            if !self.wait_data(task, nonblock)? {
                return Ok(0);
            }
            to.wait_slot(task, nonblock)?;
            let mut done = 0;
            // Reading side before writing side.
            let read = self.read_side.lock();
            let write = to.write_side.lock();
            while done < len {
                let room = to.room();
                if room == 0 {
                    break;
                }
                // A buffer may start inside a page and so need one slot more than its length says.
                let max = (len - done).min(if room > PAGE { room - PAGE } else { PAGE });
                let Some(buf) = self.take_front(max) else { break };
                let n = buf.len();
                let fits = buf.slots() * PAGE <= room;
                let buf = if fits { buf } else { compact(buf) };
                if to.push(buf).is_err() {
                    drop((read, write));
                    return if done > 0 { Ok(done) } else { sigpipe(task) };
                }
                done += n;
            }
            drop((read, write));
            if done > 0 {
                return Ok(done);
            }
        }
    }

    /// tee(2): copies up to `len` bytes to another pipe and leaves them here.
    pub fn tee(&self, to: &Pipe, task: &Task, len: usize, nonblock: bool) -> Result<usize> {
        loop {
            if !self.wait_data(task, nonblock)? {
                return Ok(0);
            }
            to.wait_slot(task, nonblock)?;
            let read = self.read_side.lock();
            let write = to.write_side.lock();
            let mut left = len;
            let mut room = to.room();
            let mut copies = Vec::new();
            {
                let inner = self.inner.lock();
                for b in &inner.bufs {
                    let n = b.len().min(left).min(room);
                    if n == 0 {
                        break;
                    }
                    let mut copy = Buf::with_room(n, None);
                    copy.data[..n].copy_from_slice(&b.bytes()[..n]);
                    copy.end = n;
                    copy.packet = b.packet;
                    left -= n;
                    room -= copy.slots() * PAGE;
                    copies.push(copy);
                }
            }
            let mut done = 0;
            for c in copies {
                let n = c.len();
                if to.push(c).is_err() {
                    drop((read, write));
                    return if done > 0 { Ok(done) } else { sigpipe(task) };
                }
                done += n;
            }
            drop((read, write));
            if done > 0 {
                return Ok(done);
            }
        }
    }

    /// splice(2) from a pipe to a file.
    pub fn splice_to_file(
        &self,
        file: &Arc<File>,
        mut pos: Position<'_>,
        task: &Task,
        len: usize,
        nonblock: bool,
    ) -> Result<usize> {
        let mut done = 0;
        while done < len {
            // Only the first byte is waited for.
            match self.wait_data(task, nonblock || done > 0) {
                Ok(true) => {}
                Ok(false) => break,
                Err(_) if done > 0 => break,
                Err(e) => return Err(e),
            }
            let Some(mut buf) = ({
                let _read = self.read_side.lock();
                self.take_front(len - done)
            }) else {
                continue;
            };
            // The file may sleep, so nothing is locked here; what it does not take goes back to the
            // front.
            let mut src = BufSource::new(buf.bytes());
            let wrote = match &mut pos {
                Position::Own => file.write(task, &mut src),
                Position::At(off) => file.write_at(task, **off, &mut src),
            };
            let n = *wrote.as_ref().unwrap_or(&0);
            if let Position::At(off) = &mut pos {
                **off += n as u64;
            }
            let whole = n == buf.len();
            buf.off += n;
            done += n;
            if !whole {
                self.give_back(buf);
            }
            match wrote {
                Err(e) if done == 0 => return Err(e),
                Ok(_) if whole => {}
                _ => break,
            }
        }
        Ok(done)
    }

    /// Puts the unused rest of a taken buffer back to the front.
    fn give_back(&self, buf: Buf) {
        let mut inner = self.inner.lock();
        inner.bytes += buf.len();
        inner.used += buf.slots();
        inner.bufs.push_front(buf);
        drop(inner);
        self.queue.wake_one(Events::READABLE);
    }

    /// splice(2) from a file to a pipe.
    pub fn splice_from_file(
        &self,
        file: &Arc<File>,
        mut pos: Position<'_>,
        task: &Task,
        len: usize,
        nonblock: bool,
    ) -> Result<usize> {
        self.wait_slot(task, nonblock)?;
        let want = len.min(self.room().max(PAGE)).min(CHUNK);
        let mut sink = VecSink::new(want);
        let n = match &mut pos {
            Position::Own => file.read(task, &mut sink)?,
            Position::At(off) => {
                let n = file.read_at(task, **off, &mut sink)?;
                **off += n as u64;
                n
            }
        };
        if n == 0 {
            return Ok(0);
        }
        let end = sink.data.len();
        sink.data.resize(end.next_multiple_of(PAGE), 0);
        let buf = Buf { data: sink.data.into_boxed_slice(), off: 0, end, packet: false };
        // Another writer may have filled the slots meanwhile; the pipe then exceeds its capacity
        // for a moment rather than losing bytes already taken from the file.
        let _write = self.write_side.lock();
        if self.push(buf).is_err() {
            drop(_write);
            return sigpipe(task);
        }
        Ok(end)
    }

    /// vmsplice(2) into the pipe: takes what fits of `src`, at least one byte.
    pub fn vmsplice(&self, src: &mut dyn Source, task: &Task, nonblock: bool) -> Result<usize> {
        let mut done = 0;
        while src.remaining() > 0 {
            if done == 0 {
                self.wait_slot(task, nonblock)?;
            }
            match self.write_some(src, false) {
                Ok(n) => done += n,
                Err(EAGAIN) if done == 0 => {}
                Err(EPIPE) if done == 0 => return sigpipe(task),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }
}

/// Moves a buffer's bytes to its start, so that it needs as few slots as its length allows.
fn compact(mut buf: Buf) -> Buf {
    let n = buf.len();
    buf.data.copy_within(buf.off..buf.end, 0);
    buf.off = 0;
    buf.end = n;
    buf
}
