//! `/proc/kmsg`: the kernel log as syslog(2) SYSLOG_ACTION_READ gives it; a read consumes records.

use std::any::Any;
use std::sync::atomic::Ordering;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_base::{Events, PollRegistrar, klog};
use uml_core::file::{FileOps, Io};
use uml_core::io::Sink;
use uml_core::kernel::Kernel;
use uml_core::task::Cap;

use super::fs::Subject;
use crate::synth::{Regular, Spec};

pub fn file(s: &Subject) -> Spec {
    Spec::file(0, Kmsg(s.clone()))
}

struct Kmsg(Subject);

impl Regular for Kmsg {
    fn open(&self, _: u32) -> Result<Box<dyn FileOps>> {
        Ok(Box::new(Open(self.0.clone())))
    }
}

struct Open(Subject);

fn record(k: &Kernel) -> Option<klog::Record> {
    klog::read_from(k.syslog_seq.load(Ordering::SeqCst))
}

impl FileOps for Open {
    fn read(&self, io: &Io<'_>, _: &mut u64, dst: &mut dyn Sink) -> Result<usize> {
        io.task.require(Cap::Syslog)?;
        let k = io.task.kernel();
        let first = io.task.retry(
            klog::queue(),
            Events::READABLE,
            io.nonblock,
            None,
            "syslog_print",
            || record(&k).ok_or(EAGAIN),
        )?;
        let mut next = Some(first);
        let mut done = 0;
        while let Some(r) = next {
            let line = format!("<{}>{}\n", r.prio, klog::format(&r));
            if line.len() > dst.remaining() {
                // A buffer too small for one record gets what fits, as a whole record is consumed.
                if done == 0 {
                    let n = dst.remaining();
                    done = dst.put(&line.as_bytes()[..n])?;
                    k.syslog_seq.store(r.seq + 1, Ordering::SeqCst);
                }
                break;
            }
            done += dst.put(line.as_bytes())?;
            k.syslog_seq.store(r.seq + 1, Ordering::SeqCst);
            next = record(&k);
        }
        Ok(done)
    }

    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(r) = reg {
            r.register(klog::queue());
        }
        let pending = self.0.kernel.upgrade().is_some_and(|k| record(&k).is_some());
        Events::READABLE.when(pending)
    }

    fn pollable(&self) -> bool {
        true
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
