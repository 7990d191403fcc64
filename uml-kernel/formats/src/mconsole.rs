//! The management console's datagrams (protocol version 2), for both ends.
//!
//! * [`Request`] – client to kernel; [`receive`] applies the kernel's checks
//!   in the protocol's order.
//! * [`Reply`] and [`split_reply`] – kernel to client, chained by `more`.
//! * [`Notification`] – kernel to a listener (`mconsole=notify:`).
//! * [`Command`] – the command table with its prefix rule.
//!
//! All numbers are in host byte order. See mconsole(7).

mod command;
mod notify;
mod reply;
mod request;

pub use command::{COMMANDS, Command, HELP, HELP_MORE, argument, log_text, lookup};
pub use notify::{Notification, NotificationKind, NotifyError};
pub use reply::{
    CAPTURE_CHUNK, REPLY_HEADER, REPLY_TEXT_MAX, Reply, ReplyAssembler, ReplyError, split_reply,
};
pub use request::{Received, Request, RequestError, receive};

/// Magic number of requests and notifications.
pub const MAGIC: u32 = 0xcafe_babe;
/// The protocol version spoken here.
pub const VERSION: u32 = 2;
/// Bytes of the data field; also the largest chunk of any text plus its NUL.
pub const MAX_DATA: usize = 512;
/// Sent without any header to clients that lack the magic number.
pub const VERSION_0_REPLY: &[u8; 63] =
    b"ERR Version 0 mconsole clients are not supported by this driver";

/// Host-order 32-bit field; bytes that are missing count as zero.
fn field(bytes: &[u8], at: usize) -> u32 {
    let mut raw = [0; 4];
    for (to, from) in raw.iter_mut().zip(bytes.iter().skip(at)) {
        *to = *from;
    }
    u32::from_ne_bytes(raw)
}
