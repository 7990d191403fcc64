//! `/proc/<pid>/pagemap` (proc_pid_pagemap(5)): for each page whether it is there, as the host has it. The guest's memory has no
//! page frame numbers; they are 0, as for programs without CAP_SYS_ADMIN.

use std::any::Any;
use std::sync::{Arc, Weak};

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::{FileOps, Io};
use uml_core::io::Sink;
use uml_mm::{Mm, PAGE};

use super::{AttachAccess, Target};
use crate::synth::{Regular, Spec};

/// Bytes of an entry.
const ENTRY: u64 = 8;
/// Entries read at a time.
const CHUNK: usize = 4096;

pub fn file(t: &Target) -> Spec {
    Spec::file(0o400, PageMap(t.clone())).access(Arc::new(AttachAccess::new(t)))
}

struct PageMap(Target);

impl Regular for PageMap {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        let mm = self.0.task()?.mm().map(|m| Arc::downgrade(&m)).unwrap_or_default();
        Ok(Box::new(Open { mm }))
    }
}

/// Refers to the address space it was opened on.
struct Open {
    mm: Weak<Mm>,
}

impl FileOps for Open {
    fn read(&self, _: &Io<'_>, off: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        let Some(mm) = self.mm.upgrade() else { return Ok(0) };
        // Whole entries only.
        if *off % ENTRY != 0 || dst.remaining() as u64 % ENTRY != 0 {
            return Err(EINVAL);
        }
        let end = mm.user_max() / PAGE;
        let mut done = 0;
        while dst.remaining() > 0 {
            let first = *off / ENTRY;
            let left = usize::try_from(end.saturating_sub(first)).unwrap_or(usize::MAX);
            let count = (dst.remaining() / ENTRY as usize).min(CHUNK).min(left);
            let got = uml_host::procinfo::pagemap(mm.space().host_pid(), first, count)?;
            if got.is_empty() {
                break;
            }
            let bytes: Vec<u8> = got.iter().flat_map(|e| e.to_le_bytes()).collect();
            let put = dst.put(&bytes)?;
            *off += put as u64;
            done += put;
            if put < bytes.len() {
                break;
            }
        }
        Ok(done)
    }

    fn seekable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, off: i64, whence: i32) -> Result<u64> {
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
