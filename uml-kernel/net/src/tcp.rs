//! TCP (RFC 9293 and those it names): one connection as a state machine, and sockets around it.
//!
//! [`tcb::Tcb`] is a connection: segments, calls and moments in; segments and events out. It knows no
//! addresses, locks or tables. Its parts by concern: `send` (data not yet acknowledged), `output` (what
//! may be sent), `input` (arriving segments), `ack` and `recovery` (acknowledgements, SACK, RACK, PRR),
//! `congestion` (CUBIC, Reno), `receive` (queues and windows), `timers`. Sequence numbers are kept
//! unwrapped in 64 bits ([`seq`]).

pub mod ack;
pub mod congestion;
pub mod info;
pub mod input;
pub mod output;
pub mod receive;
pub mod recovery;
pub mod rtt;
pub mod send;
pub mod seq;
pub mod tcb;
#[cfg(test)]
mod tests;
pub mod timers;

use uml_abi::Errno;
use uml_base::Events;

use crate::packet::Data;
use crate::wire::tcp::Tcp;

/// States of a connection, numbered as TCP_INFO and /proc/net/tcp do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Established = 1,
    SynSent = 2,
    SynRecv = 3,
    FinWait1 = 4,
    FinWait2 = 5,
    TimeWait = 6,
    Closed = 7,
    CloseWait = 8,
    LastAck = 9,
    Listen = 10,
    Closing = 11,
}

/// A segment to be sent: ports are filled in by the socket, the checksum by the device.
pub struct Segment {
    pub header: Tcp,
    pub data: Data,
    /// Cut the data into pieces of this size; 0 when it is one segment.
    pub gso: usize,
}

/// What a step of the machine produced.
#[derive(Default)]
pub struct Out {
    pub segments: Vec<Segment>,
    /// Readiness that may have changed.
    pub events: Events,
    /// Urgent data arrived: SIGURG.
    pub urgent: bool,
}

/// Bytes of the largest segment handed to a device that cuts it.
pub const GSO_MAX: usize = 65_535 - 128;

/// How a connection ended, when not by both sides' FIN.
pub type Failure = Option<Errno>;
