//! What sendmsg(2) and recvmsg(2) carry besides data.

use std::sync::Arc;

use uml_abi::Result;
use uml_abi::errno::*;
use uml_core::file::File;
use uml_core::io::{Sink, Source};
use uml_core::task::Task;

use super::Address;

/// Arguments of a send.
pub struct SendArgs<'a> {
    pub task: &'a Task,
    pub data: &'a mut dyn Source,
    /// Destination; `None` for the connected peer.
    pub addr: Option<&'a [u8]>,
    /// Ancillary data as the program gave it.
    pub control: &'a [u8],
    /// MSG_* bits.
    pub flags: i32,
    pub nonblock: bool,
}

/// Arguments of a receive.
pub struct RecvArgs<'a> {
    pub task: &'a Task,
    pub data: &'a mut dyn Sink,
    pub flags: i32,
    pub nonblock: bool,
    /// The program has room for ancillary data.
    pub want_control: bool,
}

/// One item of received ancillary data.
pub enum Control {
    /// Bytes of a control message.
    Bytes { level: i32, kind: i32, data: Vec<u8> },
    /// SCM_RIGHTS: open files that become descriptors of the receiver.
    Rights(Vec<Arc<File>>),
    /// SCM_PIDFD: a file that becomes a descriptor.
    Pidfd(Arc<File>),
}

/// Outcome of a receive.
#[derive(Default)]
pub struct Received {
    /// Bytes; with MSG_TRUNC perhaps more than were stored.
    pub len: usize,
    /// MSG_TRUNC, MSG_EOR... to report.
    pub flags: i32,
    pub addr: Option<Address>,
    pub control: Vec<Control>,
}

/// Size of `struct cmsghdr`.
pub const CMSG_HEADER: usize = 16;

/// A control message within a buffer.
pub struct Cmsg<'a> {
    pub level: i32,
    pub kind: i32,
    pub data: &'a [u8],
}

/// Splits ancillary data (cmsg(3)); `EINVAL` for a header whose length is wrong.
pub fn parse_control(mut buf: &[u8]) -> Result<Vec<Cmsg<'_>>> {
    let mut out = Vec::new();
    while buf.len() >= CMSG_HEADER {
        let int = |at: usize| i32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]]);
        let mut len = [0; 8];
        len.copy_from_slice(&buf[..8]);
        let len = usize::try_from(u64::from_le_bytes(len)).map_err(|_| EINVAL)?;
        if len < CMSG_HEADER || len > buf.len() {
            return Err(EINVAL);
        }
        out.push(Cmsg { level: int(8), kind: int(12), data: &buf[CMSG_HEADER..len] });
        let next = len.next_multiple_of(8).min(buf.len());
        buf = &buf[next..];
    }
    Ok(out)
}
