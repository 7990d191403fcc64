//! `/proc/<pid>/mem`: the memory, at its own addresses.

use std::any::Any;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{FileOps, Io};
use uml_core::io::{Sink, Source};
use uml_mm::Mm;

use super::{AttachAccess, Target};
use crate::synth::{Regular, Spec};

/// Bytes moved at a time.
const CHUNK: usize = 64 * 1024;

pub fn file(t: &Target) -> Spec {
    Spec::file(0, Mem(t.clone())).access(Arc::new(AttachAccess::new(t)))
}

struct Mem(Target);

impl Regular for Mem {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let mm = self.0.task()?.mm().map(|m| Arc::downgrade(&m)).unwrap_or_default();
        Ok(Box::new(Open { mm }))
    }
}

/// Refers to the address space it was opened on: after an execve(2) it reads as empty.
struct Open {
    mm: Weak<Mm>,
}

impl FileOps for Open {
    fn read(&self, _: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut done = 0;
        while dst.remaining() > 0 {
            let mut buf = vec![0; dst.remaining().min(CHUNK)];
            let n = mm.read_foreign(*off, &mut buf);
            if n == 0 {
                return if done == 0 { Err(EIO) } else { Ok(done) };
            }
            let put = dst.put(&buf[..n])?;
            *off += put as u64;
            done += put;
            if put < n || n < buf.len() {
                break;
            }
        }
        Ok(done)
    }

    fn write(&self, _: &Io<'_>, off: &mut u64, src: &mut dyn Source) -> Result<usize> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        let mut done = 0;
        while src.remaining() > 0 {
            let mut buf = vec![0; src.remaining().min(CHUNK)];
            let got = src.take(&mut buf)?;
            let n = mm.poke(*off, &buf[..got]);
            src.untake(got - n);
            *off += n as u64;
            done += n;
            if n == 0 && done == 0 {
                return Err(EIO);
            }
            if n < buf.len() {
                break;
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
        // Positions are addresses: all 64 bits count.
        match whence {
            libc::SEEK_SET => Ok(off as u64),
            libc::SEEK_CUR => Ok(cur.wrapping_add(off as u64)),
            _ => Err(EINVAL),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
