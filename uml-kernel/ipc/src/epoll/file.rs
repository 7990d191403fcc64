//! The open file of an epoll instance.

use std::any::Any;
use std::sync::Arc;

use uml_abi::Result;
use uml_base::{Events, PollRegistrar};
use uml_core::file::FileOps;
use uml_core::ns::PidNs;

use super::Epoll;

/// What an epoll descriptor refers to.
pub struct EpollFile {
    pub(super) epoll: Arc<Epoll>,
}

impl Drop for EpollFile {
    fn drop(&mut self) {
        self.epoll.close();
    }
}

impl FileOps for EpollFile {
    fn poll(&self, reg: Option<&mut dyn PollRegistrar>) -> Events {
        if let Some(reg) = reg {
            reg.register(&self.epoll.queue);
        }
        Events::READABLE.when(self.epoll.has_ready())
    }

    fn pollable(&self) -> bool {
        true
    }

    fn seek(&self, cur: u64, _: i64, _: i32) -> Result<u64> {
        Ok(cur)
    }

    fn show_fdinfo(&self, _: &Arc<PidNs>, out: &mut Vec<u8>) {
        for e in self.epoll.entries() {
            let text = format!(
                "tfd: {:8} events: {:8x} data: {:16x}  pos:{} ino:{:x} sdev:{:x}\n",
                e.fd, e.mask, e.data, e.pos, e.ino, e.dev
            );
            out.extend_from_slice(text.as_bytes());
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
