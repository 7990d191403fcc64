//! How much the guest, and whoever answers it, can make the router keep.

use uml_net::time::SEC;

/// TCP connections, those being made included.
pub const TCP: usize = 2048;
/// Guest ports with UDP traffic.
pub const UDP: usize = 1024;
/// Echo identifiers in use.
pub const PING: usize = 64;
/// Connections with large buffers; what is more gets small ones.
pub const LARGE: usize = 128;
/// Buffers of a connection in each direction, bytes.
pub const BUFFER_LARGE: usize = 1 << 20;
pub const BUFFER_SMALL: usize = 128 << 10;
/// Peers that may answer a UDP port of the guest.
pub const PEERS: usize = 64;
/// Questions to a name server that wait for an answer, per port of the guest, and their size.
pub const QUESTIONS: usize = 64;
pub const QUESTION: usize = 4096;
/// Hardware addresses learned.
pub const STATIONS: usize = 256;
/// DHCP leases.
pub const LEASES: usize = 64;
/// Packets that are not whole, and bytes of them.
pub const PARTIALS: usize = 64;
pub const PARTIAL_BYTES: usize = 1 << 20;
/// Datagrams read from one socket in a row.
pub const BATCH: usize = 64;

/// How long an unanswered and an answered UDP port, a question and an echo identifier are kept.
pub const UDP_UNANSWERED: u64 = 30 * SEC;
pub const UDP_ANSWERED: u64 = 180 * SEC;
pub const PING_IDLE: u64 = 60 * SEC;
/// How long pieces of a packet are kept.
pub const REASSEMBLY: u64 = 30 * SEC;
